/** Types of watch.js: the five events as a discriminated union, and what watch() takes and gives. */

interface Common {
  /** The entry id; absent on advice. */
  id: string;
  operationId: string;
  projectId: string;
  timestamp: string;
  /** Of `attempts`, where the worker tells: "attempt 2 of 3". */
  attempt?: number;
  attempts?: number;
}

export type Direction = "to_github" | "from_github";

export type ErrorCode =
  | "APP_NOT_INSTALLED" | "BRANCH_PROTECTED" | "NOT_FAST_FORWARD" | "REPO_ARCHIVED" | "FILE_TOO_LARGE"
  | "APP_UNINSTALLED" | "RATE_LIMIT" | "INVALID_INSTALLATION" | "INSUFFICIENT_PERMISSIONS"
  | "UPSTREAM_UNAVAILABLE" | "UNKNOWN";

export interface SyncStarted extends Common {
  type: "github_sync_started";
  direction: Direction;
  syncMode?: "protected_pr" | "hybrid" | "direct_commit";
}

export interface SyncProgress extends Common {
  type: "github_sync_progress";
  message: string;
  /** 0–100; never falls within an attempt. */
  percent: number;
  currentStep?: string;
}

export interface SyncConflict extends Common {
  type: "github_sync_conflict";
  conflicts: string[];
  strategy: "github_wins" | "local_wins" | "manual_review";
  resolutionRequired: boolean;
  conflictDetails?: { localCommitSha?: string; remoteCommitSha?: string; baseCommitSha?: string };
}

export interface SyncCompleted extends Common {
  type: "github_sync_completed";
  status: "success";
  direction: Direction;
  filesChanged: number;
  insertions?: number;
  deletions?: number;
  commitSha?: string;
  prUrl?: string;
  branchName?: string;
  /** Milliseconds. */
  duration: number;
}

export interface SyncFailed extends Common {
  type: "github_sync_failed";
  status: "failed";
  error_code: ErrorCode;
  message: string;
  /** True: the worker tries again, the operation has not ended. */
  retryable: boolean;
  /** Seconds. */
  retryAfter?: number;
  recoveryUrl?: string;
  details?: { originalError?: string; step?: string; context?: unknown };
}

/** Advice, not an outcome: the next event of the operation takes it back. */
export interface OperationStalled {
  type: "operation_stalled";
  operationId: string;
  projectId: string;
  lastEventId: string;
  /** Seconds. */
  silentFor: number;
}

export type SyncEvent = SyncStarted | SyncProgress | SyncConflict | SyncCompleted | SyncFailed;

export type Status = "connecting" | "live" | "reconnecting" | "ended" | "refused";

export interface WatchOptions {
  /** One operation; or with projectId one project; with neither, everything that the caller may see. */
  operationId?: string;
  projectId?: string;
  /** The gateway's origin; empty for the page's own. */
  baseUrl?: string;
  /** A token, or what gives a fresh one: it is asked again whenever a stream is refused or its token expires. */
  token?: string | (() => string | Promise<string>);
  /** Sends cookies to another origin. */
  withCredentials?: boolean;
  /** Milliseconds that the page may be hidden before its connection is released; 0 never. It resumes without loss. */
  releaseHidden?: number;
  onEvent?: (event: SyncEvent | OperationStalled) => void;
  /** `detail` is an HTTP status for `refused`, a reason for `reconnecting`. */
  onStatus?: (status: Status, detail?: number | string) => void;
}

export interface Watcher {
  readonly status: Status | null;
  close(): void;
}

export declare const EVENT_TYPES: readonly SyncEvent["type"][];
export declare function watch(options: WatchOptions): Watcher;
export declare function isTerminal(event: SyncEvent | OperationStalled): boolean;
export declare function compareIds(one: string, two: string): -1 | 0 | 1;
