/**
 * Watches GitHub syncs through the SSE gateway. ES modules, no dependencies, no build step; importable on a server.
 *
 *   import { watch } from "github-sync-events";
 *   const watcher = watch({ operationId, onEvent: (event) => render(event), onStatus: (status) => light(status) });
 *   watcher.close();
 *
 * Here is what touches the world: requests, timers, the page. What is decided is decided in pool.js.
 */
import { EVENT_TYPES, compareIds, isTerminal } from "./events.js";
import { Pool } from "./pool.js";
import { Watcher } from "./watcher.js";

export { EVENT_TYPES, compareIds, isTerminal };

const pools = new Map(); // by what its watchers have in common
const CHECK = 5000; // milliseconds between two looks at the time: timers stand still while a machine sleeps
let spent = 0, monotonic = performance.now(), wall = Date.now();

/** Milliseconds that only grow, a machine's sleep included, which performance.now() may leave out. */
function clock() {
  const [now, day] = [performance.now(), Date.now()];
  spent += Math.max(now - monotonic, day - wall);
  [monotonic, wall] = [now, day];
  return spent;
}

/** See watch.d.ts for the options. */
export function watch(options) {
  const { baseUrl = "", withCredentials = false, token, account = typeof token === "string" ? token : "" } = options;
  const watcher = new Watcher(options);
  const key = JSON.stringify([baseUrl, withCredentials, account]);
  if (!pools.has(key)) {
    const add = open(baseUrl, withCredentials, () => pools.get(key) === add && pools.delete(key));
    pools.set(key, add);
  }
  return pools.get(key)(watcher, token);
}

/** A pool at work. Returns what adds a watcher to it. */
function open(baseUrl, withCredentials, onEmpty) {
  const aborts = new Map();
  let timer, soon = false;
  const pool = new Pool({
    open: (connection, request) => after(follow(connection, request)),
    close(connection) {
      aborts.get(connection)?.abort();
      aborts.delete(connection);
    },
    token: (source) => after(Promise.resolve().then(source).then(
      (value) => pool.token(value, clock(), Date.now()),
      (error) => pool.tokenFailed(error?.message, clock()),
    )),
  });

  async function follow(connection, { path, query, token }) {
    const abort = new AbortController();
    aborts.set(connection, abort);
    try {
      const response = await fetch(`${baseUrl}${path}?${query}`, {
        // Both: so that a refusal comes as what it is, not in EventSource's language.
        headers: { Accept: "text/event-stream, application/problem+json", ...(token && { Authorization: `Bearer ${token}` }) },
        credentials: withCredentials ? "include" : "same-origin",
        cache: "no-store",
        signal: abort.signal,
      });
      if (response.status !== 200) {
        const retryAfter = Number(response.headers.get("Retry-After")) || 0; // a date says less than the back-off knows
        const { outside } = response.status === 403 ? await response.json().catch(() => ({})) : {};
        pool.refused(connection, { status: response.status, retryAfter, outside }, clock());
        return;
      }
      if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) throw new Error("the answer is no event stream");
      pool.opened(connection, clock());
      const reader = response.body.getReader();
      for (let read = await reader.read(); !read.done; read = await reader.read()) {
        pool.bytes(connection, read.value, clock());
        plan();
      }
      pool.failed(connection, "closed", clock());
    } catch (error) {
      pool.failed(connection, error.message, clock());
    } finally {
      abort.abort(); // of an answer that nobody reads to its end
    }
  }

  function after(done) {
    done.then(plan);
  }

  /** Sets the timer for what is due next. */
  function plan() {
    clearTimeout(timer);
    if (!pool.watchers.size) {
      onEmpty();
      for (const [name, target] of events) target?.removeEventListener(name, seen);
      return;
    }
    const due = pool.due(clock()) - clock();
    timer = setTimeout(run, Math.min(Math.max(due, 0), CHECK));
  }

  function run() {
    pool.tick(clock());
    plan();
  }

  const seen = () => {
    pool.visible(globalThis.document?.visibilityState !== "hidden", clock());
    plan();
  };
  const events = [["visibilitychange", globalThis.document], ["online", globalThis.window], ["pageshow", globalThis.window]];
  for (const [name, target] of events) target?.addEventListener(name, seen);

  return (watcher, token) => {
    pool.add(watcher, token);
    if (!soon) { // all that a page asks for in one go share a request
      soon = true;
      queueMicrotask(() => {
        soon = false;
        run();
      });
    }
    return {
      get status() {
        return watcher.status;
      },
      now: () => pool.wall(clock()) ?? Date.now(),
      close() {
        pool.remove(watcher, clock());
        plan();
      },
    };
  };
}
