/** The workers' kit: publish a sync's events in one line each, and never let the sync suffer from them. */
import { Attempt } from "./attempt.js";
import { githubError } from "./errors.js";
import { unwatch, watch } from "./exits.js";
import { Link } from "./link.js";
import { Outbox } from "./outbox.js";
import { STOPPED } from "./vocabulary.js";

/** Milliseconds before the first new try, and at the most. */
const BACKOFF = [50, 2000];
/** Milliseconds that the end of a sync waits for Redis at most. */
const LEAVE = 2000;

/** What a sync's body is given: one line an event. Nothing here throws into the sync, and nothing waits. */
export class Operation {
  /** Aborted when the sync is to stop, where its queue says so. */
  signal;
  #attempt;
  #producer;
  #failed;

  constructor(attempt, producer, signal, failed) {
    this.#attempt = attempt;
    this.#producer = producer;
    this.signal = signal;
    this.#failed = failed ?? ((error) => attempt.fail(producer.standardError(error)));
  }

  /** Tells how far it is, 0-100; left out when it moved less than 5 points within a second. */
  progress(percent, message, options) {
    this.#producer.tell(() => this.#attempt.progress(percent, message, options?.step));
  }

  /** Tells of files changed on both sides; `strategy` is github_wins, local_wins or manual_review. */
  conflict(paths, options) {
    this.#producer.tell(() => this.#attempt.conflict(paths, options));
  }

  /** Tells the end now, for a sync that handles its errors itself. */
  failed(error) {
    this.#producer.tell(() => this.#failed(error));
  }

  /** What `completed` will say: filesChanged, insertions, deletions, commitSha, prUrl, branchName. */
  result(members) {
    this.#producer.tell(() => this.#attempt.result(members));
  }
}

/** Publishes to one stream, by a connection of its own that is made like the client it is given. */
export class Producer {
  log;
  leaving = false; // the process ends: nothing new is begun
  until = 0; // and not before: a queue still writes what it was told, ms
  #outbox;
  #link;
  #classify;
  #patience;
  #flush;
  #open = new Map(); // attempts that have not ended: how each is stopped
  #away = null; // since when Redis can't be reached, ms
  #sending = false;
  #delay = BACKOFF[0];
  #changed = bell();

  /** See index.d.ts for the options. */
  constructor(redis, options = {}) {
    const { stream = "github:sync:events", trim = {}, limit = 10_000, patience = 2000, flush = 5000 } = options;
    this.log = options.log ?? console;
    this.#classify = options.classify ?? githubError;
    this.#patience = patience;
    this.#flush = flush;
    this.#link = new Link(redis, stream, { maxlen: 100_000, ...trim });
    const full = (dropped) => this.log.warn(`sync events: the outbox is full, ${dropped} dropped so far`);
    this.#outbox = new Outbox(limit, full);
  }

  /** Events that never reached Redis. */
  get dropped() {
    return this.#outbox.dropped;
  }

  /** Whether something is open or unsent. */
  get busy() {
    return this.#open.size > 0 || this.#outbox.size > 0;
  }

  /**
   * One sync: `body` is given its Operation, and its value is returned. Publishes `started` before it and the terminal event
   * after it, exactly once, waits for Redis to take that (2 s at most), and lets any error go on.
   */
  async operation(operationId, projectId, sync, body) {
    const { attempt, operation } = this.begin({ ...sync, operationId, projectId });
    try {
      const value = await body(operation);
      this.tell(() => attempt.complete());
      return value;
    } catch (error) {
      this.tell(() => attempt.fail(this.standardError(error)));
      throw error;
    } finally {
      await this.settle(attempt);
    }
  }

