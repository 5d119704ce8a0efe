/** What a stream has to bring for those who watch it: its path and filters. Pure. */

const FILTERS_MOST = 64, LENGTH_MOST = 7000; // of one stream's filters, and of their text in a URL
const ENDED_MOST = 100;

/** Of those who wait, those whom one snapshot serves, null for none: first those of operations, whose end it tells too. */
export function snapshot(waiting) {
  const fresh = waiting.filter((each) => each.place === null), operations = fresh.filter((each) => each.operationId !== undefined);
  const batch = [];
  for (const each of operations.length ? operations : fresh) {
    batch.push(each);
    if (filters(batch) === null) {
      batch.pop();
      break;
    }
  }
  return batch.length ? batch : null;
}

/** Where a stream for these watchers is to be had. */
export function address(watchers, place, narrow) {
  const [first] = watchers, { operationId, projectId } = first;
  const query = new URLSearchParams(place === null ? [] : [["lastEventId", place]]);
  const single = operationId !== undefined && !/^\.\.?$/.test(operationId)
    && watchers.every((each) => each.operationId === operationId && each.projectId === projectId);
  if (single) {
    if (projectId !== undefined) query.set("projectId", projectId);
    return { path: `/api/operations/${encodeURIComponent(operationId)}/stream`, query: `${query}` };
  }
  // A union leaves out what has ended, unless it is asked.
  const ended = Math.max(...watchers.map((each) => (each.operationId === undefined ? each.ended : ENDED_MOST)));
  if (place === null && ended) query.set("ended", ended);
  return { path: "/api/projects/stream", query: [covering(watchers, narrow), query].filter((each) => `${each}`).join("&") };
}

/** Whether one stream for them has to bring everything. */
export function isEverything(watchers, narrow) {
  return `${covering(watchers, narrow)}` === "";
}

/** The filters of a stream that holds what they want: where theirs are too many, whole projects, unless those are more
 * than is granted (`narrow`), or everything, which is what is granted.
 */
function covering(watchers, narrow) {
  const wide = watchers.map((each) => (each.projectId === undefined || narrow ? each : { projectId: each.projectId }));
  return filters(watchers) ?? filters(wide) ?? new URLSearchParams();
}

/** Their filters, each once; null where they don't fit into one request. */
function filters(watchers) {
  if (watchers.some((each) => each.operationId === undefined && each.projectId === undefined)) return new URLSearchParams();
  const projects = new Set(watchers.filter((each) => each.operationId === undefined).map((each) => each.projectId));
  const operations = new Set(watchers.filter((each) => each.operationId !== undefined && !projects.has(each.projectId)).map((each) => each.operationId));
  const all = new URLSearchParams([...[...projects].map((id) => ["projectId", id]), ...[...operations].map((id) => ["operationId", id])]);
  return projects.size + operations.size <= FILTERS_MOST && `${all}`.length <= LENGTH_MOST ? all : null;
}

/** Whether it asks for what a token doesn't grant, as a problem's `outside` has it. */
export function isOutside(watcher, { projectId = [], operationId = [] }) {
  return watcher.operationId === undefined ? projectId.includes(watcher.projectId) : operationId.includes(watcher.operationId);
}
