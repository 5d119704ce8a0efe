import type { SyncCompleted, SyncConflict, SyncEvent, SyncFailed, SyncProgress, SyncStarted } from "./watch.js";

type Told<E> = Partial<Omit<E, "type" | "id" | "operationId">>;

export interface FakeGatewayOptions {
  /** What heartbeats say of the milliseconds between them; none is sent but by `heartbeat()`. */
  every?: number;
  /** The time of day, in milliseconds. */
  now?: () => number;
}

export interface FakeRequest {
  path: string;
  query: URLSearchParams;
  headers: Record<string, string>;
  at: number;
}

export declare class FakeGateway {
  constructor(options?: FakeGatewayOptions);
  readonly requests: FakeRequest[];
  /** The streams that are open. */
  readonly streams: ReadonlySet<unknown>;
  readonly held: readonly SyncEvent[];
  readonly newest: string;

  /** Each tells an event of the operation; the project is `p-1` unless `data` names another. */
  started(operationId: string, data?: Told<SyncStarted>): SyncStarted;
  progress(operationId: string, data?: Told<SyncProgress>): SyncProgress;
  conflict(operationId: string, data?: Told<SyncConflict>): SyncConflict;
  completed(operationId: string, data?: Told<SyncCompleted>): SyncCompleted;
  failed(operationId: string, data?: Told<SyncFailed>): SyncFailed;
  stalled(operationId: string, about?: { projectId?: string; silentFor?: number }): void;
  heartbeat(): void;

  /** Refuses whoever comes from now on; without a status, lets them in again. */
  refuse(status?: number, how?: { retryAfter?: string; outside?: { projectId: string[]; operationId: string[] } }): void;
  /** Closes every stream; its clients come back. */
  drop(): void;
  /** Cuts every stream. */
  cut(): void;
  /** The path swallows what is sent on the streams that are open. */
  freeze(): void;
  /** Forgets all but the newest `left` events: who comes back from before them is told of a gap. */
  trim(left?: number): void;
  /** The stream begins anew, and everybody is told. */
  reset(): void;
  fetch(url: string | URL, init?: { headers?: Record<string, string>; signal?: AbortSignal }): Promise<unknown>;
}

/** A fake gateway in the place of `globalThis.fetch`, for `/api/…`, until it is closed. */
export declare function fakeGateway(options?: FakeGatewayOptions): FakeGateway & { close(): void };
