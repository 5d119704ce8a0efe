// Only has to compile: the types of the module and of the hook, used as a page would.
import { watch, type SyncEvent, type Status } from "github-sync-events";
import { bullmq, Producer } from "github-sync-events/producer";
import { Queue, Worker, type Job } from "bullmq6"; // 5 is what the README's worker is compiled with
import { Redis } from "ioredis";
import { createClient } from "redis";
import { useGitHubSync } from "github-sync-events/react";

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

export const kit = new Producer(createClient());
export const value: Promise<number> = kit.operation("op", "p", { direction: "to_github" }, (op) => (op.progress(1, "x"), 5));
export const syncs = bullmq(new Producer(new Redis()), { sync: (job) => ({ operationId: job.id, projectId: "p", direction: "to_github" }) });
export const worker = new Worker("syncs", syncs.processor(async (op, job: Job) => job.name));
syncs.watch(new Queue("syncs"));
