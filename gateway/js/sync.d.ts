import type { Direction, OperationStalled, SyncCompleted, SyncConflict, SyncEvent, SyncFailed } from "./watch.js";

/** What a sync came to. */
export interface Sync {
  /** 0-100 */
  percent: number;
  message: string;
  /** The `currentStep` of its newest progress. */
  step: string | null;
  direction: Direction | null;
  conflict: SyncConflict | null;
  /** It failed: for good, or `retryable`. */
  error: SyncFailed | null;
  result: SyncCompleted | null;
  /** Nothing was heard of it for a while. */
  stalled: boolean;
  /** "Attempt 2 of 3", where the worker tells. */
  attempt: number | null;
  attempts: number | null;
  /** The timestamps of its `started` and of its newest event. */
  began: string | null;
  heard: string | null;
  /** It has ended. */
  over: boolean;
}

/** One of many. */
export interface ListedSync extends Sync {
  readonly key: string;
  operationId: string;
  projectId: string;
}

/** The answer of `GET /api/operations/{operationId}`. */
export interface OperationState {
  type: SyncEvent["type"];
  id: string;
  terminal: boolean;
  stalled: boolean;
  data: Record<string, unknown>;
}

/** The answer of `GET /api/projects/{projectId}/operations`. */
export interface ProjectState {
  id: string;
  operations: OperationState[];
}

export declare const NOTHING: Sync;
export declare function reduce<S extends Sync>(sync: S, event: SyncEvent | OperationStalled): S;
export declare function fromState(state: OperationState): Sync;

/** When it is tried again, in milliseconds of the gateway's clock (`watcher.now()`); null where that isn't known. */
export declare function retryAt(sync: Sync): number | null;

/** Many syncs: those that run, then the last that ended, each the newest first. */
export interface Syncs {
  readonly syncs: readonly ListedSync[];
}
export declare const NONE: Syncs;
export declare function reduceAll(all: Syncs, event: SyncEvent | OperationStalled, ended: number): Syncs;
export declare function fromStates(state: ProjectState, ended: number): Syncs;
/** At a gap: what is shown may be gone. */
export declare function unsure(all: Syncs): Syncs;
/** When `live` again: what wasn't told of anew is. */
export declare function sure(all: Syncs): Syncs;
