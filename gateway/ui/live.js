// The live page: every operation that the caller may see, as rows. All text goes in as text, never as markup.
import { isTerminal, watch } from "./watch.js";

const $ = (id) => document.getElementById(id);
const RECENT = 30, EVENTS = 200;
const rows = new Map(); // operationId -> { row, state }
const query = new URLSearchParams(location.search);

const token = query.get("access_token") ?? undefined;
watch({ token, releaseHidden: 60_000, onEvent: take, onStatus: (status) => {
  $("light").dataset.status = status;
  $("light").textContent = status;
} });

$("project").value = query.get("project") ?? "";
$("project").addEventListener("input", () => {
  for (const each of rows.values()) filter(each);
});
setInterval(() => rows.forEach(paintTimes), 1000);

function take(event) {
  log(event);
  const each = rows.get(event.operationId) ?? add(event);
  const { state } = each;
  if (event.type === "operation_stalled") {
    state.stalled = event.silentFor;
  } else {
    if (event.type === "github_sync_started") Object.assign(state, { percent: 0, message: "Starting…", conflict: null, failure: null, result: null });
    state.stalled = null;
    state.began ??= Date.parse(event.timestamp);
    state.heard = Date.now();
    if (event.attempt !== undefined) state.attempt = event.attempts > 1 ? `attempt ${event.attempt} of ${event.attempts}` : "";
    if (event.percent !== undefined) state.percent = event.percent;
    if (event.message !== undefined && event.type === "github_sync_progress") state.message = event.message;
    if (event.conflicts) state.conflict = event;
    if (event.type === "github_sync_failed") state.failure = event;
    if (event.type === "github_sync_progress") state.failure = null;
    if (event.type === "github_sync_completed") Object.assign(state, { result: event, percent: 100, failure: null });
    state.ended = isTerminal(event) ? Date.parse(event.timestamp) : null;
  }
  paint(each);
  const list = state.ended ? $("recent") : $("running");
  if (each.row.parentElement !== list) list.prepend(each.row);
  if (state.ended || event.type === "github_sync_started") announce(event);
  while ($("recent").children.length > RECENT) {
    const last = $("recent").lastElementChild;
    rows.delete(last.dataset.operation);
    last.remove();
  }
}

function add(event) {
  const row = $("row").content.firstElementChild.cloneNode(true);
  row.dataset.operation = event.operationId;
  row.querySelector(".name").textContent = event.operationId;
  row.querySelector(".project").textContent = event.projectId;
  row.querySelector(".bar").setAttribute("aria-label", `Progress of ${event.operationId}`);
  const each = { row, state: { project: event.projectId, percent: 0, message: "" } };
  rows.set(event.operationId, each);
  filter(each);
  return each;
}

function paint(each) {
  const { row, state } = each;
  row.className = "operation" + (state.result ? " completed" : state.failure ? " failed" : state.stalled ? " stalled" : "");
  row.querySelector(".attempt").textContent = state.attempt ?? "";
  row.querySelector(".fill").style.width = `${Number(state.percent) || 0}%`;
  row.querySelector(".bar").setAttribute("aria-valuenow", Math.round(Number(state.percent) || 0));
  row.querySelector(".message").textContent = state.stalled
    ? `No word for ${Math.round(state.stalled / 60) || 1} min; it may have died` : state.result || state.failure ? "" : state.message;
  const conflict = row.querySelector(".conflict");
  conflict.hidden = !state.conflict;
  if (state.conflict) {
    const { conflicts, strategy, resolutionRequired } = state.conflict;
    conflict.querySelector("p").textContent = `${conflicts.length} files in conflict: ${resolutionRequired ? "needs review" : strategy}`;
    conflict.querySelector("ul").replaceChildren(...conflicts.slice(0, 50).map((path) => element("li", path)));
  }
  const failure = row.querySelector(".failure");
  failure.hidden = !state.failure;
  if (state.failure) {
    failure.querySelector("code").textContent = state.failure.error_code;
    failure.querySelector(".what").textContent = state.failure.message;
    link(failure.querySelector("a"), state.failure.recoveryUrl);
  }
  const result = row.querySelector(".result");
  result.hidden = !state.result;
  if (state.result) {
    const { filesChanged, insertions, deletions, commitSha, duration } = state.result;
    const lines = insertions === undefined ? "" : `, +${insertions} −${deletions ?? 0}`;
    const commit = commitSha ? `, ${String(commitSha).slice(0, 7)}` : "";
    result.querySelector("span").textContent = `${filesChanged} files${lines}${commit}, in ${(duration / 1000).toFixed(1)} s`;
    link(result.querySelector("a"), state.result.prUrl);
  }
  paintTimes(each);
}

function paintTimes({ row, state }) {
  const seconds = Math.max(0, Math.round(((state.ended ?? Date.now()) - state.began) / 1000));
  row.querySelector("time").textContent = Number.isFinite(seconds) ? `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}` : "";
  const { failure } = state;
  const left = failure?.retryable && failure.retryAfter ? Math.ceil(failure.retryAfter - (Date.now() - state.heard) / 1000) : 0;
  row.querySelector(".again").textContent = failure?.retryable ? (left > 0 ? `retry in ${left} s` : "retrying…") : "";
}

function filter({ row, state }) {
  row.hidden = !String(state.project).includes($("project").value.trim());
}

// Only http(s): a link out of an event may say anything.
function link(anchor, url) {
  anchor.hidden = !/^https?:\/\//i.test(url ?? "");
  if (!anchor.hidden) Object.assign(anchor, { href: url, rel: "noreferrer noopener", target: "_blank" });
}

function element(name, text) {
  return Object.assign(document.createElement(name), { textContent: text });
}

function announce(event) {
  const what = { github_sync_started: "started", github_sync_completed: "completed", github_sync_failed: "failed" }[event.type];
  $("announcer").textContent = `Sync ${String(event.operationId).slice(0, 60)} ${what}`;
}

function log(event) {
  const { type, id, ...data } = event;
  $("events").prepend(element("li", `${id ?? "—"} ${type} ${JSON.stringify(data).slice(0, 500)}`));
  while ($("events").children.length > EVENTS) $("events").lastElementChild.remove();
}
