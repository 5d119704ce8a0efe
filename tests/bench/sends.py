"""The case `sends`: a delivery by the transport's `write`, and by the `send` of the socket under it (gateway/wire.py).

By turns in one process, so that what else the machine does falls on both.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import cast

import uvloop

from gateway.frame import chunk
from gateway.wire import Wire
from tests.bench.harness import SERVER_CORE, load, pinned
from tests.redis_server import RedisServer

ROUNDS = 100
FRAME = chunk(b'id: 1-1\nevent: github_sync_progress\ndata: {"message":"' + b"x" * 187 + b'"}\n\n')


class End(asyncio.Protocol):
    def __init__(self, ends: list["End"]) -> None:
        self._ends = ends

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.wire = Wire(self.transport, chunked=True)

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self._ends.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.wire.detach()


async def measure(clients: int) -> dict[str, float]:
    """CPU µs a delivery, the median of ROUNDS."""
    ends: list[End] = []
    server = await asyncio.get_running_loop().create_server(lambda: End(ends), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    while len(ends) < clients:
        await asyncio.sleep(0.01)
    ways: dict[str, list[Callable[[bytes], object]]] = {
        "write_us": [end.transport.write for end in ends],
        "send_us": [end.wire.send for end in ends],
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            await asyncio.sleep(0.05)
            began = time.thread_time_ns()
            for give in way:
                give(FRAME)
            found[name].append((time.thread_time_ns() - began) / 1000 / clients)
    return {name: statistics.median(each) for name, each in found.items()}


def sends(_: RedisServer, clients: int = 1000) -> dict[str, float]:
    """Both ways to as many clients."""
    command = [sys.executable, "-m", "tests.bench.sends", str(clients)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=pinned(SERVER_CORE))
    assert process.stdout is not None
    listening = load(int(process.stdout.readline()), "/", clients, ROUNDS * 0.2, "-p", "1000")
    out, _ = process.communicate(timeout=60)
    listening.kill()
    listening.communicate()
    return json.loads(out)  # type: ignore[no-any-return]


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(int(sys.argv[1])))))
