/** The five events as a discriminated union, and what watch() takes and gives. */

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

/** `live`: connected and caught up, what you show is true. */
export type Status = "connecting" | "live" | "reconnecting" | "ended" | "refused";

export type GapReason = "trimmed" | "unknown" | "reset";

/** Events are gone that this page should have had; what there is now follows. */
export interface Gap {
  reason: GapReason;
  lastEventId: string;
}

export interface WatchOptions {
  /** One operation, of that project where both are named; or one project; with neither, everything that the caller may see. */
  operationId?: string;
  projectId?: string;
  /** Of a project or everything: how many of the operations that ended last are told too (0; up to 100). */
  ended?: number;
  /** The gateway's origin; empty for the page's own. */
  baseUrl?: string;
  /** A token, or what gives one: it is asked again at four fifths of a token's life, and when one was refused. */
  token?: string | (() => string | Promise<string>);
  /** Watchers of one `baseUrl` share a stream and the newest `token`, unless they name different accounts. */
  account?: string;
  /** Sends cookies to another origin. */
  withCredentials?: boolean;
  /** Milliseconds that the page may be hidden before its connection is released; 0 never. It resumes without loss. */
  releaseHidden?: number;
  onEvent?: (event: SyncEvent | OperationStalled) => void;
  /** `detail`: an HTTP status for `refused`; a gap's reason for `ended`, where nobody knows the operation any more; else why. */
  onStatus?: (status: Status, detail?: number | string) => void;
  onGap?: (gap: Gap) => void;
}

export interface Watcher {
  readonly status: Status;
  /** The time of day in milliseconds by the gateway's clock: for countdowns that no page's wrong clock spoils. */
  now(): number;
  close(): void;
}

export declare const EVENT_TYPES: readonly SyncEvent["type"][];
/** Throws a TypeError for an id that none can be. */
export declare function watch(options: WatchOptions): Watcher;
export declare function isTerminal(event: SyncEvent | OperationStalled): boolean;
export declare function compareIds(one: string, two: string): number;
