/**
 * A watch of one BullMQ queue: tells the ends that no worker tells.
 *
 * BullMQ writes an event for most of what becomes of a job, by the same script that does it, and none where a queue is drained,
 * cleaned or obliterated. So every look reads those events, asks which of the jobs that it knows are still there, and reads
 * the events again: a job that is gone and of which no event said that it ended was removed. Watches in any number of
 * processes tell the same, and the gateway leaves all but the first out. A job that is gone can't be asked for its run,
 * and the one that a watch knows may be older: what is told of one that no worker ran has a name that all watches know.
 */
import { members } from "./link.js";

const OPEN = ["waiting", "active", "delayed", "prioritized", "paused", "waiting-children"];
const PAGE = 1000;
/** Keys that one look asks for at most; of more open jobs it takes several until all were looked at. */
const LOOKED = 20_000;
/** How many of a job's events were there to be read: the queue may have been obliterated, or they were trimmed. */
const [SOME, NEW, ALL] = [0, 1, 2];
/** What is told of a job that no worker runs then. */
const QUIET = ["added", "waiting", "delayed", "prioritized", "waiting-children"];
/** Why jobs fail that BullMQ itself ends, without their processor. */
const UNTOLD = /^(job (stalled|started) more than allowable limit|child .+ failed)$/s;
const REMOVED = { error: "The job was removed from its queue", error_code: "UNKNOWN" };

export class QueueWatch {
  #queue;
  #producer;
  #syncOf;
  #watches;
  #known = new Map(); // open jobs, by id: the sync of each
  #place = null; // the id of the last event read
  #timer;
  #looking = Promise.resolve();
  #asked = 0;
  #failing = false;

  /** `syncOf` makes of a job the sync that it is; `every` is how often it looks, ms; `watches` are those of its process. */
  constructor(queue, producer, syncOf, every, watches) {
    this.#queue = queue;
    this.#producer = producer;
    this.#syncOf = syncOf;
    this.#watches = watches.add(this);
    this.#timer = setInterval(() => this.look(), every);
    this.#timer.unref();
    this.look();
  }

  /** Looks now; resolved when that is done. */
  look() {
    this.#looking = this.#looking.then(() => this.#look()).then(
      () => (this.#failing = false),
      (error) => {
        if (!this.#failing) this.#producer.log.warn(`sync events: the queue can't be watched: ${error?.message}`);
        this.#failing = true;
      },
    );
    return this.#looking;
  }

  /** A worker of this process begins with a job, which may be gone before the next look. */
  begun(job) {
    if (this.#place !== null && job.queueQualifiedName === this.#queue.qualifiedName) this.#learn(job, true);
  }

  async close() {
    clearInterval(this.#timer);
    await this.#looking;
    this.#watches.delete(this);
    this.#known.clear();
  }

  async #look() {
    const client = await (this.#queue.client ?? this.#queue.getBackend().client); // as BullMQ 5 and 6 have it
    if (this.#place === null) return this.#begin(client);
    await this.#read(client);
    const gone = await this.#gone(client);
    await this.#read(client);
    for (const id of gone) {
      const sync = this.#known.get(id);
      if (sync === undefined) continue;
      this.#known.delete(id);
      // Where events are missing it may have ended meanwhile: one that has run is then left out by the name of its run.
      if (sync.read === ALL && !sync.runs) this.#removed(sync);
      else if (sync.read !== SOME || sync.started) this.#producer.verdict(sync, REMOVED);
    }
  }

  async #begin(client) {
    const [last] = await client.xrevrange(this.#queue.keys.events, "+", "-", "COUNT", 1);
    for (const state of OPEN) {
      for (let at = 0, jobs; at === 0 || jobs.length; at += PAGE) {
        jobs = await this.#queue.getJobs([state], at, at + PAGE - 1);
        for (const job of jobs) this.#learn(job, state === "active");
      }
    }
    this.#place = last?.[0] ?? "0-0";
  }

  /** Reads what has happened since. */
  async #read(client) {
    const key = this.#queue.keys.events;
    for (let full = true; full; ) {
      const page = await client.xrange(key, this.#place, "+", "COUNT", PAGE + 1); // the first is what was read last
      full = page.length > PAGE;
      if (page[0]?.[0] === this.#place) page.shift();
      else {
        const read = (await this.#isNew(client, key)) ? NEW : SOME;
        for (const sync of this.#known.values()) sync.read = Math.min(sync.read, read);
      }
      const changed = new Map(); // by id: whether a worker runs it
      for (const [id, fields] of page) {
        this.#place = id;
        const { event, jobId, failedReason, prev } = members(fields);
        const known = this.#known.get(jobId), runs = event === "active";
        if (runs || QUIET.includes(event)) {
          changed.set(jobId, runs);
          if (known) known.runs = runs;
        } else if (event === "completed") this.#ended(jobId, changed);
        else if (event === "failed") await this.#failed(jobId, failedReason, changed);
        else if (event === "removed" && known && !(await this.#queue.getJob(jobId))) { // not one that was added again
          if (!["completed", "failed"].includes(prev)) this.#removed(known);
          this.#ended(jobId, changed);
        }
      }
      const jobs = await Promise.all([...changed.keys()].map((id) => this.#queue.getJob(id)));
      for (const job of jobs) if (job && !job.finishedOn) this.#learn(job, changed.get(job.id));
    }
  }

  /** Whether all events that there ever were are still held: the queue is new, or was obliterated. */
  async #isNew(client, key) {
    if ((await client.exists(key)) === 0) return true;
    const info = members(await client.xinfo("STREAM", key));
    return info.length === info["entries-added"];
  }

  /** A job that no worker ran. */
  #removed(sync) {
    this.#producer.verdict({ ...sync, run: `removed ${sync.added}` }, REMOVED);
  }

  #ended(id, changed) {
    this.#known.delete(id);
    changed.delete(id);
  }

  /** The worker has told it, where one ran it; where the job had stalled too often, none did. */
  async #failed(id, reason, changed) {
    const job = await this.#queue.getJob(id);
    if (job && !job.finishedOn) return; // tried again by hand meanwhile
    const sync = job ? this.#syncOf(job) : this.#known.get(id);
    // One that is known from before it ran has another run, under which its worker has told its end.
    const untold = isSync(sync) && (job || sync.started || UNTOLD.test(reason));
    if (untold) this.#producer.verdict(sync, this.#producer.standardError(new Error(reason)));
    this.#ended(id, changed);
  }

  #learn(job, runs) {
    const sync = this.#syncOf(job);
    const started = job.attemptsStarted > 0;
    if (isSync(sync)) this.#known.set(job.id, { ...sync, added: job.timestamp, started, runs, read: ALL });
  }

  /** Those of the known jobs that are there no more. */
  async #gone(client) {
    const known = [...this.#known.keys()], gone = [];
    const from = known.length > LOOKED && this.#asked < known.length ? this.#asked : 0;
    const looked = known.slice(from, from + LOOKED);
    this.#asked = from + looked.length;
    for (let at = 0; at < looked.length; at += PAGE) {
      const ids = looked.slice(at, at + PAGE), keys = ids.map((id) => this.#queue.toKey(id));
      if ((await client.exists(...keys)) === keys.length) continue;
      const there = await Promise.all(keys.map((key) => client.exists(key)));
      gone.push(...ids.filter((_, index) => there[index] === 0));
    }
    return gone;
  }
}

/** Whether a job is one: queues hold others too. */
function isSync(sync) {
  return (sync?.projectId ?? null) !== null;
}
