/**
 * BullMQ's half: every end of a job is a terminal event, and none twice.
 *
 * A worker tells the end of what it ran itself; a watch of the queue tells what no worker can: a job that was removed, one
 * that stalled too often. Both name the same run, so whichever comes second is left out by the gateway.
 */
import { createHash } from "node:crypto";
import { QueueWatch } from "./queue.js";
import { ERROR_CODES } from "./vocabulary.js";

/** The message by which BullMQ knows its RateLimitError. */
const RATE_LIMITED = "bullmq:rateLimitExceeded";
/** What BullMQ throws to put a job back: it goes on later. */
const PUT_BACK = new Set(["DelayedError", "WaitingError", "WaitingChildrenError"]);
const RESULT = ["filesChanged", "insertions", "deletions", "commitSha", "prUrl", "branchName"];
const WAITS = { error: "The job was put back into its queue and goes on later", error_code: "UNKNOWN" };
const HANDED_OVER = { error: "The worker was stopped, another one goes on", error_code: "UNKNOWN" };
/** ms until a job that is handed over is to be had again: the worker of a process that ends would be the first to take it. */
const HANDED_AFTER = 3000;
/** ms that BullMQ may need to write the end of a job whose end was told. */
const WRITTEN_AFTER = 200;
const CANCELLED = { error: "The sync was cancelled", error_code: "UNKNOWN" };

/** The sync that a job is, by the names that most have. Says once of each kind of job that it is none. */
function byNames({ id, name, data }, strange, log) {
  const { projectId, direction, syncMode } = data ?? {};
  if (projectId !== undefined) return { operationId: id, projectId, direction, syncMode };
  if (!strange.has(name) && strange.size < 100) {
    strange.add(name);
    log.warn(`sync events: nothing is told of jobs named ${name}: their data has no projectId; bullmq's option sync says of others`);
  }
}

/** See index.d.ts. `sync` says of a job `{ operationId, projectId, direction, syncMode? }`; nothing where it is none. */
export function bullmq(producer, { sync = byNames } = {}) {
  const strange = new Set(); // names of jobs that are no syncs
  const watches = new Set();
  const syncOf = (job) => {
    try {
      return { ...sync(job, strange, producer.log), run: runOf(job) };
    } catch (error) {
      if (!strange.has(job.name)) producer.log.error(`sync events: nothing is told of jobs named ${job.name}: sync() throws`, error);
      strange.add(job.name);
      return {};
    }
  };
  return {
    // Three parameters: by their number BullMQ knows that it shall make a signal.
    processor: (body) => async (job, token, signal) => {
      if (producer.leaving) {
        await handOver(job, token);
        throw Object.assign(new Error("the process ends"), { name: "DelayedError" });
      }
      for (const watch of watches) watch.begun(job);
      return new Run(producer, job, token, signal, syncOf(job)).of(body);
    },
    watch: (queue, { every = 2000 } = {}) => new QueueWatch(queue, producer, syncOf, every, watches),
  };
}

/** The name of a job's run: whoever knows the job knows it. */
function runOf({ queueQualifiedName, queueName, id, timestamp, attemptsStarted, processedOn }) {
  const words = [queueQualifiedName ?? queueName, id, timestamp, attemptsStarted ?? 0, processedOn ?? 0];
  return createHash("sha256").update(words.join("\n")).digest("hex").slice(0, 32);
}

/** Back into the queue, for another worker. */
function handOver(job, token) {
  return job.moveToDelayed?.(Date.now() + HANDED_AFTER, token);
}

/** One activation of a job by this worker. */
class Run {
  #producer;
  #job;
  #token;
  #signal;
  #attempt;
  #operation;
  #said; // the error that its body told by itself: it returns and is over, or throws, and BullMQ's rules hold

  constructor(producer, job, token, signal, named) {
    this.#producer = producer;
    this.#job = job;
    this.#token = token;
    this.#signal = signal;
    // A job that stalled has started once more than it has failed.
    const { attemptsStarted: attempt = job.attemptsMade + 1, attemptsMade, opts } = job;
    const attempts = attempt + Math.max(opts.attempts ?? 1, 1) - attemptsMade - 1;
    const begun = producer.begin({ ...named, attempt, attempts: Math.max(attempts, attempt) }, {
      abort: signal,
      end: () => this.#tell(HANDED_OVER, true),
      stop: () => this.#handOver(),
      failed: (error) => (this.#said = error ?? new Error("The sync failed")),
    });
    this.#attempt = begun.attempt;
    this.#operation = begun.operation;
  }

  async of(body) {
    try {
      const value = await body(this.#operation, this.#job, this.#token, this.#signal);
      if (await this.#isOurs()) {
        if (this.#said !== undefined) this.#tell(this.#producer.standardError(this.#said), false);
        else this.#producer.tell(() => {
          for (const name of RESULT) if (value?.[name] !== undefined) this.#attempt.result({ [name]: value[name] });
          this.#attempt.complete();
        });
      }
      return value;
    } catch (error) {
      if (await this.#isOurs(error)) await this.#failed(error ?? new Error("Nothing was thrown"));
      throw error;
    } finally {
      await this.#producer.settle(this.#attempt);
      this.#producer.until = Date.now() + WRITTEN_AFTER;
    }
  }

  async #failed(error) {
    if (PUT_BACK.has(error?.name)) return this.#tell(WAITS, true);
    if (error?.message === RATE_LIMITED) return this.#tell(this.#producer.standardError(error), true);
    const job = this.#job;
    const cancelled = this.#signal?.aborted === true;
    const told = cancelled ? CANCELLED : this.#producer.standardError(error);
    const named = ERROR_CODES.includes(told.error_code) && told.error_code !== "UNKNOWN";
    // To try again what GitHub will refuse again helps nobody.
    if (cancelled || (named && told.retryable !== true)) job.opts.attempts = job.attemptsMade + 1;
    const [again, delay] = await this.#retried(error);
    const after = again && told.retryAfter > 0 ? Math.max(told.retryAfter * 1000, delay) : delay;
    // What is told is what BullMQ will do, to the millisecond, whatever jitter its own delay has.
    if (again) job.opts.backoff = { type: "fixed", delay: after };
    return this.#tell(again && after > 0 ? { ...told, retryAfter: after / 1000 } : told, again);
  }

  #tell(error, again) {
    this.#producer.tell(() => this.#attempt.fail(error, again));
  }

  /** Whether BullMQ will try again, and after how many ms. */
  async #retried(error) {
    const job = this.#job;
    if (typeof job.shouldRetryJob === "function") return job.shouldRetryJob(error);
    return [job.attemptsMade + 1 < job.opts.attempts && !job.discarded && error?.name !== "UnrecoverableError", 0];
  }

  /** Whether the job is this worker's still; a process that stood still may have lost it. Extends the lock, if so. */
  async #isOurs(error) {
    const job = this.#job;
    if (this.#attempt.over || PUT_BACK.has(error?.name) || typeof job.extendLock !== "function") return true;
    try {
      if ((await job.extendLock(this.#token, job.queue?.opts?.lockDuration ?? 30_000)) !== 0) return true;
    } catch (problem) {
      if (!/closed/i.test(problem?.message)) return true; // Redis is away: it may be ours
    }
    this.#attempt.forget();
    return false;
  }

  async #handOver() {
    try {
      await handOver(this.#job, this.#token);
    } catch { /* another worker finds it when its lock has expired */ }
    this.#tell(HANDED_OVER, true);
  }
}
