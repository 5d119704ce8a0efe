"""1,000 clients of one project, killed and reconnected at random while 10,000 events flow: each sees them all."""

import asyncio
import json
import os
import random
import re
import socket
import time

from tests.conftest import Worker
from tests.e2e.conftest import Launch
from tests.redis_server import RedisServer

CLIENTS = int(os.environ.get("CLIENTS", "1000"))
EVENTS = int(os.environ.get("EVENTS", "10000"))

_ID = re.compile(rb"id: (\d+-\d+)\nevent: (github_\w+)\n")


class Client:
    """Checks every id against the stream as it comes. Reads by a regular expression, for ten million frames pass."""

    def __init__(self, port: int, begin: bytes, stream: list[tuple[bytes, bytes]]) -> None:
        self.port = port
        self.last = begin
        self.stream = stream
        self.at = 0
        self.connects = 0
        self.wrong = ""

    async def follow(self) -> None:
        while self.at < len(self.stream) and not self.wrong:
            await self.connect()

    async def connect(self) -> None:
        self.connects += 1
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        # HTTP/1.0: no chunks to undo.
        writer.write(b"GET /api/projects/p-1/stream HTTP/1.0\r\nLast-Event-ID: %b\r\n\r\n" % self.last)
        until = time.monotonic() + random.expovariate(1 / 4)
        try:
            await reader.readuntil(b"\r\n\r\n")
            rest = b""
            while time.monotonic() < until and self.at < len(self.stream):
                try:
                    async with asyncio.timeout(until - time.monotonic()):
                        chunk = await reader.read(1 << 18)
                except TimeoutError:
                    return
                if not chunk:
                    return
                whole, end, rest = (rest + chunk).rpartition(b"\n\n")
                self.take(_ID.findall(whole + end))
        finally:
            # Die by RST, as a machine that vanishes does.
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()

    def take(self, found: list[tuple[bytes, bytes]]) -> None:
        if not found:
            return
        if found != self.stream[self.at : self.at + len(found)]:
            self.wrong = f"after {self.last!r} came {found[:3]}"
        self.at += len(found)
        self.last = found[-1][0]


async def test_a_thousand_clients_come_and_go_and_each_sees_the_whole_stream(
    worker: Worker, shared_redis: RedisServer, launch: Launch
) -> None:
    began = int(time.time() * 1000)
    begin = await worker.publish("started", "op-begin", id=f"{began}-0")
    stream = [(f"{began}-{number}".encode(), b"github_sync_started") for number in range(1, EVENTS + 1)]
    process = await asyncio.to_thread(launch, SSE_REDIS_URL=shared_redis.url, SSE_STREAM=worker.key)
    clients = [Client(process.port, begin.encode(), stream) for _ in range(CLIENTS)]
    tasks = [asyncio.create_task(client.follow()) for client in clients]
    for number in range(0, EVENTS, 50):
        pipe = worker.redis.pipeline(transaction=False)
        for id, _ in stream[number : number + 50]:
            data = {"operationId": f"op-{id.decode()}", "projectId": "p-1", "direction": "to_github"}
            pipe.xadd(worker.key, {"type": "github_sync_started", "data": json.dumps(data)}, id=id)
        await pipe.execute()
        await asyncio.sleep(0.05)
    async with asyncio.timeout(180):
        await asyncio.gather(*tasks)
    assert [client.wrong for client in clients if client.wrong] == []
    assert [client.at for client in clients] == [EVENTS] * CLIENTS
    assert sum(client.connects for client in clients) > 2 * CLIENTS
    metrics = await asyncio.to_thread(process.metrics)
    assert re.search(r"^sse_gateway_events_skipped_total 0\.0$", metrics, re.MULTILINE)
    assert (await asyncio.to_thread(process.stop))[0] == 0
