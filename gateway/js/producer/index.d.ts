/** Types of the workers' kit. Clients and jobs are described by what is used of them: no library is imported. */

export type Direction = "to_github" | "from_github";
export type SyncMode = "protected_pr" | "hybrid" | "direct_commit";
export type ErrorCode =
  | "APP_NOT_INSTALLED" | "BRANCH_PROTECTED" | "NOT_FAST_FORWARD" | "REPO_ARCHIVED" | "FILE_TOO_LARGE"
  | "APP_UNINSTALLED" | "RATE_LIMIT" | "INVALID_INSTALLATION" | "INSUFFICIENT_PERMISSIONS"
  | "UPSTREAM_UNAVAILABLE" | "UNKNOWN";

export interface StandardError {
  error: string;
  error_code: ErrorCode;
  retryable: boolean;
  /** Seconds. */
  retryAfter?: number;
  recoveryUrl?: string;
  details?: { originalError?: string; step?: string; context?: unknown };
}

/** A client of ioredis, or of redis (node-redis), plain or cluster. The producer makes a connection of its own like it. */
export type RedisClient = { duplicate(...options: never[]): unknown } & (
  | { xadd(...words: never[]): unknown }
  | { xAdd(...words: never[]): unknown }
);

export interface ProducerOptions {
  /** The Redis stream: `github:sync:events`. */
  stream?: string;
  /** How XADD trims it: about `maxlen` entries (100,000; null: not), or those older than `maxAge` seconds. */
  trim?: { maxlen?: number | null; maxAge?: number };
  /** Events kept while Redis is away: 10,000. Superseded progress is dropped first, an end never. */
  limit?: number;
  /** Milliseconds that one sending may take: 2,000. Then the connection is thrown away for a new one. */
  patience?: number;
  /** Milliseconds that `close` waits: 5,000. */
  flush?: number;
  /** The standard error of what a sync threw: `githubError`. */
  classify?: (error: unknown) => StandardError;
  log?: { warn(message: string): void; error(message: string, error?: unknown): void };
}

export interface SyncOptions {
  direction: Direction;
  syncMode?: SyncMode;
  /** From 1, of `attempts` at most: without them no `failed` says that another attempt will come. */
  attempt?: number;
  attempts?: number;
}

export interface SyncResult {
  filesChanged?: number;
  insertions?: number;
  deletions?: number;
  commitSha?: string;
  prUrl?: string;
  branchName?: string;
}

export interface Operation {
  /** Aborted when the sync is to stop, where its queue says so. */
  readonly signal: AbortSignal | undefined;
  /** 0–100; left out when it moved less than 5 points within a second. */
  progress(percent: number, message: string, options?: { step?: string }): void;
  conflict(
    paths: Iterable<string>,
    options: {
      strategy: "github_wins" | "local_wins" | "manual_review";
      /** True for manual_review unless it is given. */
      resolutionRequired?: boolean;
      details?: { localCommitSha?: string; remoteCommitSha?: string; baseCommitSha?: string };
    },
  ): void;
  /** What `completed` will say. */
  result(members: SyncResult): void;
  /** Tells the end now, for a sync that handles its errors itself. */
  failed(error: unknown): void;
}

/** Publishes to one stream. Nothing here throws into a sync, and only its end waits for Redis: 2 s at most. */
export declare class Producer {
  constructor(redis: RedisClient, options?: ProducerOptions);
  /** Events that never reached Redis. */
  readonly dropped: number;
  /** One sync: `started`, what its body tells, and exactly one terminal event. Resolves with the body's value. */
  operation<T>(
    operationId: string, projectId: string, sync: SyncOptions, body: (op: Operation) => Promise<T> | T,
  ): Promise<T>;
  /** Ends every open operation, 2 s at most. Called by itself at SIGTERM, SIGINT and exit where the program has no handler. */
  onExit(): Promise<void>;
  close(): Promise<void>;
}

/** What is used of a job of BullMQ 5 or 6. */
export interface Job {
  id?: string;
  name: string;
  data: any;
}

export interface Sync {
  operationId: string;
  projectId: string;
  direction: Direction;
  syncMode?: SyncMode;
}

export interface QueueWatch {
  /** Looks now; resolved when that is done. */
  look(): Promise<void>;
  close(): Promise<void>;
}

export interface BullMQ {
  /** What `new Worker(name, …)` is given: tells of each attempt, and runs the body with BullMQ's own arguments behind `op`. */
  processor<J extends Job, R>(
    body: (op: Operation, job: J, token: string | undefined, signal: AbortSignal | undefined) => Promise<R>,
  ): (job: J, token?: string, signal?: any) => Promise<R>;
  /** Tells the ends that no worker tells: removed jobs, and those that stalled too often. `every`: ms, 2,000. */
  watch(queue: { readonly name: string; getJob(id: string): Promise<unknown> }, options?: { every?: number }): QueueWatch;
}

/**
 * BullMQ's half. `sync` says which sync a job is; without it the job's id is the operationId, and `projectId`, `direction`,
 * `syncMode` are members of its data.
 */
export declare function bullmq(producer: Producer, options?: { sync?: (job: any) => Partial<Sync> | undefined }): BullMQ;

/** The standard error of whatever a sync died of. Never throws; tokens are redacted. `now`: epoch seconds. */
export declare function githubError(
  error: unknown, options?: { baseUrl?: string; appSlug?: string; step?: string; now?: number },
): StandardError;

/** `text` without tokens, passwords in URLs, Authorization values, JWTs and PEM blocks. */
export declare function redact(text: string): string;
