/**
 * One attempt's events in order, throttled, and ended exactly once. Pure: no I/O, no clock of its own (times are given, in
 * milliseconds), no Redis. Nothing here throws into a sync.
 */
import { randomUUID } from "node:crypto";
import { clean, identifier, plain } from "./text.js";
import {
  ERROR_CODES, ID_MAX_LENGTH, LIST_MAX, MIN_POINTS, MIN_SECONDS, REQUIRED, ROOM, SIZES, TYPES,
} from "./vocabulary.js";

/**
 * The `seq` of every end: nothing of its run counts behind it, a second end neither, as a watch of the queue may tell
 * of a run that it can name too. There a failure that will be tried again leaves room for the end of that.
 */
const LAST_SEQ = 2 ** 31 - 1;

let numbers = 0;

export class Attempt {
  end = null; // the number of its terminal event
  #sync;
  #emit;
  #clock;
  #wall;
  #number = (numbers += 1);
  #run;
  #seq = 0;
  #began;
  #percent = null;
  #toldAt = 0;
  #told = 0;
  #result = {};
  #over = false;

  /**
   * `sync`: `{ operationId, projectId, direction, syncMode?, attempt?, attempts?, run? }`; `emit` takes events and answers
   * with their numbers.
   */
  constructor(sync, emit, clock = () => performance.now(), wall = () => Date.now()) {
    this.#sync = { ...sync, attempt: whole(sync.attempt), attempts: whole(sync.attempts) };
    this.#emit = emit;
    this.#clock = clock;
    this.#wall = wall;
    this.#run = sync.run ?? randomUUID();
    this.#began = clock();
  }

  get over() {
    return this.#over;
  }

  /** From here on it tells nothing: the sync is another's. */
  forget() {
    this.#over = true;
  }

  start() {
    this.#publish(TYPES.STARTED, { direction: this.#sync.direction, syncMode: this.#sync.syncMode });
  }

  progress(percent, message, step) {
    const given = Number(percent);
    percent = Math.max(Number.isFinite(given) ? Math.min(Math.max(given, 0), 100) : 0, this.#percent ?? 0);
    const now = this.#clock();
    const near = this.#percent !== null && percent - this.#told < MIN_POINTS && now - this.#toldAt < MIN_SECONDS * 1000;
    this.#percent = percent;
    if (near && (percent < 100 || this.#told >= 100)) return;
    this.#told = percent;
    this.#toldAt = now;
    this.#publish(TYPES.PROGRESS, {
      percent: Math.round(percent * 10) / 10,
      message: clean(message),
      currentStep: step === undefined || step === null ? undefined : clean(step),
    });
  }

  conflict(paths, options) {
    const { strategy, resolutionRequired = strategy === "manual_review", details } = options ?? {};
    const conflicts = [...paths].map(String);
    this.#publish(TYPES.CONFLICT, {
      conflicts, strategy, resolutionRequired, conflictDetails: details,
      ...(conflicts.length > LIST_MAX ? { conflictsTotal: conflicts.length } : {}),
    });
  }

  result(members) {
    Object.assign(this.#result, members);
  }

  complete() {
    const known = Object.entries(this.#result).filter(([, value]) => plain(value) !== null);
    this.#publish(TYPES.COMPLETED, {
      direction: this.#sync.direction, filesChanged: 0, ...Object.fromEntries(known),
      status: "success", duration: Math.round(this.#clock() - this.#began),
    });
  }

  /** `retryable` only where another attempt will come: nobody must wait for one that won't. */
  fail({ error, error_code, retryable, retryAfter, ...more }, again) {
    const { attempt, attempts } = this.#sync;
    again ??= attempt < attempts && retryable === true;
    this.#publish(TYPES.FAILED, {
      ...more,
      ...(again && Number.isFinite(retryAfter) && retryAfter >= 0 ? { retryAfter } : {}),
      message: clean(error || "The sync failed"),
      error_code: ERROR_CODES.includes(error_code) ? error_code : "UNKNOWN",
      retryable: again,
      status: "failed",
    });
  }

  #publish(type, members) {
    if (this.#over) return;
    const terminal = type === TYPES.COMPLETED || type === TYPES.FAILED;
    const { operationId, projectId, attempt, attempts, run } = this.#sync;
    const timestamp = new Date(this.#wall()).toISOString();
    this.#seq = terminal ? LAST_SEQ - (run !== undefined && members.retryable === true ? 1 : 0) : this.#seq + 1;
    const own = {
      operationId: identifier(operationId, ID_MAX_LENGTH), projectId: identifier(projectId, ID_MAX_LENGTH),
      timestamp, run: this.#run, seq: this.#seq, attempt, attempts,
    };
    const data = fitting(members, own, REQUIRED[type]);
    const fields = ["buildId", `github-${own.projectId}`, "type", type, "data", data, "timestamp", timestamp];
    this.#over = terminal;
    const number = this.#emit({ attempt: this.#number, type, terminal, fields });
    if (terminal) this.end = number;
  }
}

/** The event's JSON; of what is too large texts and lists are cut, then what isn't needed goes. */
function fitting(members, own, required) {
  for (const [texts, items] of SIZES) {
    const told = without(plain(without(members), texts, items));
    const text = JSON.stringify({ ...told, ...own });
    if (Buffer.byteLength(text) <= ROOM) return text;
  }
  const needed = Object.fromEntries(required.map((name) => [name, members[name]]));
  return JSON.stringify({ ...without(plain(without(needed), ...SIZES.at(-1))), ...own });
}

/** A count as queues give it, which may be text; nothing where it is none. */
function whole(number) {
  const counted = ["number", "bigint", "string"].includes(typeof number) ? Number(number) : NaN;
  return Number.isInteger(counted) && counted > 0 ? counted : undefined;
}

function without(members) {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined && value !== null));
}
