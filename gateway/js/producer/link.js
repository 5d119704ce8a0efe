/**
 * A connection of our own, made like the client that was given: what the worker does with that one never holds an event
 * up, and a connection that fails is thrown away, so that nothing is sent twice behind our back.
 */
import { readSync, writeSync } from "node:fs";

const noop = () => {};

export class Link {
  #client;
  #trim;
  #stream;
  #connection = null; // { xadd, close, socket } once it is asked for

  /** `trim`: `{ maxlen }` or `{ maxAge }` (s), how XADD trims the stream. */
  constructor(client, stream, trim) {
    if (typeof client?.xadd !== "function" && typeof client?.xAdd !== "function") {
      throw new TypeError("the producer needs a client of ioredis or redis (node-redis)");
    }
    this.#client = client;
    this.#stream = stream;
    this.#trim = trim;
  }

  /**
   * Sends events by their fields, in order, and waits `patience` ms for the replies. The outcome of each: null, or an Error.
   * Sent again because their reply was lost they change nothing: the gateway knows an event by its `run` and `seq`.
   */
  async send(batch, patience) {
    let late;
    const timeout = new Promise((_, reject) => {
      late = setTimeout(() => reject(new Error(`no answer for ${patience} ms`)), patience);
      late.unref();
    });
    try {
      const connection = (this.#connection ??= this.#client.xadd ? ofIoredis(this.#client) : ofNodeRedis(this.#client));
      const words = this.#words();
      const one = (fields) => Promise.race([connection.xadd(this.#stream, words, fields), timeout]);
      await Promise.race([connection.ready, timeout]);
      const outcomes = await Promise.allSettled(batch.map(one));
      const errors = outcomes.map(({ reason, status }) => (status === "rejected" ? reason : null));
      if (errors.some((error) => error !== null)) this.close();
      return errors;
    } catch (error) {
      this.close();
      return batch.map(() => error);
    } finally {
      clearTimeout(late);
    }
  }

  /**
   * Sends at the end of the process, when nothing asynchronous runs any more: past the client, by the socket's descriptor.
   * Whether it could: not over TLS, not with node-redis, which hides its socket, not where Redis is away.
   */
  sendSync(batch) {
    const socket = this.#connection?.socket();
    const fd = socket?._handle?.fd;
    if (!(fd > 0) || socket.encrypted || socket.writableLength > 0) return false;
    const mark = `end-${process.pid}`;
    const commands = batch.map((fields) => ["XADD", this.#stream, ...this.#words(), "*", ...fields]);
    const bytes = Buffer.concat([...commands, ["PING", mark]].map(resp));
    const deadline = Date.now() + 2000;
    let sent = 0, heard = "";
    while (Date.now() < deadline) {
      try {
        if (sent < bytes.length) sent += writeSync(fd, bytes, sent);
        const chunk = Buffer.alloc(65536);
        const count = readSync(fd, chunk);
        if (count === 0) return false;
        heard = (heard + chunk.toString("latin1", 0, count)).slice(-200);
        if (heard.includes(mark) || heard.includes("NOPERM")) return true;
      } catch (error) {
        if (error.code !== "EAGAIN") return false;
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2);
      }
    }
    return false;
  }

  close() {
    this.#connection?.close();
    this.#connection = null;
  }

  #words() {
    const { maxlen, maxAge } = this.#trim;
    if (maxAge !== undefined) return ["MINID", "~", `${Math.floor(Date.now() - maxAge * 1000)}-0`];
    return maxlen === null ? [] : ["MAXLEN", "~", String(maxlen)];
  }
}

function ofIoredis(client) {
  const once = { retryStrategy: () => null, autoResendUnfulfilledCommands: false, enableOfflineQueue: true, lazyConnect: false };
  const connection = client.isCluster
    ? client.duplicate([], { clusterRetryStrategy: () => null, lazyConnect: false })
    : client.duplicate(once);
  connection.on("error", noop); // whoever sends is told
  connection.on("connect", () => connection.stream?.unref?.()); // an idle producer keeps no process alive
  return {
    ready: null, // commands wait for the connection in ioredis's own queue
    xadd: (stream, words, fields) => connection.xadd(stream, ...words, "*", ...fields),
    socket: () => connection.stream,
    close: () => connection.disconnect(),
  };
}

function ofNodeRedis(client) {
  const { options } = client; // a cluster has none
  const once = options ? { socket: { ...options.socket, reconnectStrategy: false } } : undefined;
  const connection = client.duplicate(once);
  connection.on("error", noop);
  const ready = connection.connect().then(() => connection.unref?.());
  ready.catch(noop);
  return {
    ready,
    xadd: (stream, [strategy, strategyModifier, threshold], fields) => {
      const TRIM = strategy && { strategy, strategyModifier, threshold };
      return connection.xAdd(stream, "*", members(fields), TRIM ? { TRIM } : undefined);
    },
    socket: () => null,
    close: () => {
      // Version 5 has destroy, version 4 disconnect; both reject where the connection is gone already.
      Promise.resolve().then(() => (connection.destroy ? connection.destroy() : connection.disconnect())).catch(noop);
    },
  };
}

/** Redis's flat lists of names and values as an object. */
export function members(fields) {
  const found = {};
  for (let at = 0; at < fields.length; at += 2) found[fields[at]] = fields[at + 1];
  return found;
}

function resp(words) {
  const parts = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
  return Buffer.from(`*${words.length}\r\n${parts.join("")}`);
}
