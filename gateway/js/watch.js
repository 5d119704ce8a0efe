/**
 * Watches GitHub syncs through the SSE gateway. One ES module, no dependencies, no build step.
 *
 *   import { watch } from "./watch.js";
 *   const watcher = watch({ operationId, onEvent: (event) => render(event), onStatus: (status) => light(status) });
 *   watcher.close();
 *
 * All watchers of a page that share `baseUrl` and `token` share one connection. Each gets every event of what it named
 * exactly once, in order, whatever happens to the connection: events are told apart by their ids.
 */

export const EVENT_TYPES = Object.freeze([
  "github_sync_started", "github_sync_progress", "github_sync_conflict", "github_sync_completed", "github_sync_failed",
]);
const SETTLE_MS = 1000; // how long a connection must have been open before it is joined with another
const BACKOFF_MS = [1000, 30000];

/** Whether an event ends its operation. */
export function isTerminal(event) {
  return event.type === "github_sync_completed" || (event.type === "github_sync_failed" && event.retryable !== true);
}

/** Compares entry ids (`ms-seq`) as the gateway does: negative, zero or positive. */
export function compareIds(one, two) {
  const [a, b] = [one, two].map((id) => id.split("-").map(BigInt));
  const difference = a[0] - b[0] || a[1] - b[1];
  return difference < 0n ? -1 : difference > 0n ? 1 : 0;
}

const pools = new Map(); // baseUrl -> token -> Pool

/** See watch.d.ts for the options. */
export function watch(options) {
  const { baseUrl = "", token = null } = options;
  if (!pools.has(baseUrl)) pools.set(baseUrl, new Map());
  const byToken = pools.get(baseUrl);
  if (!byToken.has(token)) byToken.set(token, new Pool(baseUrl, token, () => byToken.delete(token)));
  return byToken.get(token).add(new Watcher(options));
}

class Watcher {
  constructor({ operationId, projectId, onEvent = () => {}, onStatus = () => {}, withCredentials = false, releaseHidden = 0 }) {
    Object.assign(this, { operationId, projectId, onEvent, onStatus, withCredentials, releaseHidden });
    this.last = null;
    this.status = null;
    this.seen = false;
  }

  wants(event) {
    if (this.operationId !== undefined) return event.operationId === this.operationId;
    return this.projectId === undefined || event.projectId === this.projectId;
  }

  get filter() {
    if (this.operationId !== undefined) return ["operationId", this.operationId];
    return this.projectId === undefined ? null : ["projectId", this.projectId];
  }

  tell(status, detail) {
    if (this.status === status || this.status === "ended") return;
    this.status = status;
    this.onStatus(status, detail);
  }

  take(event) {
    if (event.id && this.last && compareIds(event.id, this.last) <= 0) return;
    if (event.id) this.last = event.id;
    this.seen = true;
    this.onEvent(event);
    if (this.operationId !== undefined && isTerminal(event)) this.tell("ended");
  }
}

/** The watchers of one gateway and one token source, on as few connections as can be: one, once things have settled. */
class Pool {
  constructor(baseUrl, token, onEmpty) {
    Object.assign(this, { baseUrl, token, onEmpty });
    this.connections = new Set();
    this.fresh = [];
    this.hiddenTimer = null;
    this.released = null;
    this.onVisibility = () => this.visibilityChanged();
    globalThis.document?.addEventListener("visibilitychange", this.onVisibility);
  }

  add(watcher) {
    watcher.close = () => this.remove(watcher);
    this.fresh.push(watcher);
    if (this.fresh.length === 1) queueMicrotask(() => this.openFresh());
    return watcher;
  }

  openFresh() {
    const watchers = this.fresh.splice(0);
    if (watchers.length) new Connection(this, watchers, null).open();
  }

  remove(watcher) {
    this.fresh = this.fresh.filter((other) => other !== watcher);
    watcher.tell("ended");
    for (const connection of this.connections) connection.remove(watcher);
    if (!this.connections.size && !this.fresh.length && !this.released) {
      globalThis.document?.removeEventListener("visibilitychange", this.onVisibility);
      this.onEmpty();
    }
  }

  /** Joins settled connections into one that goes on from the earliest place; watchers drop what they have seen. */
  join() {
    const settled = [...this.connections].filter((connection) => connection.settled && connection.place);
    if (settled.length < 2) return;
    const place = settled.map((connection) => connection.place).sort(compareIds)[0];
    const watchers = settled.flatMap((connection) => [...connection.watchers]);
    for (const connection of settled) connection.close();
    new Connection(this, watchers, place).open();
  }

  visibilityChanged() {
    clearTimeout(this.hiddenTimer);
    const hidden = document.visibilityState === "hidden";
    const waits = [...this.connections].flatMap((connection) => [...connection.watchers].map((watcher) => watcher.releaseHidden));
    if (hidden && waits.length && waits.every((wait) => wait > 0)) {
      this.hiddenTimer = setTimeout(() => {
        this.released = [...this.connections].map((connection) => [[...connection.watchers], connection.place]);
        for (const connection of this.connections) connection.close();
      }, Math.max(...waits));
    } else if (!hidden && this.released) {
      const released = this.released;
      this.released = null;
      for (const [watchers, place] of released) {
        const left = watchers.filter((watcher) => watcher.status !== "ended");
        if (left.length) new Connection(this, left, place).open();
      }
    }
  }
}

