"""The peer that people write: plain aiohttp-sse, a queue and a task a client. Arguments: PORT URL STREAM."""

import asyncio
import json
import sys

import redis.asyncio
import uvloop
from aiohttp import web
from aiohttp_sse import sse_response


async def main(port: int, url: str, stream: str) -> None:
    queues: dict[str, set[asyncio.Queue[tuple[str, str, str]]]] = {}

    async def listen(request: web.Request) -> web.StreamResponse:
        queue: asyncio.Queue[tuple[str, str, str]] = asyncio.Queue()
        topic = request.match_info["kind"] + request.match_info["id"]
        queues.setdefault(topic, set()).add(queue)
        try:
            async with sse_response(request) as response:
                while True:
                    id, type, data = await queue.get()
                    await response.send(data, id=id, event=type)
        finally:
            queues[topic].discard(queue)

    app = web.Application()
    app.router.add_get("/api/{kind}/{id}/stream", listen)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    print("listening", flush=True)
    client = redis.asyncio.Redis.from_url(url, decode_responses=True)
    last = "$"
    while True:
        for _, entries in await client.xread({stream: last}, count=512, block=1000):
            for id, fields in entries:
                last = id
                event = json.loads(fields["data"])
                for topic in ("operations" + event["operationId"], "projects" + event["projectId"]):
                    for queue in queues.get(topic, ()):
                        queue.put_nowait((id, fields["type"], fields["data"]))


uvloop.run(main(int(sys.argv[1]), *sys.argv[2:]))
