"""Fixtures: one real redis-server for all tests, a stream of its own and a gateway of its own for each."""

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest
import redis.asyncio
import uvloop
from hypothesis import HealthCheck, settings

from gateway.config import Config
from gateway.server import Server
from tests.eventsource import Stream, connect
from tests.redis_server import RedisServer

_numbers = itertools.count(1)

# A property is about what is true, not about how fast this machine is today. CI tries the same examples each time: what
# chance finds belongs to whoever runs the tests at a desk.
settings.register_profile(
    "tests", deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """uvloop, as in production, or what the test's module says in LOOPS."""
    assert isinstance(item, pytest.Function)
    return getattr(item.module, "LOOPS", {"uvloop": uvloop.new_event_loop})


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    server = RedisServer().start()
    yield server
    server.stop()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server that a test may kill, stop and empty."""
    server = RedisServer().start()
    yield server
    server.stop()


class Worker:
    """Writes entries to one stream, as workers do."""

    def __init__(self, url: str, key: str) -> None:
        self.key = key
        self.redis = redis.asyncio.Redis.from_url(url, decode_responses=True)

    async def raw(self, id: str = "*", **fields: str | bytes) -> str:
        return str(await self.redis.xadd(self.key, fields, id=id))

    async def publish(
        self, type: str, operation: str = "op-1", project: str = "p-1", id: str = "*", **data: Any
    ) -> str:
        """XADDs a conforming event; `data` is laid over a minimum that conforms. Returns the entry id."""
        body = {"operationId": operation, "projectId": project} | _MINIMUM[type] | data
        return await self.raw(id, type=f"github_sync_{type}", data=json.dumps(body), buildId=f"github-{project}")


_MINIMUM: dict[str, dict[str, Any]] = {
    "started": {"direction": "to_github"},
    "progress": {"message": "Working", "percent": 50},
    "conflict": {"conflicts": ["a.txt"], "strategy": "local_wins", "resolutionRequired": False},
    "completed": {"status": "success", "direction": "to_github", "filesChanged": 1, "duration": 1000},
    "failed": {"status": "failed", "error_code": "UNKNOWN", "message": "It broke", "retryable": False},
}


@asynccontextmanager
async def working(url: str, key: str = "github:sync:events") -> AsyncIterator[Worker]:
    """A worker whose connections are closed whatever happens."""
    writer = Worker(url, key)
    try:
        yield writer
    finally:
        await writer.redis.aclose()


@pytest.fixture
async def worker(shared_redis: RedisServer) -> AsyncIterator[Worker]:
    async with working(shared_redis.url, f"events:{next(_numbers)}") as writer:
        yield writer


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None), connector=aiohttp.TCPConnector(limit=0), auto_decompress=False
    ) as client:
        yield client


class Gateway:
    """A running gateway and ways to ask it."""

    def __init__(self, server: Server, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session
        public, admin = server.addresses
        self.url = f"http://{public[0]}:{public[1]}"
        self.admin = f"http://{admin[0]}:{admin[1]}"
        self.port = public[1]

    def stream(self, path: str, **options: Any) -> AbstractAsyncContextManager[Stream]:
        return connect(self.session, self.url + path, **options)

    async def get(self, path: str, **headers: str) -> aiohttp.ClientResponse:
        asked = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.get(self.url + path, headers=asked) as response:
            await response.read()
            return response

    async def metric(self, name: str, **labels: str) -> float:
        """The value of one sample of /metrics; 0 where it isn't there."""
        async with self.session.get(self.admin + "/metrics") as response:
            text = await response.text()
        wanted = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        sample = f"sse_gateway_{name}" + (f"{{{wanted}}}" if wanted else "")
        values = [float(line.rpartition(" ")[2]) for line in text.splitlines() if line.rpartition(" ")[0] == sample]
        return values[0] if values else 0.0

    async def metric_reaches(self, value: float, name: str, **labels: str) -> None:
        """Waits until a metric is at least `value`."""
        async with asyncio.timeout(10):
            while await self.metric(name, **labels) < value:
                await asyncio.sleep(0.02)

    async def read(self, id: str) -> None:
        """Waits until the gateway has read the entry `id`."""
        ms, _, seq = id.partition("-")
        async with asyncio.timeout(10):
            while self.server.hub.history.newest < (int(ms) << 64 | int(seq)):
                await asyncio.sleep(0.005)


SILENT = {
    "SSE_LISTEN": "127.0.0.1:0",
    "SSE_ADMIN_LISTEN": "127.0.0.1:0",
    "SSE_AUTH": "none",
    "SSE_DRAIN": "0",
}
"""Settings that get in nobody's way."""


@asynccontextmanager
async def running(session: aiohttp.ClientSession, **settings: str) -> AsyncIterator[Gateway]:
    """A gateway in this process, on free ports, without auth unless told."""
    server = Server(Config.load(SILENT | settings))
    await server.start()
    serving = asyncio.create_task(server.run())
    try:
        yield Gateway(server, session)
    finally:
        server.stop()
        await serving


Start = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def start(worker: Worker, shared_redis: RedisServer, session: aiohttp.ClientSession) -> AsyncIterator[Start]:
    """Starts gateways on the worker's stream: `await start(SSE_HEARTBEAT="1s")`; ready when it returns."""
    async with AsyncExitStack() as stack:

        async def begin(**settings: str) -> Gateway:
            where = {"SSE_REDIS_URL": shared_redis.url, "SSE_STREAM": worker.key}
            gateway = await stack.enter_async_context(running(session, **(where | settings)))
            async with asyncio.timeout(10):
                await gateway.server.ready()
            return gateway

        yield begin


@pytest.fixture
async def gateway(start: Start) -> Gateway:
    return await start()