/** One EventSource and what is behind it: who listens, how far it got, and what to do when it is refused. */
class Connection {
  constructor(pool, watchers, place) {
    Object.assign(this, { pool, place });
    this.watchers = new Set(watchers);
    this.settled = false;
    this.failures = 0;
    pool.connections.add(this);
  }

  async open() {
    for (const watcher of this.watchers) watcher.tell(watcher.status ? "reconnecting" : "connecting");
    try {
      this.token = this.pool.token ? await (typeof this.pool.token === "function" ? this.pool.token() : this.pool.token) : null;
    } catch (error) {
      this.retry(error.message);
      return;
    }
    if (!this.pool.connections.has(this)) return;
    this.url = this.address("/api/projects/stream", [...this.watchers].map((watcher) => watcher.filter));
    const source = (this.source = new EventSource(this.place ? `${this.url}&lastEventId=${this.place}` : this.url, {
      withCredentials: [...this.watchers].some((watcher) => watcher.withCredentials),
    }));
    source.onopen = () => this.opened();
    source.onerror = () => this.failed();
    for (const type of EVENT_TYPES) source.addEventListener(type, (message) => this.took(message));
    source.addEventListener("operation_stalled", (message) => this.took(message));
    source.addEventListener("replay_gap", () => this.refresh([...this.watchers]));
  }

  /** A URL with the token and the filters; with any watcher of everything there are none. */
  address(path, filters) {
    const query = new URLSearchParams(filters.includes(null) ? [] : filters);
    if (this.token) query.set("access_token", this.token);
    return `${this.pool.baseUrl}${path}?${query}`;
  }

  took(message) {
    if (message.lastEventId) this.place = message.lastEventId;
    const event = { type: message.type, ...JSON.parse(message.data) };
    if (message.type !== "operation_stalled") event.id = message.lastEventId;
    for (const watcher of [...this.watchers]) {
      if (watcher.wants(event)) watcher.take(event);
      if (watcher.status === "ended") this.pool.remove(watcher);
    }
  }

  opened() {
    this.failures = 0;
    for (const watcher of this.watchers) watcher.tell("live");
    setTimeout(() => {
      this.settled = this.pool.connections.has(this);
      if (this.settled) this.pool.join();
    }, SETTLE_MS);
    // A union's snapshot leaves out what has ended: an operation that says nothing may be one of those.
    setTimeout(() => this.refresh([...this.watchers].filter((watcher) => !watcher.seen)), 100);
  }

  /** Asks for the state of operations, and gives it as an event where it is news. */
  async refresh(watchers) {
    for (const watcher of watchers.filter((watcher) => watcher.operationId !== undefined)) {
      const path = `/api/operations/${encodeURIComponent(watcher.operationId)}`;
      const response = await fetch(this.address(path, []), credentials(watcher)).catch(() => null);
      if (!response?.ok || !this.watchers.has(watcher)) continue;
      const { type, id, data } = await response.json();
      watcher.take({ type, id, ...data });
      if (watcher.status === "ended") this.pool.remove(watcher);
    }
  }

  async failed() {
    for (const watcher of this.watchers) watcher.tell("reconnecting");
    if (this.source.readyState !== EventSource.CLOSED) return; // it comes back by itself
    // EventSource doesn't say why it was refused: HEAD does.
    const response = await fetch(this.url, { method: "HEAD", ...credentials([...this.watchers][0]) }).catch(() => null);
    if (!this.pool.connections.has(this)) return;
    if (response?.status === 403 || response?.status === 400) await this.dropRefused();
    else if (response?.status === 401 && !(typeof this.pool.token === "function" && this.failures < 2)) this.refuse([...this.watchers], 401);
    if (this.watchers.size) this.retry(response ? `status ${response.status}` : "no answer", response?.headers.get("Retry-After"));
  }

  /** Of a union that is refused, finds the watchers that are not allowed, and goes on without them. */
  async dropRefused() {
    for (const watcher of [...this.watchers]) {
      const alone = this.address("/api/projects/stream", [watcher.filter]);
      const response = await fetch(alone, { method: "HEAD", ...credentials(watcher) }).catch(() => null);
      if (response && response.status >= 400 && response.status < 404) this.refuse([watcher], response.status);
    }
  }

  refuse(watchers, status) {
    for (const watcher of watchers) {
      watcher.tell("refused", status);
      this.remove(watcher);
    }
  }

  retry(why, retryAfter) {
    const wait = Math.min(BACKOFF_MS[0] * 2 ** this.failures, BACKOFF_MS[1]);
    const first = this.failures++ === 0 && why === "status 401"; // a token that expired is renewed at once
    for (const watcher of this.watchers) watcher.tell("reconnecting", why);
    this.timer = setTimeout(() => this.open(), retryAfter ? retryAfter * 1000 : first ? 0 : wait * (0.5 + Math.random()));
  }

  remove(watcher) {
    if (this.watchers.delete(watcher) && !this.watchers.size) this.close();
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    this.pool.connections.delete(this);
  }
}

function credentials(watcher) {
  return { credentials: watcher?.withCredentials ? "include" : "same-origin" };
}
