// Only has to compile: the types of the module and of the hook, used as a page would.
import { watch, type SyncEvent, type Status } from "../../../gateway/web/github-sync-events.js";
import { useGitHubSync } from "../../../gateway/web/react.js";

export function say(event: SyncEvent): string {
  switch (event.type) {
    case "github_sync_started": return event.direction;
    case "github_sync_progress": return `${event.percent.toFixed()} ${event.message}`;
    case "github_sync_conflict": return event.conflicts.join();
    case "github_sync_completed": return event.prUrl ?? `${event.filesChanged}`;
    case "github_sync_failed": return event.retryable ? `${event.retryAfter}` : event.error_code;
  }
}
export const states: Status[] = [];
export const watcher = watch({ operationId: "op", token: async () => "t", onStatus: (status) => states.push(status) });
export const bar = (id: string): number => useGitHubSync(id).percent;
