/** The events of a stream, and their ids. Pure. */

export const EVENT_TYPES = Object.freeze([
  "github_sync_started", "github_sync_progress", "github_sync_conflict", "github_sync_completed", "github_sync_failed",
]);
export const STALLED = "operation_stalled";

/** Whether an event ends its operation. */
export function isTerminal(event) {
  return event.type === "github_sync_completed" || (event.type === "github_sync_failed" && event.retryable !== true);
}

/** Compares entry ids (`ms-seq`) as the gateway does: negative, zero or positive. */
export function compareIds(one, two) {
  const [a, b] = [one.split("-"), two.split("-")];
  return compareNumbers(a[0], b[0]) || compareNumbers(a[1], b[1]);
}

// Decimal, without leading zeros, up to 2**64: more than a Number holds.
function compareNumbers(one, two) {
  return one.length - two.length || (one < two ? -1 : one > two ? 1 : 0);
}

/** A name for the operation of an event: the pair of its ids. */
export const operationOf = (event) => JSON.stringify([event.projectId, event.operationId]);

/** The object that a block's data is, null for anything else. */
export function parsed(text) {
  try {
    const data = JSON.parse(text);
    return typeof data === "object" ? data : null;
  } catch {
    return null;
  }
}

/** The event that a block tells, as its types say (what a worker wrote may be anything); null for a type not known here. */
export function eventOf(type, id, data) {
  if (type === STALLED) return { ...data, type };
  if (!EVENT_TYPES.includes(type)) return null;
  const event = { ...data, type, id };
  if (type === "github_sync_conflict" && !Array.isArray(data.conflicts)) event.conflicts = [data.conflicts ?? []].flat().map(String);
  return event;
}
