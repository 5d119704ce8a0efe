/**
 * A gateway for unit tests: it answers `fetch` for `/api/…` with real event streams, in the page's own process.
 *
 *   const gateway = fakeGateway();                       // takes the place of globalThis.fetch
 *   gateway.started("op-1", { projectId: "p-1" });
 *   gateway.progress("op-1", { projectId: "p-1", percent: 40, message: "Pushing" });
 *   gateway.close();                                     // puts fetch back
 *
 * It keeps what the contract says of snapshots, replay, gaps, refusals and heartbeats, and can misbehave on demand.
 */
import { STALLED, compareIds, isTerminal, operationOf } from "./events.js";

const encoder = new TextEncoder();
const MINIMUM = {
  started: { direction: "to_github" },
  progress: { message: "Working", percent: 50 },
  conflict: { conflicts: ["README.md"], strategy: "manual_review", resolutionRequired: true },
  completed: { status: "success", direction: "to_github", filesChanged: 1, duration: 1000 },
  failed: { status: "failed", error_code: "UNKNOWN", message: "It broke", retryable: false },
};

/** See testing.d.ts. */
export function fakeGateway(options) {
  const gateway = new FakeGateway(options);
  const before = globalThis.fetch;
  globalThis.fetch = (url, init) => (`${url}`.includes("/api/") ? gateway.fetch(url, init) : before(url, init));
  gateway.close = () => {
    gateway.drop();
    globalThis.fetch = before;
  };
  return gateway;
}

export class FakeGateway {
  /** Every request: its path, its query as URLSearchParams, its headers. */
  requests = [];
  /** The streams that are open. */
  streams = new Set();
  #events = [];
  #floor = "0-0"; // the id that a stream can be resumed from at least
  #ids = new Set(["0-0"]); // all that it ever had
  #count = 0;
  #refusal = null;
  #every;
  #now;

  /** `every`: what heartbeats say of the milliseconds between them. `now`: the time of day in milliseconds. */
  constructor({ every = 15_000, now = Date.now } = {}) {
    this.#every = every;
    this.#now = now;
  }

  /** The events that it holds, as `watch` tells them. */
  get held() {
    return this.#events.map(({ type, id, data }) => ({ ...data, type, id }));
  }

  get newest() {
    return this.#events.at(-1)?.id ?? this.#floor;
  }

  started(operationId, data) {
    return this.publish("started", operationId, data);
  }

  progress(operationId, data) {
    return this.publish("progress", operationId, data);
  }

  conflict(operationId, data) {
    return this.publish("conflict", operationId, data);
  }

  completed(operationId, data) {
    return this.publish("completed", operationId, data);
  }

  failed(operationId, data) {
    return this.publish("failed", operationId, data);
  }

  /** Tells an event of an operation; `data` is laid over a minimum. Returns it. */
  publish(type, operationId, data = {}) {
    const now = this.#now(), id = `${now}-${++this.#count}`;
    const body = { operationId, projectId: "p-1", timestamp: new Date(now).toISOString(), ...MINIMUM[type], ...data };
    const event = { type: `github_sync_${type}`, id, data: body };
    this.#events.push(event);
    this.#ids.add(id);
    for (const stream of [...this.streams]) if (stream.wants(body)) stream.tell(event);
    return { ...body, type: event.type, id };
  }

  /** Says that an operation fell silent. */
  stalled(operationId, { projectId = "p-1", silentFor = 300 } = {}) {
    const data = { operationId, projectId, lastEventId: this.newest, silentFor };
    for (const stream of this.streams) if (stream.wants(data)) stream.write({ type: STALLED, data });
  }

  heartbeat() {
    for (const stream of this.streams) this.#beat(stream, this.newest);
  }

  /** Refuses whoever comes from now on; `refuse()` takes it back. */
  refuse(status = null, { retryAfter, outside } = {}) {
    this.#refusal = status === null ? null : { status, retryAfter, outside };
  }

  /** Closes every stream; its clients come back. */
  drop() {
    for (const stream of [...this.streams]) stream.end();
  }

  /** Cuts every stream in the middle of whatever it is. */
  cut() {
    for (const stream of [...this.streams]) stream.fail(new TypeError("network error"));
  }

  /** The path swallows what is sent on the streams that are open. */
  freeze() {
    for (const stream of this.streams) stream.frozen = true;
  }

