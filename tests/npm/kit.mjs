// Syncs that end as they are told to, by the kit in JavaScript: node kit.mjs '{"url": …, "syncs": [[[10, 50], "success"]], "end": "exit"}'
import { Cluster, Redis } from "ioredis";
import { createClient, createCluster } from "redis";
import { Producer } from "github-sync-events/producer";

const { url, key, client = "ioredis", syncs, end, hold = 0, options = {} } = JSON.parse(process.argv[2]);
const clients = {
  "ioredis": () => new Redis(url, { retryStrategy: () => 20 }),
  "ioredis cluster": () => new Cluster([url], { clusterRetryStrategy: () => 20 }),
  "redis": () => createClient({ url }),
  "redis cluster": () => createCluster({ rootNodes: [{ url }] }),
};
const redis = clients[client]();
redis.on("error", () => {});
if (client.startsWith("redis")) await redis.connect();
const producer = new Producer(redis, { stream: key, log: { warn() {}, error: console.error }, ...options });
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function sync(number, steps, ending) {
  await producer.operation(`op-${number}`, "p-1", { direction: "to_github" }, async (op) => {
    for (const step of steps) {
      op.progress(step, `${step}`);
      await pause(2);
    }
    if (ending === "exception") throw new Error("no");
    if (ending === "failed") op.failed(new Error("Bad credentials"));
    if (ending === "again") void sync(number + 100, steps, ending);
    if (ending === "hang") await pause(60_000);
    if (ending === "forgotten") await new Promise(() => {}); // nothing will ever resolve it
  }).catch(() => {});
}
if (end === "own handler") process.on("SIGTERM", () => producer.onExit().then(() => process.exit(3)));
if (end === "deaf") process.on("SIGTERM", () => console.log("deaf"));
const closed = () => (redis.disconnect ?? redis.destroy).call(redis);
const all = Promise.all(syncs.map(([steps, ending], number) => sync(number, steps, ending)));
await pause(hold);
console.log("running");
if (end === "exit") process.exit(4);
if (end === "crash") setTimeout(() => { throw new Error("crash"); });
if (end === "rejection") void Promise.reject(new Error("crash"));
if (end === "close") {
  await all;
  await producer.close();
  closed();
}
if (end === undefined || end === "deaf") void all.then(closed);
if (end === "forgotten") closed();
if (end === "found something") {
  closed();
  process.once("beforeExit", () => sync(1, [10], "success"));
}
