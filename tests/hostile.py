"""`make hostile MINUTES=60`: a hostile worker and hostile clients beside 60 well-behaved listeners.

The worker writes unique ids, long ids, huge entries, operations that fall silent, rubbish; the clients read slowly or
not at all, half-close, ask for unions of 64 from the beginning, for old ids, or say nothing. What must hold: nothing is
lost for the others, their p99 stays below 100 ms, and memory within the contract's bound. Prints a line a minute.
"""

import asyncio
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import redis

from tests.bench.account import SHAPES
from tests.bench.harness import STREAM, Gateway, build, entry, load, result
from tests.redis_server import RedisServer

MINUTES = float(os.environ.get("MINUTES", "10"))
BOUND = 16 << 20
LISTENERS, RATE = 60, 20
CROWD = 300
"""Hostile connections at most."""


def connected(gateway: Gateway, request: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", gateway.port), timeout=2)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.sendall(request)
    client.setblocking(False)
    return client


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: x", *headers, "", "")).encode()


async def hold(client: socket.socket, seconds: float, read: int = 0) -> None:
    """Keeps a connection, and reads so many bytes of it twice a second."""
    try:
        for _ in range(round(seconds * 2)):
            await asyncio.sleep(0.5)
            with suppress(BlockingIOError):
                client.recv(read)
    finally:
        client.close()


async def silent(gateway: Gateway) -> None:
    await hold(connected(gateway, random.choice((b"", b"GET / HT"))), 30)


async def deaf(gateway: Gateway) -> None:
    await hold(connected(gateway, get("/api/projects/stream?lastEventId=earliest")), 40)


async def slow(gateway: Gateway) -> None:
    await hold(connected(gateway, get("/api/projects/stream")), 30, 200)


async def half_closed(gateway: Gateway) -> None:
    client = connected(gateway, get(random.choice(("/api/projects/p-1/stream", "/api/operations/1"))))
    client.shutdown(socket.SHUT_WR)
    await hold(client, 2, 1000)


async def union(gateway: Gateway) -> None:
    names = "&".join(f"projectId={random.randrange(100_000)}" for _ in range(63))
    path = f"/api/projects/stream?projectId=p&{names}&lastEventId=earliest"
    await hold(connected(gateway, get(path)), 5, 1 << 20)


async def old(gateway: Gateway) -> None:
    id = f"{round(time.time() * 1000) - random.randrange(600_000)}-0"
    await hold(connected(gateway, get("/api/projects/p/stream", f"Last-Event-ID: {id}")), 5, 1 << 20)


async def rubbish(gateway: Gateway) -> None:
    await hold(connected(gateway, random.choice((b"\x16\x03\x01\r\n\r\n", get("/", "Expect: foo")))), 0.5, 1000)


KINDS: tuple[Callable[[Gateway], Awaitable[None]], ...] = (silent, deaf, slow, half_closed, union, old, rubbish)


async def clients(gateway: Gateway) -> None:
    """A crowd of all kinds, each again when it has ended."""

    async def one(kind: Callable[[Gateway], Awaitable[None]]) -> None:
        while True:
            with suppress(OSError):
                await kind(gateway)
            await asyncio.sleep(random.uniform(0, 1))

    weights = (120, 20, 20, 10, 4, 4, 10)
    await asyncio.gather(*(one(kind) for kind, count in zip(KINDS, weights, strict=True) for _ in range(count)))


async def worker(client: redis.Redis) -> None:
    """A few hundred entries a second of the shapes that cost most."""
    number = 0
    while True:
        shape = random.choice(list(SHAPES))
        pipe = client.pipeline(transaction=False)
        for _ in range(3 if shape == "large_entries" else 100):
            pipe.xadd(STREAM, SHAPES[shape](number), maxlen=50_000, approximate=True)  # type: ignore[arg-type]
            number += 1
        await asyncio.to_thread(pipe.execute)
        await asyncio.sleep(random.uniform(0.05, 0.4))


async def publish(client: redis.Redis, until: float) -> int:
    """What the listeners wait for."""
    sent, began = 0, time.monotonic()
    while time.monotonic() < until:
        await asyncio.sleep(max(0.0, began + sent / RATE - time.monotonic()))
        await asyncio.to_thread(client.xadd, STREAM, entry("mine", "p-1", 200), maxlen=50_000, approximate=True)  # type: ignore[arg-type]
        sent += 1
    return sent


async def watch(gateway: Gateway, empty: int) -> None:
    most = 0
    while True:
        for _ in range(12):
            await asyncio.sleep(5)
            most = max(most, gateway.memory() - empty)
        streams = gateway.total("connections")
        print(f"memory +{most >> 20} MiB of {allowed() >> 20} at most, {streams:.0f} streams", flush=True)
        assert most < allowed(), "memory beyond the bound"


def allowed() -> int:
    return 2 * BOUND + (LISTENERS + CROWD) * 8192 + (32 << 20)


async def run(server: RedisServer) -> bool:
    limits = {"SSE_REPLAY_MAX_BYTES": f"{BOUND >> 20}MiB", "SSE_STALLED_AFTER": "10s", "SSE_SLOW_CLIENT_TIMEOUT": "10s"}
    gateway = Gateway(server, SSE_THROTTLE="off", **limits)
    subprocess.run(["prlimit", "--nofile=300:300", "--pid", str(gateway.process.pid)], check=True)
    empty, client = gateway.memory(), redis.Redis.from_url(server.url)
    listening = load(gateway.port, "/api/projects/p-1/stream", LISTENERS, MINUTES * 60 + 5)
    others = [asyncio.create_task(each) for each in (clients(gateway), worker(client), watch(gateway, empty))]
    try:
        sending = asyncio.create_task(publish(client, time.monotonic() + MINUTES * 60))
        await asyncio.wait([sending, *others], return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            if task.done():
                task.result()
        sent = await sending
        found = await asyncio.to_thread(result, listening)
    finally:
        for task in others:
            task.cancel()
        gateway.stop()
    lost = sent * LISTENERS - found["events"]
    p99 = found["p99_ms"]
    print(f"events {sent * LISTENERS:,.0f}, lost {lost:.0f}, p99 {p99:.1f} ms, p99.9 {found['p999_ms']:.1f} ms")
    return not lost and p99 < 100


def main() -> None:
    build()
    server = RedisServer().start()
    try:
        sys.exit(not asyncio.run(run(server)))
    finally:
        server.stop()


if __name__ == "__main__":
    main()
