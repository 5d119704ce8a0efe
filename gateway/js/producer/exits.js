/**
 * The end of a process: every operation that is open is told its end, however the process ends, as far as it can know.
 *
 * SIGKILL and a lost machine tell nobody; the gateway's `operation_stalled` is the answer to those.
 */
const producers = new Set();

/** Has a producer told of the end, until it is unwatched. */
export function watch(producer) {
  if (producers.size === 0) {
    for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, terminated);
    process.on("beforeExit", drained);
    process.on("exit", exited);
  }
  producers.add(producer);
}

export function unwatch(producer) {
  producers.delete(producer);
  if (producers.size > 0) return;
  for (const signal of ["SIGTERM", "SIGINT"]) process.off(signal, terminated);
  process.off("beforeExit", drained);
  process.off("exit", exited);
}

/** Where the program leaves the signal to the system: ends as the system would have it, after the last words. */
async function terminated(signal) {
  if (process.listenerCount(signal) > 1) return; // the program's own handlers rule
  await everyone(true);
  process.off(signal, terminated);
  process.kill(process.pid, signal);
}

/** Nothing is left to be done, and yet something is open or unsent. */
async function drained() {
  if ([...producers].some((producer) => producer.busy)) await everyone(false); // others may find something to do yet
}

/** `process.exit()`, or an error that nobody caught: nothing asynchronous runs any more. */
function exited() {
  for (const producer of producers) producer.onExitSync();
}

async function everyone(leaving) {
  await Promise.allSettled([...producers].map((producer) => producer.onExit(leaving)));
}