  /** Ends every open operation, and waits until that is in Redis, 2 s at most. For a program's own signal handler. */
  async onExit(leaving = true) {
    this.leaving = leaving;
    const open = [...this.#open], late = sleep(LEAVE / 2, { keep: true });
    await Promise.race([Promise.allSettled(open.map(([, { stop }]) => stop())), late]);
    late.stop();
    for (const [attempt, { end }] of open) {
      end();
      this.#open.delete(attempt);
    }
    await this.#sent(() => this.#outbox.size === 0, LEAVE / 2);
    if (this.until > Date.now()) await sleep(this.until - Date.now(), { keep: true });
    this.#giveUp();
  }

  /** The same where nothing asynchronous runs any more. */
  onExitSync() {
    for (const { end } of this.#open.values()) end();
    const left = this.#outbox.batch(Infinity);
    if (left.length && this.#link.sendSync(left.map(([, { fields }]) => fields))) {
      for (const [number] of left) this.#outbox.remove(number);
    }
    this.#giveUp();
  }

  /** Waits at most `flush` ms for what is still to be sent; the rest is counted and logged. */
  async close() {
    await this.#sent(() => this.#outbox.size === 0, this.#flush);
    this.#giveUp();
    this.#link.close();
    if (!this.busy) unwatch(this);
  }

  /**
   * For the queues' own forms of `operation`. `end` tells at once the end of one that its process doesn't live to see, `stop`
   * after what the queue has to do for it; `failed` takes what `op.failed` is given.
   */
  begin(sync, { abort, end, stop, failed } = {}) {
    const attempt = new Attempt(sync, (entry) => this.#emit(entry));
    const named = [sync.operationId, sync.projectId].filter((id) => id !== undefined && id !== null).length;
    const operation = new Operation(attempt, this, abort, failed);
    if (named < 2 || this.leaving) { // with neither it is a job that is none
      if (named === 1) this.log.error("sync events: nothing is told of a sync without operationId or projectId");
      attempt.forget();
      return { attempt, operation };
    }
    watch(this);
    end ??= () => this.tell(() => attempt.fail(STOPPED));
    this.#open.set(attempt, { end, stop: stop ?? end });
    this.tell(() => attempt.start());
    return { attempt, operation };
  }

  /** The failure of a sync that somebody else ran, or nobody. */
  verdict(sync, error) {
    this.tell(() => new Attempt(sync, (entry) => this.#emit(entry)).fail(error, false));
  }

  /** Makes an event, and logs what can't be made one: a sync never fails for its events. */
  tell(event) {
    try {
      event();
    } catch (error) {
      this.log.error("sync events: one could not be made, and is left out", error);
    }
  }

  /** What `classify` makes of an error. */
  standardError(error) {
    try {
      return { ...this.#classify(error) };
    } catch (odd) {
      this.log.error("sync events: an error could not be classified", odd);
      return { ...STOPPED, error: `The sync failed: ${error?.name}` };
    }
  }

  /** Waits until the end of an attempt is in Redis, for 2 s at most; not at all where Redis is away for longer. */
  async settle(attempt) {
    this.#open.delete(attempt);
    if (attempt.end === null) return;
    const left = this.#away === null ? LEAVE : this.#away + LEAVE - Date.now();
    await this.#sent(() => !this.#outbox.has(attempt.end), left);
  }

  #emit(entry) {
    const number = this.#outbox.add(entry);
    if (!this.#sending) {
      this.#sending = true;
      queueMicrotask(() => this.#send()); // all of one turn go together
    }
    return number;
  }

  async #send() {
    while (this.#outbox.size > 0) {
      const batch = this.#outbox.batch(), began = Date.now();
      const errors = await this.#link.send(batch.map(([, { fields }]) => fields), this.#patience);
      const error = errors.find((each) => each !== null);
      errors.forEach((each, at) => each === null && this.#outbox.remove(batch[at][0]));
      if (error && this.#away === null) this.log.warn(`sync events: they wait for Redis: ${error.message}`);
      this.#away = error ? this.#away ?? began : null;
      this.#changed.tell();
      if (!error) this.#delay = BACKOFF[0];
      else {
        await sleep(this.#delay * (0.5 + Math.random()), { keep: false });
        this.#delay = Math.min(this.#delay * 2, BACKOFF[1]);
      }
    }
    this.#sending = false;
  }

  /** Waits until `done()`, for `ms` at most. */
  async #sent(done, ms) {
    const late = sleep(ms, { keep: true });
    while (!done() && !late.over) await Promise.race([this.#changed.told(), late]);
    late.stop();
  }

  #giveUp() {
    if (this.#outbox.size > 0) {
      this.log.error(`sync events: ${this.#outbox.giveUp()} were not published, Redis is away`);
    }
  }
}

/** A promise of the next `tell()`. */
function bell() {
  let waiting = resolvers();
  return {
    told: () => waiting.promise,
    tell: () => {
      waiting.resolve();
      waiting = resolvers();
    },
  };
}

function resolvers() {
  let resolve;
  const promise = new Promise((done) => (resolve = done));
  return { promise, resolve };
}

/** Milliseconds; with `keep` the process lives for it. */
function sleep(ms, { keep }) {
  const { promise, resolve } = resolvers();
  const timer = setTimeout(() => {
    promise.over = true;
    resolve();
  }, Math.max(ms, 0));
  if (!keep) timer.unref();
  promise.stop = () => clearTimeout(timer);
  return promise;
}
