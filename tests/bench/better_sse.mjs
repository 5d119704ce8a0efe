// The peer on Node: better-sse's channel, fed from the same stream by ioredis. Arguments: PORT URL STREAM.
import { createServer } from "node:http";
import { createChannel, createSession } from "better-sse";
import Redis from "ioredis";

const [port, url, stream] = process.argv.slice(2);
const channels = new Map();
const channel = (name) => channels.get(name) ?? channels.set(name, createChannel()).get(name);

createServer(async (request, response) => {
  const [, , kind, id] = request.url.split("/"); // /api/{operations,projects}/{id}/stream
  channel(`${kind}/${id}`).register(await createSession(request, response));
}).listen({ port: Number(port), host: "127.0.0.1", backlog: 4096 }, () => console.log("listening"));

const redis = new Redis(url);
for (let last = "$"; ; ) {
  const reply = await redis.xread("COUNT", 512, "BLOCK", 1000, "STREAMS", stream, last);
  for (const [id, [, type, , data]] of reply?.[0][1] ?? []) {
    last = id;
    const event = JSON.parse(data);
    for (const name of [`operations/${event.operationId}`, `projects/${event.projectId}`]) {
      channels.get(name)?.broadcast(event, type, { eventId: id });
    }
  }
}
