// One operation in detail: its steps with their durations, its raw events.
import { $, clock, element, files } from "./dom.js";
import { eventOf, isTerminal, parsed } from "./events.js";
import { Parser } from "./parser.js";
import { explain } from "./words.js";

const SHOWN = 300;

export function hide() {
  $("detail").hidden = true;
}

export function show({ projectId, operationId, events, sync, state }, now) {
  $("detail").hidden = false;
  $("detail-title").textContent = projectId;
  const direction = { to_github: "to GitHub", from_github: "from GitHub" }[sync.direction] ?? "";
  document.querySelector("#detail .about").textContent = events.length ? `${operationId} · ${direction} · ${state}` : `${operationId}: nothing is known of it, or not any more`;
  $("steps").replaceChildren(...steps(events).map(({ name, className, began }, at, all) => {
    const line = element("li", "", className), until = all[at + 1]?.began ?? now;
    line.append(element("span", name), ...(className === "end" || className === "attempt" ? [] : [element("time", clock(until - began))]));
    return line;
  }));
  $("events").replaceChildren(...events.slice(-SHOWN).reverse().map(({ type, id, ...data }) => {
    const line = element("li", `${id ?? "—"} `);
    line.append(element("b", type), ` ${JSON.stringify(data).slice(0, 2000)}`);
    return line;
  }));
}

/** What was done one after the other. A step is what `currentStep` says, else what a message says without its numbers. */
function steps(events) {
  const found = [];
  const add = (name, event, className = "") => found.push({ name, className, began: Date.parse(event.timestamp) });
  for (const event of events.filter((event) => event.id !== undefined)) {
    const { type } = event;
    if (type === "github_sync_started") {
      if (event.attempts > 1 || found.length) add(event.attempts > 1 ? `Attempt ${event.attempt} of ${event.attempts}` : "Begun again", event, "attempt");
      add("Starting", event);
    } else if (type === "github_sync_progress") {
      const name = String(event.currentStep ?? event.message ?? "").replace(event.currentStep ? "" : /[\s:,(]*\d.*$/s, "") || "Working";
      if (found.at(-1)?.name !== name) add(name, event);
    } else if (type === "github_sync_conflict") add(`${files(event.conflicts.length)} in conflict`, event);
    else if (type === "github_sync_completed") add("Completed", event, "end");
    else add(`${explain(event).say}${isTerminal(event) ? "" : ", waiting to try again"}`, event, isTerminal(event) ? "end" : "");
  }
  return found;
}

/** All its events that the gateway holds: a snapshot has only the newest of each kind. */
export async function held({ projectId, operationId }, token) {
  const events = [], abort = new AbortController(), parser = new Parser();
  const query = new URLSearchParams({ projectId, lastEventId: "earliest", follow: "true" });
  try {
    const response = await fetch(`api/operations/${encodeURIComponent(operationId)}/stream?${query}`, {
      headers: { Accept: "text/event-stream, application/problem+json", ...(token && { Authorization: `Bearer ${token}` }) },
      signal: abort.signal,
    });
    if (response.status !== 200) return events;
    for (let reader = response.body.getReader(), read = await reader.read(); !read.done; read = await reader.read()) {
      for (const { type, id, data } of parser.push(read.value)) {
        if (type === "heartbeat" && id !== undefined) return events; // that was all
        const event = eventOf(type, id, parsed(data));
        if (event?.id !== undefined) events.push(event);
      }
    }
    return events;
  } catch {
    return events; // what the page was told is shown all the same
  } finally {
    abort.abort();
  }
}
