/**
 * Who watches what over which stream: two at most, one once things have settled. Pure: what happens and the time are
 * told to it (`add`, `opened`, `bytes`, `failed`, `tick`, …), what is to be done it asks of `outside`.
 *
 * New watchers get a stream of their own, for its snapshot; then one for all goes on from where both have come to. What
 * was told is known by its id: two streams may overlap, and nothing falls between. So do tokens change.
 */
import { ANSWER, Connection } from "./connection.js";
import { compareIds, eventOf, parsed } from "./events.js";
import { address, isEverything, isOutside, snapshot } from "./scope.js";
import { lifetime } from "./token.js";

const PACE = 1000; // milliseconds between two requests at least
const CEILING = 6000, CEILING_HIDDEN = 60_000; // of the back-off
const JOIN_MOST = 1000; // events that would come again are a reason to join two streams a little later
const FINAL = new Set([400, 403, 405, 406, 410, 414, 431]); // asking again won't help

export class Pool {
  watchers = new Set();
  main = null;
  next = null;
  #outside;
  #random;
  #source; // of tokens: text, or what gives it
  #token = { state: "none" }; // none, asked or held
  #denied = 0; // tokens that were refused in a row
  #failures = 0;
  #asked = -Infinity; // when the last request was sent
  #rest = -Infinity; // until when none is, after a failure
  #hidden = null; // since when
  #released = false;
  #ahead = null; // of `now`: the gateway's time of day
  #narrow = false; // the token grants single operations only

  /** `outside` has `open(connection, request)`, `close(connection)` and `token(source)`. */
  constructor(outside, random = Math.random) {
    this.#outside = outside;
    this.#random = random;
  }

  add(watcher, token) {
    this.watchers.add(watcher);
    if (token !== undefined) this.#source = token;
    watcher.tell("connecting");
  }

  remove(watcher, now) {
    watcher.tell("ended");
    this.#sweep();
    this.tick(now);
  }

