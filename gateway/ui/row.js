// One sync as a row.
import { $, ago, clock, element, files, link } from "./dom.js";
import { NOTHING, retryAt } from "./sync.js";
import { explain } from "./words.js";

const FILES = 50;
const KEPT = { github_wins: "GitHub's version is kept", local_wins: "the local version is kept" };

export class Row {
  sync = NOTHING;
  state = "running";
  events = [];
  last = null; // the id of its newest event

  constructor(key, { operationId, projectId }, href) {
    Object.assign(this, { key, operationId, projectId });
    this.element = $("row").content.firstElementChild.cloneNode(true);
    this.element.dataset.operation = operationId;
    this.find = (selector) => this.element.querySelector(selector);
    this.find(".name").textContent = operationId;
    this.find(".project").textContent = projectId;
    this.find(".head").href = href;
    this.find(".bar").setAttribute("aria-label", `Progress of ${projectId}, ${operationId}`);
    [this.fill, this.percent, this.message, this.lasted, this.ago, this.again] = [".fill", ".percent", ".message", ".lasted", ".ago", ".again"].map(this.find);
  }

  /** Its place in its list: the newest first. */
  get order() {
    return Date.parse(this.sync.over ? this.sync.heard : this.sync.began ?? this.sync.heard);
  }

  paint(now, open) {
    const { sync } = this, { attempt, attempts, conflict, error, result } = sync;
    const percent = Math.round(Math.min(Math.max(sync.percent, 0), 100));
    this.state = stateOf(sync);
    this.element.className = `sync ${this.state}${open ? " open" : ""}`;
    this.find(".state").textContent = this.state;
    this.find(".attempt").textContent = attempts > 1 ? `attempt ${attempt} of ${attempts}` : "";
    this.fill.style.transform = `scaleX(${percent / 100})`;
    this.find(".bar").setAttribute("aria-valuenow", percent);
    this.percent.textContent = `${percent} %`;
    this.message.textContent = result || error ? "" : sync.message || "Starting…";
    this.#part(".conflict", conflict, (part) => {
      const { conflicts, resolutionRequired, strategy } = conflict;
      part.firstElementChild.textContent = `${files(conflicts.length)} in conflict: ${resolutionRequired ? "choose what to keep" : KEPT[strategy] ?? strategy}`;
      part.lastElementChild.replaceChildren(...conflicts.slice(0, FILES).map((path) => element("li", path)));
    });
    this.#part(".failure", error, () => {
      const { say, offer } = explain(error);
      this.find(".say").textContent = say;
      this.find(".failure code").textContent = error.error_code;
      this.find(".why").textContent = error.message === say ? "" : error.message;
      link(this.find(".failure a"), error.recoveryUrl, offer || "Recover");
    });
    this.#part(".result", result, () => {
      const { filesChanged, insertions, deletions, commitSha, prUrl } = result;
      const lines = insertions === undefined ? "" : `, +${insertions} −${deletions ?? 0}`;
      const commit = commitSha ? `, ${String(commitSha).slice(0, 7)}` : "";
      this.find(".result span").textContent = `${files(filesChanged)}${lines}${commit}`;
      link(this.find(".result a"), prUrl);
    });
    this.tick(now);
  }

  /** Shows what time alone changes. */
  tick(now) {
    const { began, heard, over, result } = this.sync;
    const since = Date.parse(began ?? heard), until = over ? Date.parse(heard) : now;
    this.lasted.textContent = clock(over && began === null ? result?.duration ?? 0 : until - since);
    this.ago.textContent = over ? ago(now - until) : "";
    const left = (retryAt(this.sync) ?? now) - now;
    this.again.textContent = this.state !== "retrying" ? "" : left > 0 ? `— again in ${clock(left)}` : "— trying again";
    if (this.state === "stalled") this.message.textContent = `No word for ${clock(now - Date.parse(heard))}; its worker may have died`;
  }

  #part(selector, what, fill) {
    const part = this.find(selector);
    part.hidden = !what;
    if (what) fill(part);
  }
}

function stateOf({ over, error, result, stalled, conflict }) {
  if (over) return result ? "completed" : "failed";
  if (stalled) return "stalled";
  if (error) return "retrying";
  return conflict?.resolutionRequired ? "conflict" : "running";
}
