// Real BullMQ, whose jobs do as their data says: node jobs.mjs worker|watch|boss '{"url": …, …}'
import { Redis } from "ioredis";
import { createInterface } from "node:readline";
import { bullmq, Producer } from "github-sync-events/producer";

const [role, words] = process.argv.slice(2);
const { url, key, does = [], handler, lingers, picky, every = 500, version = "bullmq", ...options } = JSON.parse(words);
const { Queue, UnrecoverableError, Worker } = await import(version);
const connection = { url, maxRetriesPerRequest: null };
const queue = new Queue("syncs", { connection });
const pause = (ms, signal) => new Promise((done, failed) => {
  setTimeout(done, ms);
  signal?.addEventListener("abort", () => failed(new Error("aborted")));
});
const http = (status, message, headers = {}) => Object.assign(new Error(message), { status, response: { status, headers } });
const bodies = {
  succeeds: async () => ({ filesChanged: 3 }),
  fails: async () => { throw new Error("boom"); },
  is_protected: async () => { throw http(403, "Protected branch update failed"); },
  is_unrecoverable: async () => { throw new UnrecoverableError("never again"); },
  limps: async (op, job) => { if (job.attemptsMade < 1) throw http(502, "Bad Gateway"); },
  breaks: async () => { throw http(502, "Bad Gateway"); },
  is_limited: async (op, job) => { if (job.attemptsMade < 1) throw http(429, "slow down", { "retry-after": "2" }); },
  is_put_back: async (op, job, token) => {
    if (job.attemptsStarted > 1) return;
    await job.moveToDelayed(Date.now() + 500, token);
    throw Object.assign(new Error(), { name: "DelayedError" });
  },
  hangs_once: async (op, job) => { if (job.attemptsStarted < 2) await pause(60_000); },
  hangs_where_it_ends: async () => { if (lingers) await pause(60_000); },
  hangs: async (op) => { await pause(60_000, op.signal); },
  says_it_failed: async (op) => { op.failed(http(502, "Bad Gateway")); },
  says_it_and_throws: async (op) => {
    op.failed(new Error("boom"));
    throw new Error("boom");
  },
  crashes_once: async (op, job) => {
    if (job.attemptsStarted > 1) return;
    setTimeout(() => { throw new Error("outside"); });
    await pause(60_000);
  },
  naps: async () => { await pause(1500); },
  blocks_once: async (op, job) => {
    if (job.attemptsStarted > 1) return;
    await pause(200);
    for (const until = Date.now() + 4000; Date.now() < until; ); // the event loop stands still
  },
};

if (role === "boss") {
  for (const [what, ...rest] of does) {
    if (what === "add") await queue.add("sync", { projectId: "p-1", direction: "to_github", does: rest[1] }, { jobId: rest[0], ...rest[2] });
    if (what === "add_other") await queue.add("email", { does: rest[1] }, { jobId: rest[0] });
    if (what === "remove") await (await queue.getJob(rest[0])).remove();
    if (what === "retry") await (await queue.getJob(rest[0])).retry();
    if (what === "state") console.log(await (await queue.getJob(rest[0]))?.getState());
    if (["obliterate", "drain", "clean"].includes(what)) await queue[what](...rest);
  }
  await queue.close();
} else {
  const redis = new Redis(url);
  redis.on("error", () => {});
  const producer = new Producer(redis, { stream: key, log: { warn: (line) => console.log(line), error: (line) => console.log(line) } });
  const sync = ({ id, data }) => ({ operationId: id, projectId: data.projectId.toString(), direction: data.direction });
  const syncs = bullmq(producer, picky ? { sync } : {});
  const watch = syncs.watch(queue, { every });
  await watch.look();
  if (lingers) { // what can't be sent anywhere holds the process up when it is told to end
    const away = new Redis("redis://127.0.0.1:1");
    away.on("error", () => {});
    const lost = new Producer(away, { stream: key, log: { warn() {}, error() {} } });
    lost.operation("lost", "p-1", { direction: "to_github" }, () => pause(60_000));
  }
  if (role === "worker") {
    const body = async (op, job, token, signal) => {
      op.progress(50, `at 50 in ${process.pid}`);
      return bodies[job.data.does](op, job, token, signal);
    };
    const worker = new Worker("syncs", syncs.processor(body), { connection, concurrency: 20, ...options });
    worker.on("error", () => {});
    worker.on("active", (job) => console.log("active", job.id));
    worker.on("completed", (job) => console.log("completed", job.id));
    await worker.waitUntilReady();
    createInterface({ input: process.stdin }).on("line", (line) => line === "close by force" ? worker.close(true) : worker.cancelJob(line));
    if (handler) process.on("SIGTERM", () => worker.close().then(() => process.exit(0)));
  }
  console.log("ready");
}
