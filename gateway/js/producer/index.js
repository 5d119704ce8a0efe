/**
 * The workers' kit:
 *
 *   const producer = new Producer(redis); // a client of ioredis or redis
 *   await producer.operation("op-123", "proj-456", { direction: "to_github" }, async (op) => {
 *     op.progress(20, "Reading project files…", { step: "read" });
 *     op.result({ filesChanged: 3, commitSha: "1f2e…" });
 *   });
 */
export { bullmq } from "./bullmq.js";
export { githubError } from "./errors.js";
export { Operation, Producer } from "./producer.js";
export { redact } from "./text.js";
