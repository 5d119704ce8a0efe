/** Events on their way to Redis: in order, bounded, the least missed dropped first. */
import { BATCH, TYPES } from "./vocabulary.js";

/**
 * At most `limit` events. Superseded progress goes first, then other progress, then conflicts, then `started`; a terminal
 * event never. `dropped` counts what went.
 */
export class Outbox {
  dropped = 0;
  #limit;
  #full; // told with the count, at 1, 2, 4, 8…
  #entries = new Map(); // in order, by number
  #number = 0;
  #sending = 0; // up to this number they may be on the wire
  #noted = 0; // since what is gone was forgotten
  #newest = new Map(); // the last progress of each attempt
  #victims = [[], [], [], []]; // superseded, progress, others, started

  constructor(limit, full = () => {}) {
    this.#limit = limit;
    this.#full = full;
  }

  get size() {
    return this.#entries.size;
  }

  has(number) {
    return this.#entries.has(number);
  }

  /** Takes an event `{ attempt, type, terminal, fields }`; its number. */
  add(entry) {
    const number = (this.#number += 1);
    const [superseded, progress, others, started] = this.#victims;
    this.#entries.set(number, entry);
    if (entry.type === TYPES.PROGRESS) {
      const before = this.#newest.get(entry.attempt);
      if (this.#entries.has(before)) superseded.push(before);
      this.#newest.set(entry.attempt, number);
      progress.push(number);
    } else if (entry.terminal) {
      this.#newest.delete(entry.attempt);
    } else {
      (entry.type === TYPES.STARTED ? started : others).push(number);
    }
    if (this.#entries.size > this.#limit) this.#dropOne();
    if ((this.#noted += 1) > 4 * this.#limit) this.#forget();
    return number;
  }

  /** The first events, as `[number, entry]`; they are not dropped any more. */
  batch(most = BATCH) {
    const found = [];
    for (const pair of this.#entries) {
      if (found.length === most) break;
      found.push(pair);
    }
    if (found.length) this.#sending = Math.max(this.#sending, found.at(-1)[0]);
    return found;
  }

  /** It was sent, or can't be. */
  remove(number) {
    this.#entries.delete(number);
  }

  /** Drops all; how many that were. */
  giveUp() {
    const lost = this.#entries.size;
    this.dropped += lost;
    for (const number of [...this.#entries.keys()]) this.remove(number);
    return lost;
  }

  /** Those that were sent are no victims any more; an outbox that is never empty would keep them for ever. */
  #forget() {
    this.#victims = this.#victims.map((victims) => victims.filter((number) => this.#entries.has(number)));
    this.#noted = 0;
  }

  #dropOne() {
    for (const victims of this.#victims) {
      while (victims.length) {
        const number = victims.shift();
        if (!this.#entries.has(number) || number <= this.#sending) continue;
        this.#entries.delete(number);
        this.dropped += 1;
        if ((this.dropped & (this.dropped - 1)) === 0) this.#full(this.dropped);
        return;
      }
    }
  }
}
