import type { Status, SyncCompleted, SyncConflict, SyncFailed, WatchOptions } from "./watch.js";

export interface GitHubSync {
  status: Status;
  percent: number;
  message: string;
  conflict: SyncConflict | null;
  error: SyncFailed | null;
  result: SyncCompleted | null;
  stalled: boolean;
  /** "Attempt 2 of 3", where the worker tells. */
  attempt: number | null;
  attempts: number | null;
}

/** Pass a `token` function that keeps its identity (useCallback), or the stream is opened anew at every render. */
export declare function useGitHubSync(
  operationId: string | null | undefined,
  options?: Pick<WatchOptions, "baseUrl" | "token" | "withCredentials" | "releaseHidden">,
): GitHubSync;
