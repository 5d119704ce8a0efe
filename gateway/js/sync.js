/** What a sync came to, out of its events: pure reducers for whoever shows one, or many. */
import { STALLED, compareIds, isTerminal, operationOf } from "./events.js";

/** A sync of which nothing was heard. */
export const NOTHING = Object.freeze({
  percent: 0, message: "", step: null, direction: null, conflict: null, error: null, result: null, stalled: false,
  attempt: null, attempts: null, began: null, heard: null, over: false,
});

/** The sync after one more event. */
export function reduce(sync, event) {
  if (event.type === STALLED) return { ...sync, stalled: true };
  const { attempt = sync.attempt, attempts = sync.attempts } = event;
  const heard = { stalled: false, heard: event.timestamp ?? sync.heard, attempt, attempts, over: isTerminal(event) };
  switch (event.type) {
    case "github_sync_started":
      return { ...NOTHING, ...heard, direction: event.direction ?? null, began: heard.heard };
    case "github_sync_progress":
      return { ...sync, ...heard, error: null, percent: number(event.percent, sync.percent), message: text(event.message), step: event.currentStep ?? sync.step };
    case "github_sync_conflict":
      return { ...sync, ...heard, conflict: event };
    case "github_sync_completed":
      return { ...sync, ...heard, error: null, percent: 100, direction: event.direction ?? sync.direction, result: event };
    case "github_sync_failed":
      return { ...sync, ...heard, error: event };
    default:
      return sync;
  }
}

/** The sync as `GET /api/operations/{operationId}` tells it. */
export function fromState({ type, id, data, stalled }) {
  const event = { ...data, type, id };
  const before = { ...NOTHING, percent: number(data.percent, 0), message: text(data.message), step: data.currentStep ?? null, direction: data.direction ?? null };
  const sync = type === "github_sync_started" ? reduce(before, event) : reduce({ ...before, conflict: data.conflicts ? event : null }, event);
  return { ...sync, stalled };
}

/** When it is tried again, in milliseconds of the gateway's clock (`watcher.now()`); null where that isn't known. */
export function retryAt({ error }) {
  const at = error?.retryable === true ? Date.parse(error.timestamp) + error.retryAfter * 1000 : NaN;
  return Number.isFinite(at) ? at : null;
}

/** No sync yet, of many. `stale` are those that a gap left open, until a snapshot has told. */
export const NONE = Object.freeze({ syncs: Object.freeze([]), stale: null });

/** Many syncs, each with its ids, after one more event: those that run, then the last `ended`, each the newest first. */
export function reduceAll({ syncs, stale }, event, ended) {
  const key = operationOf(event), at = syncs.findIndex((each) => each.key === key);
  const before = at < 0 ? { ...NOTHING, key, operationId: event.operationId, projectId: event.projectId, id: null, first: event.id ?? null } : syncs[at];
  const after = { ...before, ...reduce(before, event), id: event.id ?? before.id };
  if (event.type === "github_sync_started") after.first = event.id;
  const others = at < 0 ? syncs : syncs.toSpliced(at, 1);
  return { syncs: sorted([...others, after], ended), stale: stale?.has(key) ? new Set([...stale].filter((each) => each !== key)) : stale };
}

/** As `GET /api/projects/{projectId}/operations` tells them. */
export function fromStates({ operations }, ended) {
  return { ...NONE, syncs: sorted(operations.map((state) => {
    const { operationId, projectId } = state.data;
    return { ...fromState(state), key: operationOf(state.data), operationId, projectId, id: state.id, first: state.id };
  }), ended) };
}

/** After a gap: whatever the snapshot doesn't tell of is gone. */
export function unsure({ syncs }) {
  return { syncs, stale: new Set(syncs.map((each) => each.key)) };
}

/** The snapshot is complete. */
export function sure({ syncs, stale }) {
  return { syncs: stale === null ? syncs : syncs.filter((each) => !stale.has(each.key)), stale: null };
}

function sorted(syncs, ended) {
  const newest = (by) => (one, two) => compareIds(two[by] ?? "0-0", one[by] ?? "0-0");
  const running = syncs.filter((each) => !each.over).sort(newest("first"));
  return [...running, ...syncs.filter((each) => each.over).sort(newest("id")).slice(0, ended)];
}

function number(value, otherwise) {
  return Number.isFinite(value) ? value : otherwise;
}

function text(value) {
  return typeof value === "string" ? value : "";
}
