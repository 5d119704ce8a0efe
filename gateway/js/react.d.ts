import type { ListedSync, OperationState, ProjectState, Sync } from "./sync.js";
import type { Status, WatchOptions } from "./watch.js";

export interface Watched {
  /** `idle`: there is nothing to watch yet. */
  status: Status | "idle";
  /** Of `refused` the HTTP status, of `reconnecting` why. */
  detail: number | string | null;
}

export type HookOptions = Pick<WatchOptions, "baseUrl" | "token" | "account" | "withCredentials" | "releaseHidden">;

/** One sync; `idle` without an id. `initial`: what the gateway's state endpoint said on the server, for the first paint. */
export declare function useGitHubSync(
  operationId: string | null | undefined,
  options?: HookOptions & { projectId?: string; initial?: OperationState | null },
): Sync & Watched;

/** The syncs of a project (of everything without one, none while it is null) that run, and the last that ended (20). */
export declare function useGitHubSyncs(
  options?: HookOptions & { projectId?: string | null; ended?: number; initial?: ProjectState | null },
): Watched & { syncs: readonly ListedSync[] };
