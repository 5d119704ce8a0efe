// Triggers three syncs through the README's lines, prints their operation ids, and ends when the last has ended.
import { trigger } from "./trigger.js";
import { watch, worker } from "./worker.js";

let left = 3;
const done = (ended: boolean) => {
  if (ended && --left === 0) void Promise.all([worker.close(), watch.close()]).then(() => process.exit(0));
};
worker.on("completed", () => done(true));
worker.on("failed", (job) => done(job?.data.projectId === "breaks"));
for (const projectId of ["works", "breaks", "limps"]) {
  const { body } = await trigger(projectId, "to_github");
  console.log(projectId, body.operationId);
}