  /** Forgets all but the newest `left` events: who comes back from before them is told of a gap. */
  trim(left = 0) {
    if (this.#events.length <= left) return;
    this.#floor = this.#events[this.#events.length - left - 1].id;
    this.#events = this.#events.slice(this.#events.length - left);
  }

  /** The stream is emptied and begins anew, as after a restore of Redis. */
  reset() {
    this.#events = [];
    this.#floor = "0-0";
    this.#ids = new Set(["0-0"]);
    for (const stream of this.streams) {
      stream.write({ type: "replay_gap", data: { lastEventId: stream.place, oldestId: null, reason: "reset" } });
      this.#snapshot(stream, null);
    }
  }

  /** As globalThis.fetch, of what `watch` needs of it. */
  async fetch(url, { headers = {}, signal } = {}) {
    await null;
    if (signal?.aborted) throw signal.reason;
    const [path, query] = `${url}`.slice(`${url}`.indexOf("/api/")).split("?");
    const request = { path, query: new URLSearchParams(query), headers, at: this.#now() };
    this.requests.push(request);
    if (this.#refusal) {
      const { status, retryAfter, outside } = this.#refusal;
      return answer(status, { "Retry-After": retryAfter }, null, { status, outside });
    }
    const stream = new Stream(request, () => this.streams.delete(stream));
    this.streams.add(stream);
    signal?.addEventListener("abort", () => stream.fail(signal.reason));
    this.#open(stream);
    return answer(200, { "Content-Type": "text/event-stream; charset=utf-8" }, stream);
  }

  #open(stream) {
    const { query } = stream.request, last = query.get("lastEventId");
    stream.write({ retry: 3000, type: "heartbeat", data: this.#time() });
    if (last === null) this.#snapshot(stream, null, Number(query.get("ended") ?? 0));
    else if (compareIds(last, this.#floor) < 0 || !this.#ids.has(last)) {
      const reason = this.#ids.has(last) ? "trimmed" : "unknown";
      stream.write({ type: "replay_gap", data: { lastEventId: last, oldestId: this.#events[0]?.id ?? null, reason } });
      this.#snapshot(stream, reason === "trimmed" ? last : null);
    } else {
      for (const event of this.#events) if (compareIds(event.id, last) > 0 && stream.wants(event.data)) stream.write(event);
      this.#beat(stream, this.newest);
    }
  }

  /** What runs, or ended after `since` (after a gap: null is all), or is among the last `ended`; a single operation's even so. */
  #snapshot(stream, since, ended = Infinity) {
    const attempts = new Map();
    for (const event of this.#events) {
      if (!stream.wants(event.data)) continue;
      const key = operationOf(event.data), kind = event.type;
      if (kind === "github_sync_started" || !attempts.has(key)) attempts.set(key, new Map());
      attempts.get(key).set(kind === "github_sync_failed" ? "github_sync_completed" : kind, event);
    }
    const newest = (attempt) => [...attempt.values()].sort((one, two) => compareIds(two.id, one.id))[0];
    const over = [...attempts.values()].filter((attempt) => isTerminal({ ...newest(attempt).data, type: newest(attempt).type }));
    over.sort((one, two) => compareIds(newest(two).id, newest(one).id));
    const left = stream.single ? [] : over.slice(ended).filter((each) => since === null || compareIds(newest(each).id, since) <= 0);
    const told = [...attempts.values()].filter((each) => !left.includes(each)).flatMap((each) => [...each.values()]);
    for (const event of told.sort((one, two) => compareIds(one.id, two.id))) stream.write(event);
    this.#beat(stream, this.newest);
  }

  #beat(stream, id) {
    stream.place = id;
    stream.write({ id, type: "heartbeat", data: this.#time() });
  }

  #time() {
    return { time: new Date(this.#now()).toISOString(), every: this.#every };
  }
}

/** The body of one answer. */
class Stream {
  frozen = false;
  place = "0-0";
  #chunks = [];
  #waiting = null;
  #over = null;

  constructor(request, onEnd) {
    this.request = request;
    this.onEnd = onEnd;
    const [, kind, id, stream] = request.path.split("/").slice(1).map(decodeURIComponent);
    this.single = kind === "operations" && stream === "stream";
    const { query } = request, projects = query.getAll("projectId");
    if (this.single) this.wants = (data) => data.operationId === id && (!projects.length || projects.includes(data.projectId));
    else {
      const operations = query.getAll("operationId");
      this.wants = (data) => (!projects.length && !operations.length) || projects.includes(data.projectId) || operations.includes(data.operationId);
    }
  }

  getReader() {
    return this;
  }

  tell(event) {
    this.write(event);
    this.place = event.id;
    if (this.single && isTerminal({ ...event.data, type: event.type })) this.end();
  }

  write({ id, type, data, retry }) {
    if (this.frozen || this.#over) return;
    const lines = [retry && `retry: ${retry}`, id && `id: ${id}`, `event: ${type}`, `data: ${JSON.stringify(data)}`];
    this.#chunks.push(encoder.encode(`${lines.filter(Boolean).join("\n")}\n\n`));
    this.#serve();
  }

  end() {
    this.#finish({ done: true, value: undefined });
  }

  fail(error) {
    this.#finish({ error });
  }

  read() {
    return new Promise((resolve, reject) => {
      this.#waiting = [resolve, reject];
      this.#serve();
    });
  }

  #finish(how) {
    this.#over ??= how;
    this.onEnd();
    this.#serve();
  }

  #serve() {
    if (!this.#waiting || (!this.#chunks.length && !this.#over)) return;
    const [resolve, reject] = this.#waiting;
    this.#waiting = null;
    if (this.#chunks.length) resolve({ done: false, value: this.#chunks.shift() });
    else if (this.#over.error) reject(this.#over.error);
    else resolve(this.#over);
  }
}

function answer(status, headers, body, problem) {
  return { status, ok: status === 200, headers: { get: (name) => headers[name] ?? null }, body, json: async () => problem };
}