  opened(connection, now) {
    if (!this.#has(connection)) return;
    connection.state = "catching up";
    connection.heard = now;
    this.#denied = 0;
  }

  bytes(connection, bytes, now) {
    if (!this.#has(connection)) return;
    connection.heard = now;
    for (const block of connection.parser.push(bytes)) {
      if (block.retry !== undefined) connection.retry = block.retry;
      this.#frame(connection, block, parsed(block.data), now);
      if (!this.#has(connection)) break;
    }
    this.tick(now);
  }

  /** It ended, or there was no answer. A clean end is no end of anything: the gateway goes away, or its token expired. */
  failed(connection, why, now) {
    this.#fail(connection, why, 0, now);
    this.tick(now);
  }

  /** It was answered with another status than 200. `outside`: the filters that the token doesn't grant. */
  refused(connection, { status, retryAfter = 0, outside = null }, now) {
    if (!this.#has(connection)) return;
    const watchers = [...connection.watchers.keys()];
    if (status === 204) for (const each of watchers) each.tell("ended");
    else if (status === 403 && outside !== null) {
      for (const each of watchers.filter((each) => isOutside(each, outside))) each.tell("refused", status);
      const whose = watchers.some((each) => each.isOver);
      if (whose || !this.#narrow) this.#drop(connection, `status ${status}`);
      this.#narrow ||= !whose; // whole projects are more than is granted
    }
    if (status === 401) {
      this.#token = { state: "none" };
      if (typeof this.#source !== "function" || ++this.#denied > 1) for (const each of watchers) each.tell("refused", status);
    } else if (FINAL.has(status) && this.#has(connection)) for (const each of watchers) each.tell("refused", status);
    this.#sweep();
    this.#fail(connection, `status ${status}`, retryAfter, now);
    this.tick(now);
  }

  /** What `outside.token` gave. `wall` is the time of day in milliseconds. */
  token(value, now, wall) {
    if (this.#token.state !== "asked") return;
    this.#token = { state: "held", value: value ?? undefined, renew: now + Math.max(lifetime(value, wall) * 0.8, PACE) };
    this.tick(now);
  }

  tokenFailed(why, now) {
    if (this.#token.state !== "asked") return;
    this.#token = { state: "none" };
    this.#backOff(0, now);
    for (const each of this.#waiting()) each.lose(`token: ${why}`);
    this.tick(now);
  }

  /** The time of day in milliseconds, by the gateway's clock; null before it told any. */
  wall(now) {
    return this.#ahead === null ? null : this.#ahead + now;
  }

  visible(is, now) {
    this.#hidden = is ? null : this.#hidden ?? now;
    if (is) {
      this.#released = false;
      this.#rest = now;
    }
    this.tick(now);
  }

  /** Does what is due. */
  tick(now) {
    for (const each of [this.main, this.next]) {
      if (each !== null && now >= each.deadline) this.#fail(each, "silence", 0, now);
    }
    if (this.#token.state === "asked" && now >= this.#token.asked + ANSWER) this.tokenFailed("no answer", now);
    if (now >= this.#release && !this.#released) {
      this.#released = true;
      for (const each of [this.main, this.next]) if (each !== null) this.#drop(each, "hidden");
    }
    const plan = this.#plan(now);
    if (plan !== null && now >= this.#free && this.#authorized(now)) this.#open(plan, now);
  }

  /** When `tick` is wanted next. */
  due(now) {
    const times = [this.main, this.next].flatMap((each) => each?.deadline ?? []);
    if (this.#token.state === "asked") times.push(this.#token.asked + ANSWER);
    else if (this.#plan(now) !== null) times.push(this.#free);
    else if (this.#token.state === "held" && this.main !== null) times.push(this.#token.renew);
    if (!this.#released) times.push(this.#release);
    return Math.min(...times);
  }

  get #free() {
    return Math.max(this.#asked + PACE, this.#rest);
  }

  get #release() {
    const waits = [...this.watchers].map((each) => each.releaseHidden);
    return this.#hidden !== null && waits.length && Math.min(...waits) > 0 ? this.#hidden + Math.max(...waits) : Infinity;
  }

  #has(connection) {
    return connection === this.main || connection === this.next;
  }

  #waiting() {
    return [...this.watchers].filter((each) => !this.main?.watchers.has(each) && !this.next?.watchers.has(each));
  }

  /** The watchers of the stream to open, null for none. Those of one have all been told something, or none of them. */
  #plan(now) {
    if (this.#released) return null;
    const { main, next } = this, waiting = this.#waiting();
    const lost = waiting.filter((each) => each.place !== null && each.line === waiting.find((one) => one.place !== null).line);
    if (main === null) return lost.length ? lost : snapshot(waiting);
    if (next === null) {
      if (lost.length) return lost;
      const renewed = this.#source !== undefined && main.token !== this.#held(now);
      return main.state === "live" && (renewed || (main.whole && !isEverything([...main.watchers.keys()], this.#narrow))) ? [...main.watchers.keys()] : snapshot(waiting);
    }
    if (main.state !== "live" || next.state !== "live") return null;
    const again = main.taken - main.mark + next.taken - next.mark;
    return waiting.length || again < JOIN_MOST ? [...main.watchers.keys(), ...next.watchers.keys()] : null;
  }

  #held(now) {
    if (typeof this.#source !== "function") return this.#source;
    return this.#token.state === "held" && now < this.#token.renew ? this.#token.value : null;
  }

  /** Whether there is a token to go with; asks for one where there is none. */
  #authorized(now) {
    if (this.#held(now) !== null) return true;
    if (this.#token.state !== "asked") {
      this.#token = { state: "asked", asked: now };
      this.#outside.token(this.#source);
    }
    return false;
  }

  #open(watchers, now) {
    if (this.next !== null) this.#leave(this.next); // its watchers go on in the one for all
    const places = watchers.map((each) => each.place);
    const place = places.includes(null) ? null : places.sort(compareIds)[0];
    const connection = new Connection(watchers, place, this.#held(now), now);
    connection.whole = isEverything(watchers, this.#narrow);
    for (const each of watchers) each.line = connection;
    this[this.main === null ? "main" : "next"] = connection;
    this.#asked = now;
    this.#outside.open(connection, { ...address(watchers, place, this.#narrow), token: connection.token });
  }

  #frame(connection, { type, id }, data, now) {
    if (data === null) return;
    if (type === "heartbeat") {
      if (Number.isFinite(data.every) && data.every > 0) connection.every = data.every;
      if (Date.parse(data.time) > 0) this.#ahead = Date.parse(data.time) - now;
      if (id !== undefined) this.#caughtUp(connection, id);
    } else if (type === "refused") this.#fail(connection, `status ${data.status}`, 0, now);
    else if (type === "replay_gap") this.#gap(connection, data);
    else {
      const event = eventOf(type, id, data);
      if (event === null) return;
      if (connection.held !== null) connection.held.push(event);
      else this.#deliver(connection, event);
    }
  }

  #deliver(connection, event) {
    const other = connection === this.main ? this.next : this.main;
    connection.taken += 1;
    if (event.id !== undefined && other !== null) other.mark = other.taken;
    for (const each of [...connection.watchers.keys()]) {
      // Advice has no id to know it again by: where two streams overlap, that of one counts.
      if (each.wants(event) && (event.id !== undefined || connection === this.main || !this.main.watchers.has(each))) each.take(event);
    }
    this.#sweep();
  }

  /** It was told everything up to `id`. */
  #caughtUp(connection, id) {
    const { held } = connection, other = connection === this.main ? this.next : this.main;
    connection.held = null;
    connection.state = "live";
    this.#failures = 0;
    if (other !== null) other.mark = other.taken;
    if (connection === this.next) {
      const main = [...this.main.watchers.keys()];
      if (main.every((each) => connection.watchers.has(each))) this.#leave(this.main);
      else if (main.some((each) => each.place !== null && compareIds(each.place, id) > 0)) {
        this.#drop(this.main, "beyond the newest"); // it may be of another stream, and be silent: they ask for themselves
      }
    }
    for (const [each, place] of [...connection.watchers]) {
      if (held === null && place !== connection.place && compareIds(place, id) > 0) {
        connection.watchers.delete(each); // its place was not looked at, and may be one of another stream: it asks for itself
        each.lose("beyond the newest");
        continue;
      }
      connection.watchers.set(each, connection.place);
      if (held !== null) each.show(held);
      each.told(id);
    }
    this.#sweep();
  }

  #gap(connection, data) {
    const other = connection === this.main ? this.next : this.main;
    if (other !== null && [...other.watchers.keys()].some((each) => connection.watchers.has(each))) this.#leave(other);
    connection.state = "catching up";
    connection.held = [];
    for (const each of connection.watchers.keys()) each.miss(data);
  }

  #fail(connection, why, retryAfter, now) {
    if (!this.#has(connection)) return;
    this.#drop(connection, why);
    this.#backOff(Math.max(retryAfter * 1000 || 0, connection.retry), now);
  }

  #backOff(asked, now) {
    const ceiling = this.#hidden === null ? CEILING : CEILING_HIDDEN, wait = Math.min(Math.max(asked, PACE * 2 ** this.#failures++), ceiling);
    this.#rest = now + Math.max(PACE, wait * (0.5 + this.#random() / 2));
  }

  #drop(connection, why) {
    this.#leave(connection);
    for (const each of connection.watchers.keys()) if (this.main?.state !== "live" || !this.main.watchers.has(each)) each.lose(why);
  }

  #leave(connection) {
    this.#outside.close(connection);
    if (connection === this.main) this.main = this.next;
    this.next = null;
  }

  #sweep() {
    for (const set of [this.watchers, this.main?.watchers, this.next?.watchers]) {
      if (set) for (const each of [...set.keys()]) if (each.isOver) set.delete(each);
    }
    for (const each of [this.next, this.main]) if (each !== null && !each.watchers.size) this.#leave(each);
  }
}
