// The core of the module under random orders of everything that can happen to it, in virtual time and without a browser.
// RUNS=10000 SEED=7 node --test tests/js/pool.test.mjs
import assert from "node:assert/strict";
import { test } from "node:test";
import { isTerminal, operationOf } from "../../gateway/js/events.js";
import { World, settle } from "./world.mjs";

const RUNS = Number(process.env.RUNS ?? 200), SEED = Number(process.env.SEED ?? 1), STEPS = 120;

class Life extends World {
  async step() {
    const dice = this.random();
    if (dice < 0.5) this.publish();
    else if (dice < 0.62) {
      const operationId = this.pick(["op-1", "op-2", "op-3"]), projectId = this.pick(["p-1", "p-2"]);
      const ended = this.pick([0, 0, 3]);
      this.watch(this.pick([{ operationId }, { operationId, projectId }, { projectId, ended }, { ended }]), this.source);
    } else if (dice < 0.66 && this.watching.length) this.pool.remove(this.pick(this.watching).watcher, this.now);
    else if (dice < 0.69) this.gateway.drop();
    else if (dice < 0.72) this.gateway.cut();
    else if (dice < 0.74) this.gateway.freeze();
    else if (dice < 0.76) this.gateway.refuse(this.pick([429, 502, 503, 404]), { retryAfter: this.pick([undefined, "0", "86400", "Wed, 21 Oct 2026 07:28:00 GMT"]) });
    else if (dice < 0.80) this.gateway.refuse();
    else if (dice < 0.82) this.gateway.trim(2);
    else if (dice < 0.83) {
      this.shift -= this.pick([0, 1_000_000]); // ids may go backwards
      this.gateway.reset();
      this.operations.clear();
      this.emptied = this.sent.length;
    } else if (dice < 0.86) this.pool.visible(this.random() < 0.5, this.now);
    else if (dice < 0.88) this.tokenMode = this.pick(["good", "bad", "silent"]);
    await settle();
    await this.advance(this.random() < 0.7 ? this.random() * 300 : this.random() * 20_000);
  }

  /** Once all is calm: everybody is live and knows what there is. */
  async calm() {
    this.gateway.refuse();
    this.tokenMode = "good";
    this.pool.visible(true, this.now);
    await this.advance(90_000);
    const held = this.gateway.held;
    for (const each of this.watching.filter((each) => !each.over)) {
      assert.equal(each.watcher.status, "live", JSON.stringify(each.options));
      const told = new Set(each.events.map((event) => event.id));
      // All that came after it was live, where no gap was told since.
      const due = this.sent.slice(Math.max(each.liveAt, this.emptied ?? 0)).filter((event) => each.watcher.wants(event));
      for (const event of due) assert.ok(told.has(event.id), `${JSON.stringify(each.options)} misses ${event.id}`);
      // Of what there is, the newest of all that runs.
      const newest = new Map(held.filter((event) => each.watcher.wants(event)).map((event) => [operationOf(event), event]));
      for (const event of newest.values()) {
        if (!isTerminal(event) || each.options.operationId !== undefined) assert.ok(told.has(event.id), `${JSON.stringify(each.options)} doesn't know ${event.type} ${event.id}`);
      }
      // An operation that it knows and that ended has ended for it.
      if (each.options.operationId !== undefined && each.events.length) {
        const truth = new Map(this.sent.slice(this.emptied ?? 0).filter((event) => each.watcher.wants(event)).map((event) => [operationOf(event), event]));
        assert.ok([...truth.values()].some((event) => !isTerminal(event)), `${JSON.stringify(each.options)} should have ended`);
      }
    }
  }
}

test(`${RUNS} random lives`, async () => {
  for (let seed = SEED; seed < SEED + RUNS; seed++) {
    const world = new Life(seed);
    world.source = world.random() < 0.4 ? () => {} : undefined;
    try {
      for (let step = 0; step < STEPS; step++) await world.step();
      await world.calm();
    } catch (error) {
      error.message = `SEED=${seed}: ${error.message}`;
      throw error;
    }
  }
});
