// What the module promises, one by one, in virtual time.
import assert from "node:assert/strict";
import { test } from "node:test";
import { World } from "./world.mjs";

const live = (seen) => assert.deepEqual(seen.map((each) => each.watcher.status), seen.map(() => "live"));

/** Refuses as the gateway does what a token doesn't grant. */
function granting(world, grants) {
  const answers = world.gateway.fetch.bind(world.gateway);
  world.gateway.fetch = async (url, init) => {
    const query = new URLSearchParams(url.split("?")[1]);
    const outside = Object.fromEntries(["projectId", "operationId"].map((name) => [name, query.getAll(name).filter((id) => !grants(name, id))]));
    world.gateway.refuse(...(Object.values(outside).flat().length ? [403, { outside }] : []));
    return answers(url, init);
  };
}

for (const [name, options] of Object.entries({
  "65 operations": (n) => ({ operationId: `op-${n}` }),
  "65 operations of one project": (n) => ({ operationId: `op-${n}`, projectId: "p-1" }),
  "65 of one operation": () => ({ operationId: "op-1" }),
  "64 long ids": (n) => ({ operationId: `${n}`.padStart(256, "x") }),
  "40 of many bytes": (n) => ({ operationId: `${n}${"😀".repeat(120)}` }),
  "200 projects": (n) => ({ projectId: `p-${n}` }),
})) {
  test(`${name} are all live, on one stream in the end`, async () => {
    const world = new World(1);
    const count = parseInt(name);
    for (let n = 0; n < count; n++) world.watch(options(n));
    await world.advance(30_000);
    live(world.watching);
    assert.equal(world.gateway.streams.size, 1);
    for (let n = 0; n < count; n++) world.gateway.started(options(n).operationId ?? "op", { projectId: options(n).projectId ?? "p-1" });
    await world.advance(1000);
    for (const each of world.watching) assert.ok(each.events.length > 0);
    assert.ok(Math.max(...world.gateway.requests.map((each) => each.path.length + `${each.query}`.length)) < 8000);
    world.check();
  });
}

for (const retryAfter of ["0", "86400", "Wed, 21 Oct 2026 07:28:00 GMT", "soon", undefined]) {
  test(`Retry-After: ${retryAfter}`, async () => {
    const world = new World(2);
    world.gateway.refuse(503, { retryAfter });
    const seen = world.watch({ operationId: "op-1" });
    await world.advance(60_000);
    assert.deepEqual(seen.statuses, ["connecting", "reconnecting"]); // never live
    assert.ok(world.requests.length >= 10 && world.requests.length <= 20, world.requests.length);
    world.gateway.refuse();
    await world.advance(6000);
    live([seen]);
    world.check();
  });
}

test("a path that swallows bytes is left after two and a half heartbeats", async () => {
  const world = new World(3);
  const seen = world.watch({ operationId: "op-1" });
  world.gateway.started("op-1");
  await world.advance(20_000);
  world.gateway.freeze();
  world.gateway.progress("op-1");
  const from = world.now;
  for (; seen.events.length < 2 && world.now < from + 60_000; await world.advance(500));
  assert.ok(world.now - from < 45_000, world.now - from);
  assert.deepEqual(seen.statuses, ["connecting", "live", "reconnecting", "live"]);
});

test("a token is renewed at four fifths of its life: the new stream first, then the old one is closed", async () => {
  const world = new World(4);
  const seen = world.watch({ operationId: "op-1" }, () => {});
  await world.advance(15_500);
  const [first] = world.gateway.streams;
  for (let n = 0; n < 8; n++) {
    world.publish();
    await world.advance(100);
  }
  await world.advance(1000);
  const [second] = world.gateway.streams;
  assert.notEqual(first, second);
  assert.deepEqual(seen.statuses, ["connecting", "live"]);
  assert.equal(world.tokens, 2);
  world.check();
});

test("of a token that is refused twice the watchers are told", async () => {
  const world = new World(5);
  world.gateway.refuse(401);
  const seen = world.watch({ operationId: "op-1" }, () => {});
  await world.advance(20_000);
  assert.deepEqual(seen.statuses, ["connecting", "reconnecting", "refused"]);
  assert.equal(world.tokens, 2);
});

