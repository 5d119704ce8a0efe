// The browser's module over the package's own fake gateway, in node's own time.
import assert from "node:assert/strict";
import { test } from "node:test";
import { watch } from "../../gateway/js/watch.js";
import { fakeGateway } from "../../gateway/js/testing.js";

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(condition, ms = 5000) {
  for (const end = performance.now() + ms; performance.now() < end; await wait(5)) if (condition()) return;
  assert.fail(`not within ${ms} ms: ${condition}`);
}

function watching(options) {
  const seen = { events: [], states: [], gaps: [] };
  seen.watcher = watch({
    ...options,
    onEvent: (event) => seen.events.push(event),
    onStatus: (status, detail) => seen.states.push(detail === undefined ? status : [status, detail]),
    onGap: (gap) => seen.gaps.push(gap),
  });
  return seen;
}

function gateway(t, options) {
  const made = fakeGateway(options);
  t.after(() => made.close());
  return made;
}

test("one operation, from its first event to its end", async (t) => {
  const fake = gateway(t);
  const seen = watching({ operationId: "op-1" });
  await until(() => seen.states.at(-1) === "live");
  fake.started("op-1");
  fake.started("op-2");
  fake.progress("op-1", { percent: 40 });
  fake.completed("op-1");
  await until(() => seen.states.at(-1) === "ended");
  assert.deepEqual(seen.events.map((each) => each.type.slice(12)), ["started", "progress", "completed"]);
  assert.deepEqual(seen.states, ["connecting", "live", "ended"]);
  assert.equal(fake.requests.length, 1);
  assert.equal(fake.streams.size, 0);
});

test("one listener that throws robs nobody else of the event", async (t) => {
  const fake = gateway(t), reported = [];
  globalThis.reportError = (error) => reported.push(error.message);
  t.after(() => delete globalThis.reportError);
  const bad = watch({ operationId: "op-1", onEvent: () => { throw new Error("mine"); }, onStatus: () => { throw new Error("mine too"); } });
  const good = watching({ operationId: "op-1" });
  await until(() => good.states.at(-1) === "live");
  fake.started("op-1");
  await until(() => good.events.length === 1);
  assert.deepEqual(reported, ["mine too", "mine too", "mine"]);
  bad.close();
  good.watcher.close();
});

test("nothing is told after close(), also where it is called from a listener", async (t) => {
  const fake = gateway(t);
  const seen = watching({ projectId: "p-1" });
  const told = [];
  const closing = watch({ projectId: "p-1", onEvent: (event) => {
    told.push(event.type);
    closing.close();
  } });
  await until(() => seen.states.at(-1) === "live");
  fake.started("op-1");
  fake.progress("op-1");
  await until(() => seen.events.length === 2);
  assert.equal(told.length, 1);
  seen.watcher.close();
  fake.completed("op-1");
  await wait(20);
  assert.equal(seen.events.length, 2);
  assert.equal(fake.streams.size, 0);
});

test("a member type or id of data is not the event's own, and conflicts are a list", async (t) => {
  const fake = gateway(t);
  const seen = watching({ operationId: "op-1" });
  await until(() => seen.states.at(-1) === "live");
  const { id } = fake.progress("op-1", { type: "x", id: "y", percent: 3 });
  fake.conflict("op-1", { conflicts: "a.txt" });
  fake.conflict("op-1", { conflicts: undefined });
  await until(() => seen.events.length === 3);
  const [one, two, three] = seen.events;
  assert.deepEqual([one.type, one.id, one.percent], ["github_sync_progress", id, 3]);
  assert.deepEqual([two.conflicts, three.conflicts], [["a.txt"], []]);
  seen.watcher.close();
});

test("an id that none can be is refused at once", () => {
  for (const options of [{ operationId: "" }, { operationId: 7 }, { projectId: "a\nb" }, { operationId: "x".repeat(257) }, { ended: 101 }]) {
    assert.throws(() => watch(options), TypeError);
  }
});

test("watch, close and watch again, as React's StrictMode does, is one request", async (t) => {
  const fake = gateway(t);
  watching({ operationId: "op-1" }).watcher.close();
  const seen = watching({ operationId: "op-1" });
  await until(() => seen.states.at(-1) === "live");
  assert.equal(fake.requests.length, 1);
  seen.watcher.close();
});

test("the token goes as a header, and accounts have streams of their own", async (t) => {
  const fake = gateway(t);
  const all = [watching({ operationId: "a", token: "one" }), watching({ operationId: "b", token: "two" }), watching({ operationId: "c", token: () => "three" }),
    watching({ operationId: "d", account: "x", token: async () => "four" })];
  await until(() => all.every((each) => each.states.at(-1) === "live"));
  assert.deepEqual(fake.requests.map((each) => each.headers.Authorization).sort(), ["Bearer four", "Bearer one", "Bearer three", "Bearer two"]);
  assert.ok(fake.requests.every((each) => !`${each.query}`.includes("token")));
  for (const each of all) each.watcher.close();
});

test("an answer that is no event stream, or no answer at all, is asked for again", async (t) => {
  const fake = gateway(t), answers = fake.fetch.bind(fake);
  let times = 0;
  fake.fetch = async (...given) => {
    if (++times === 1) return { status: 200, headers: { get: () => "text/html" } };
    if (times === 2) throw new TypeError("Failed to fetch");
    return answers(...given);
  };
  const seen = watching({ operationId: "op-1" });
  await until(() => seen.states.at(-1) === "live", 8000);
  assert.deepEqual(seen.states, ["connecting", ["reconnecting", "the answer is no event stream"], "live"]);
  seen.watcher.close();
});

test("advice that an operation fell silent, and bytes cut anywhere", async (t) => {
  const fake = gateway(t);
  const seen = watching({ operationId: "op-1" });
  await until(() => seen.states.at(-1) === "live");
  fake.started("op-1");
  fake.stalled("op-1", { silentFor: 301 });
  await until(() => seen.events.length === 2);
  assert.deepEqual([seen.events[1].type, seen.events[1].silentFor, "id" in seen.events[1]], ["operation_stalled", 301, false]);
  seen.watcher.close();
});

test("a machine that slept notices at once that its path is dead, and a clock that is set back stops nothing", async (t) => {
  const fake = gateway(t), now = Date.now;
  t.after(() => { Date.now = now; });
  const seen = watching({ operationId: "op-1" });
  await until(() => seen.states.at(-1) === "live");
  fake.freeze();
  fake.started("op-1");
  Date.now = () => now() + 60_000;
  await until(() => seen.events.length === 1, 9000);
  Date.now = () => now() - 3_600_000;
  fake.drop();
  fake.progress("op-1");
  await until(() => seen.events.length === 2, 9000);
  seen.watcher.close();
});

test("a gap is told together with what there is, and not where another stream goes on", async (t) => {
  const fake = gateway(t), order = [];
  const watcher = watch({
    projectId: "p-1", onGap: ({ reason }) => order.push(reason), onEvent: ({ type }) => order.push(type.slice(12)), onStatus: (status) => order.push(status),
  });
  await until(() => order.at(-1) === "live");
  fake.started("op-1");
  fake.reset();
  fake.started("op-2");
  await until(() => order.at(-1) === "started" && order.length > 4);
  assert.deepEqual(order, ["connecting", "live", "started", "reconnecting", "reset", "live", "started"]);
  watcher.close();
});
