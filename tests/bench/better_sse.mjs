// The peer on Node: better-sse's channel, fed from the same stream by ioredis. Arguments: PORT URL STREAM.
import { createServer } from "node:http";
import { createChannel, createSession } from "better-sse";
import Redis from "ioredis";

const [port, url, stream] = process.argv.slice(2);
const channel = createChannel();

createServer(async (request, response) => {
  channel.register(await createSession(request, response));
}).listen({ port: Number(port), host: "127.0.0.1", backlog: 4096 }, () => console.log("listening"));

const redis = new Redis(url);
for (let last = "$"; ; ) {
  const reply = await redis.xread("COUNT", 512, "BLOCK", 1000, "STREAMS", stream, last);
  for (const [id, [, type, , data]] of reply?.[0][1] ?? []) {
    last = id;
    channel.broadcast(JSON.parse(data), type, { eventId: id });
  }
}