test("a watcher that is not granted doesn't hold the others up", async () => {
  const world = new World(6);
  granting(world, (name, id) => id === "p-1" || id === "op-1");
  const seen = [{ projectId: "p-1" }, { projectId: "p-2" }, { operationId: "op-1" }, { operationId: "op-2" }].map((each) => world.watch(each));
  await world.advance(20_000);
  assert.deepEqual(seen.map((each) => each.watcher.status), ["live", "refused", "live", "refused"]);
});

test("a token of single operations gets everything that it grants where its watchers are too many", async () => {
  const world = new World(7);
  granting(world, (name) => name === "operationId");
  for (let n = 0; n < 70; n++) world.watch({ operationId: `op-${n}`, projectId: "p-1" });
  await world.advance(30_000);
  live(world.watching);
  assert.equal(`${world.gateway.requests.at(-1).query}`.includes("projectId"), false);
});

test("who ended long ago is told with a union, where twenty ask", async () => {
  const world = new World(8);
  for (let n = 0; n < 20; n++) {
    world.gateway.started(`op-${n}`);
    world.gateway.completed(`op-${n}`);
  }
  for (let n = 0; n < 20; n++) world.watch({ operationId: `op-${n}` });
  await world.advance(2000);
  assert.ok(world.watching.every((each) => each.watcher.status === "ended" && each.events.length === 2));
  assert.equal(world.requests.length, 2); // the first watcher didn't wait for the others
  assert.equal(world.gateway.streams.size, 0);
});

test("a watcher of a project is told of what runs, and of as many ends as it asked for", async () => {
  const world = new World(9);
  for (let n = 0; n < 5; n++) {
    world.gateway.started(`op-${n}`);
    if (n < 4) world.gateway.completed(`op-${n}`);
  }
  const two = world.watch({ projectId: "p-1", ended: 2 }), none = world.watch({ projectId: "p-1" });
  await world.advance(2000);
  assert.deepEqual([...new Set(two.events.map((each) => each.operationId))], ["op-2", "op-3", "op-4"]);
  assert.deepEqual([...new Set(none.events.map((each) => each.operationId))], ["op-4"]);
});

test("after a gap: what nobody knows any more has ended, what goes on goes on", async () => {
  const world = new World(10);
  const gone = world.watch({ operationId: "gone" }), goes = world.watch({ operationId: "goes" });
  world.gateway.started("gone");
  world.gateway.started("goes");
  await world.advance(1000);
  world.gateway.cut();
  world.gateway.progress("goes", { percent: 90 });
  world.gateway.progress("goes", { percent: 91 });
  world.gateway.trim(1);
  await world.advance(5000);
  assert.deepEqual(gone.statuses, ["connecting", "live", "reconnecting", "ended"]);
  assert.deepEqual([gone.gaps, goes.gaps], [1, 1]);
  assert.deepEqual(goes.events.map((each) => each.percent), [undefined, 91]);
  assert.equal(goes.watcher.status, "live");
});

test("a crowd comes back spread, a hidden page seldom", async () => {
  const first = [];
  for (let seed = 0; seed < 200; seed++) {
    const world = new World(seed);
    world.watch({ operationId: "op-1" });
    await world.advance(1);
    world.gateway.cut();
    await world.advance(6000);
    first.push(world.requests[1]);
  }
  first.sort((one, two) => one - two);
  assert.ok(first[180] - first[20] > 800, `${first[20]}-${first[180]}`);
  assert.ok(first[199] <= 6000);
  const hidden = new World(1);
  hidden.pool.visible(false, 0);
  hidden.gateway.refuse(503);
  hidden.watch({ operationId: "op-1" });
  await hidden.advance(600_000);
  assert.ok(hidden.requests.length < 25, hidden.requests.length);
  hidden.gateway.refuse();
  hidden.pool.visible(true, hidden.now);
  await hidden.advance(1001);
  live(hidden.watching);
});

test("a silent stream of before a reset is not joined to one of after it: its watchers are told", async () => {
  const world = new World(11);
  const old = world.watch({ operationId: "op-1" });
  world.gateway.started("op-1");
  await world.advance(2000);
  world.gateway.freeze();
  world.shift -= 1_000_000; // ids go backwards, and will come to where they were
  world.gateway.reset();
  const young = world.watch({ operationId: "op-9" }); // whose place stays behind the old one's
  await world.advance(100);
  world.shift += 1_000_000;
  world.gateway.started("op-2");
  await world.advance(8000);
  assert.deepEqual([old.statuses.at(-1), old.gaps], ["ended", 1]);
  assert.equal(young.watcher.status, "live");
});
