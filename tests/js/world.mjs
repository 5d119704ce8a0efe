// The core of the module and a fake gateway in virtual time.
import assert from "node:assert/strict";
import { compareIds, isTerminal } from "../../gateway/js/events.js";
import { Pool } from "../../gateway/js/pool.js";
import { FakeGateway } from "../../gateway/js/testing.js";
import { Watcher } from "../../gateway/js/watcher.js";

const BEGIN = 1_764_000_000_000;

function generator(seed) { // mulberry32
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export const settle = () => new Promise((resolve) => setImmediate(resolve));

export class World {
  now = 0;
  shift = 0;
  sent = []; // what was published
  watching = [];
  wrong = [];
  tokens = 0;
  requests = []; // when each was sent

  constructor(seed) {
    this.random = generator(seed);
    this.gateway = new FakeGateway({ now: () => BEGIN + this.shift + Math.round(this.now) });
    this.aborts = new Map();
    this.pool = new Pool({
      open: (connection, request) => this.open(connection, request),
      close: (connection) => this.aborts.get(connection)?.abort(),
      token: () => this.giveToken(),
    }, this.random);
    this.operations = new Map(); // key -> whether its attempt runs
    this.tokenMode = "good";
  }

  pick(list) {
    return list[Math.floor(this.random() * list.length)];
  }

  token() { // a JWT of 20 s
    const claims = Buffer.from(JSON.stringify({ iat: Math.floor((BEGIN + this.now) / 1000), exp: Math.floor((BEGIN + this.now) / 1000) + 20, n: ++this.tokens })).toString("base64url");
    return `e30.${claims}.x`;
  }

  async giveToken() {
    await null;
    if (this.tokenMode === "good") this.pool.token(this.token(), this.now, BEGIN + this.now);
    else if (this.tokenMode === "bad") this.pool.tokenFailed("no session", this.now);
  }

  async open(connection, { path, query }) {
    const abort = new AbortController();
    this.aborts.set(connection, abort);
    this.requests.push(this.now);
    try {
      const response = await this.gateway.fetch(`${path}?${query}`, { signal: abort.signal });
      if (response.status !== 200) {
        const { outside } = await response.json();
        this.pool.refused(connection, { status: response.status, retryAfter: Number(response.headers.get("Retry-After")) || 0, outside }, this.now);
        return;
      }
      this.pool.opened(connection, this.now);
      const reader = response.body.getReader();
      for (let read = await reader.read(); !read.done; read = await reader.read()) {
        const cut = Math.floor(this.random() * read.value.length); // bytes come cut anywhere
        this.pool.bytes(connection, read.value.subarray(0, cut), this.now);
        this.pool.bytes(connection, read.value.subarray(cut), this.now);
      }
      this.pool.failed(connection, "closed", this.now);
    } catch (error) {
      this.pool.failed(connection, error.message, this.now);
    }
  }

  /** A watcher that notes whatever is wrong with what it is told. */
  watch(options, token) {
    const seen = { options, events: [], statuses: [], gaps: 0, liveAt: null, order: null, epoch: 0 };
    seen.watcher = new Watcher({
      ...options,
      onEvent: (event) => {
        if (seen.over) this.wrong.push("an event after the end");
        if (!seen.watcher.wants(event)) this.wrong.push("an event of another");
        if (event.id !== undefined) {
          if (seen.order !== null && compareIds(event.id, seen.order) <= 0) this.wrong.push(`${event.id} after ${seen.order}`);
          seen.order = event.id;
          seen.events.push(event);
        }
      },
      onStatus: (status) => {
        seen.statuses.push(status);
        if (status === "live") seen.liveAt ??= this.sent.length;
        seen.over = status === "ended" || status === "refused";
      },
      onGap: ({ reason }) => {
        seen.gaps += 1;
        seen.liveAt = null;
        if (reason !== "trimmed") seen.order = null;
      },
    });
    this.pool.add(seen.watcher, token);
    this.pool.tick(this.now);
    this.watching.push(seen);
    return seen;
  }

  publish() {
    const projectId = this.pick(["p-1", "p-2"]), operationId = this.pick(["op-1", "op-2", "op-3"]);
    const key = `${projectId} ${operationId}`;
    const type = this.operations.get(key) ? this.pick(["progress", "progress", "progress", "conflict", "completed", "failed"]) : "started";
    const event = this.gateway.publish(type, operationId, { projectId, retryable: this.random() < 0.5 });
    this.operations.set(key, !isTerminal(event));
    this.sent.push(event);
  }

  /** Lets time pass, as the timers of the shell would. */
  async advance(ms) {
    for (const end = this.now + ms; this.now < end;) {
      this.now = Math.min(end, Math.max(this.now + 1, Math.min(this.pool.due(this.now), this.now + 500)));
      if (Math.floor(this.now / 15_000) > Math.floor((this.now - 500) / 15_000)) this.gateway.heartbeat();
      this.pool.tick(this.now);
      await settle();
      this.check();
    }
  }

  check() {
    assert.ok(this.gateway.streams.size <= 2, "more than two streams");
    for (let at = 1; at < this.requests.length; at++) {
      assert.ok(this.requests[at] - this.requests[at - 1] >= 999.99, `two requests within ${this.requests[at] - this.requests[at - 1]} ms`);
    }
    assert.deepEqual(this.wrong, []);
  }
}
