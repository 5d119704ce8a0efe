// The live page: every sync that the caller may see, and one of them in detail. Its address says what is shown.
import { held, hide, show } from "./detail.js";
import { $ } from "./dom.js";
import { compareIds, operationOf } from "./events.js";
import { Row } from "./row.js";
import { reduce } from "./sync.js";
import { watch } from "./watch.js";

const RECENT = 30, EVENTS = 500;
const rows = new Map(); // by operation
const dirty = new Set();
let unsure = new Set(); // of a gap: those of which the snapshot didn't tell yet
let open = null; // the operation in detail
let own = { close() {} }; // watches one in detail that isn't in the list

const query = new URLSearchParams(location.search), token = query.get("access_token") ?? undefined;
const watcher = watch({
  token, ended: RECENT, releaseHidden: 60_000, onEvent: take,
  onGap({ reason }) {
    unsure = new Set(rows.keys());
    if (reason !== "trimmed") for (const row of rows.values()) row.last = null;
  },
  onStatus(status, detail) {
    $("light").dataset.status = status;
    $("light").textContent = status === "refused" ? `refused (${detail})` : status;
    if (status !== "live") return;
    for (const key of unsure) remove(rows.get(key));
    unsure.clear();
  },
});

for (const id of ["project", "state"]) {
  $(id).value = query.get(id) ?? "";
  $(id).addEventListener("input", () => {
    history.replaceState(null, "", address({ [id]: $(id).value.trim() }));
    rows.forEach(filter);
  });
}
addEventListener("popstate", route);
addEventListener("keydown", (event) => event.key === "Escape" && open !== null && $("close").click());
addEventListener("click", (event) => { // links within the page load nothing
  const link = event.target.closest("a[href^='?']");
  if (!link || event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  history.pushState(null, "", link.getAttribute("href"));
  route();
});
$("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(new URL(address({ access_token: "" }), location).href);
  $("copy").textContent = "Copied";
  setTimeout(() => ($("copy").textContent = "Copy link"), 2000);
});
setInterval(() => rows.forEach((row) => row.tick(watcher.now())), 1000);
route();

function take(event) {
  const key = operationOf(event), row = rows.get(key) ?? add(key, event);
  if (event.id !== undefined) {
    unsure.delete(key);
    if (row.last !== null && compareIds(event.id, row.last) <= 0) return;
    row.last = event.id;
  }
  const before = row.events.at(-1);
  if (before?.type === event.type && event.id === undefined) row.events.pop(); // advice told again
  row.events.push(event);
  if (row.events.length > EVENTS) row.events.splice(1, 1); // its beginning stays
  row.sync = reduce(row.sync, event);
  announce(event);
  if (!dirty.size) requestAnimationFrame(paint);
  dirty.add(row);
}

function add(key, event) {
  const row = new Row(key, event, address({ of: event.projectId, operation: event.operationId }));
  rows.set(key, row);
  if (key === open) void complete(row);
  return row;
}

function remove(row) {
  row.element.remove();
  rows.delete(row.key);
  dirty.delete(row);
}

/** Shows what has changed since the last frame. */
function paint() {
  const now = watcher.now(), recent = $("recent");
  for (const row of dirty) {
    row.paint(now, row.key === open);
    place(row, row.sync.over ? recent : $("running"));
    filter(row);
    if (row.key === open) show(row, now);
  }
  dirty.clear();
  const over = [...rows.values()].filter((row) => row.sync.over && row.key !== open).sort((one, two) => two.order - one.order);
  over.slice(RECENT).forEach(remove);
  for (const list of [$("running"), recent]) list.previousElementSibling.querySelector(".count").textContent = list.children.length || "";
}

/** Into its list, the newest first. */
function place(row, list) {
  if (row.element.parentElement === list) return;
  row.element.order = row.order;
  list.insertBefore(row.element, [...list.children].find((each) => !(each.order > row.order)) ?? null);
}

function filter(row) {
  const project = $("project").value.trim(), state = $("state").value;
  row.element.hidden = !row.projectId.includes(project) || (state !== "" && row.state !== state);
}

/** The page's own address with some parameters changed; '' takes one out. */
function address(changes) {
  const next = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) value ? next.set(name, value) : next.delete(name);
  return `?${next}`;
}

/** Shows in detail what the address names. */
function route() {
  const { of: projectId, operation: operationId } = Object.fromEntries(new URLSearchParams(location.search));
  rows.get(open)?.element.classList.remove("open");
  own.close();
  open = operationId && projectId ? operationOf({ projectId, operationId }) : null;
  $("close").href = address({ of: "", operation: "" });
  if (open === null) {
    hide();
    return;
  }
  const row = rows.get(open);
  row?.element.classList.add("open");
  show(row ?? { projectId, operationId, events: [], sync: {} }, watcher.now());
  if (row) void complete(row);
  else own = watch({ operationId, projectId, token, onEvent: take });
}

/** Asks once for all the events of an operation that is shown in detail. */
async function complete(row) {
  if (row.complete) return;
  row.complete = true;
  const all = await held(row, token), newest = all.at(-1)?.id ?? "0-0";
  row.events = [...all, ...row.events.filter((event) => event.id === undefined || compareIds(event.id, newest) > 0)];
  if (open === row.key) show(row, watcher.now());
}

function announce(event) {
  const what = { github_sync_started: "started", github_sync_completed: "completed", github_sync_failed: "failed" }[event.type];
  if (what) $("announcer").textContent = `Sync of ${event.projectId.slice(0, 60)} ${what}`;
}
