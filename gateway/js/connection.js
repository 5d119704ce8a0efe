import { Parser } from "./parser.js";

/** Milliseconds for a token, or for an answer and its first frame. */
export const ANSWER = 10_000;
const SILENCE = 2.5; // heartbeats without a byte: the path is dead

/** One stream: `opening`, then `catching up` and `live` in turn. */
export class Connection {
  state = "opening";
  parser = new Parser();
  whole = false; // it brings everything
  every = null; // milliseconds between two heartbeats
  retry = 0; // what the gateway asked for
  taken = 0; // events so far
  mark = 0; // how many those were when the other stream's place moved last

  constructor(watchers, place, token, now) {
    this.watchers = new Map(watchers.map((each) => [each, each.place])); // with the place that each came with
    this.place = place;
    this.held = place === null ? [] : null; // of a snapshot, what came so far
    this.token = token;
    this.heard = now;
  }

  /** When the path counts as dead. */
  get deadline() {
    return this.heard + (this.every === null ? ANSWER : this.every * SILENCE);
  }
}
