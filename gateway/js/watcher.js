/** One who watches: what it wants, how far it was told, and what it says to its owner. Pure but for those calls. */

import { compareIds, isTerminal, operationOf } from "./events.js";

export class Watcher {
  /** null, then connecting, live and reconnecting in turn, at last ended or refused. */
  status = null;
  /** The id up to which it was told everything; null: nothing yet, it needs a snapshot. */
  place = null;
  /** The gap that it was not told of yet: that comes with the snapshot that follows. */
  gap = null;
  /** The stream that it was on last: of those, one place tells where all are. */
  line = null;
  #running = new Set(); // projects in which its operation runs
  #known = false;

  constructor({ operationId, projectId, ended = 0, releaseHidden = 0, onEvent, onStatus, onGap }) {
    for (const [name, id] of Object.entries({ operationId, projectId })) {
      if (id !== undefined && (typeof id !== "string" || !/^[^\0-\x1f\x7f-\x9f]{1,256}$/u.test(id))) {
        throw new TypeError(`${name} must be a string of 1-256 characters, no control characters: ${JSON.stringify(id)}`);
      }
    }
    if (!Number.isInteger(ended) || ended < 0 || ended > 100) throw new TypeError("ended must be a whole number from 0 to 100");
    Object.assign(this, { operationId, projectId, ended, releaseHidden, onEvent, onStatus, onGap });
  }

  get isOver() {
    return this.status === "ended" || this.status === "refused";
  }

  wants(event) {
    return (this.operationId === undefined || event.operationId === this.operationId)
      && (this.projectId === undefined || event.projectId === this.projectId);
  }

  tell(status, detail) {
    if (this.isOver || this.status === status) return;
    this.status = status;
    this.#call(this.onStatus, status, detail);
  }

  /** Its stream is gone; another will come. */
  lose(why) {
    this.tell("reconnecting", why);
  }

  /** What it was told is not all: a snapshot follows. */
  miss({ reason, lastEventId }) {
    if (reason !== "trimmed") this.place = null; // ids of another stream
    this.lose(`replay_gap: ${reason}`);
    this.gap ??= { reason, lastEventId };
  }

  /** Takes an event of the stream unless it was told of it. */
  take(event) {
    this.#take(event);
    this.#end();
  }

  /** Takes what a snapshot holds: of what it watches at large, only what runs and the last that ended. */
  show(events) {
    const mine = events.filter((event) => this.wants(event)), { gap } = this;
    this.gap = null;
    if (gap !== null) this.#call(this.onGap, gap);
    if (gap !== null && this.#known && !mine.length && this.operationId !== undefined) {
      this.tell("ended", gap.reason); // nobody knows it any more
      return;
    }
    const told = gap === null && this.operationId === undefined ? recent(mine, this.ended) : mine;
    this.#running.clear();
    for (const event of told) this.#follow(event);
    for (const event of told) this.#take(event);
    this.#end();
  }

  /** It was told everything up to this id. */
  told(id) {
    if (this.place === null || compareIds(id, this.place) > 0) this.place = id;
    this.gap = null; // one that another stream told, and this one could go on
    this.tell("live");
  }

  #take(event) {
    if (this.isOver) return;
    if (event.id !== undefined) {
      if (this.place !== null && compareIds(event.id, this.place) <= 0) return;
      this.place = event.id;
      this.#follow(event);
    }
    this.#call(this.onEvent, event);
  }

  #follow(event) {
    if (event.id === undefined) return;
    this.#known = true;
    if (isTerminal(event)) this.#running.delete(event.projectId);
    else this.#running.add(event.projectId);
  }

  #end() {
    if (this.operationId !== undefined && this.#known && !this.#running.size) this.tell("ended");
  }

  #call(listener, ...given) {
    try {
      listener?.(...given);
    } catch (error) { // its owner's bug: the other watchers must not suffer from it
      (globalThis.reportError ?? console.error)(error);
    }
  }
}

/** A snapshot without the operations that have ended, but for the last so many. */
function recent(events, ended) {
  const last = new Map();
  for (const event of events) if (event.id !== undefined) last.set(operationOf(event), event);
  const ends = [...last.values()].filter(isTerminal).sort((one, two) => compareIds(two.id, one.id));
  const left = new Set(ends.slice(ended).map(operationOf));
  return events.filter((event) => !left.has(operationOf(event)));
}
