"""Other people's clients, through all that happens to a stream: engines as their systems ship them, npm's and Python's.

What a front end's author has to know of each is in gateway/js/README.md's table, which is held to CLIENTS here.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.conftest import Worker
from tests.e2e.conftest import Launch
from tests.e2e.engines import ENGINES, missing
from tests.e2e.npm import NPM, installed
from tests.e2e.process import Process
from tests.eventsource import connect
from tests.redis_server import RedisServer

SECRET = "a secret of at least thirty-two bytes"

Told = list[dict[str, Any]]
Look = Callable[[], Awaitable[Told]]
"""All that a client was told so far; a last `{"closed": true}` where it has given up."""


def token() -> str:
    return jwt.encode({"exp": time.time() + 600, "sub": "one", "projects": ["p-1"]}, SECRET, "HS256")


MADE = {
    "EventSource": "new EventSource(url + `?access_token=${token}`)",
    "event-source-polyfill": "new EventSourcePolyfill(url, { headers, heartbeatTimeout: 40_000 })",
    # 204 is no end to it: its page closes it at the last event.
    "sse.js": "new SSE(url, { headers, autoReconnect: true, reconnectDelay: 500 })",
}
FILES = {"event-source-polyfill": "event-source-polyfill/src/eventsource.js", "sse.js": "sse.js/lib/sse.js"}
FOLLOW = """
  const headers = { Authorization: `Bearer ${token}` }, source = MADE;
  Object.assign(globalThis, { seen: [], over: false, source });
  for (const type of ["started", "progress", "conflict", "completed", "failed"])
    source.addEventListener(`github_sync_${type}`, (event) => seen.push({ type: event.type, id: event.lastEventId }));
  source.addEventListener("error", () => { over = source.readyState === 2 && !source.autoReconnect; });
  source.addEventListener("github_sync_completed", () => {
    if (source.autoReconnect) over = source.close() ?? true;
  });
  return 1;
"""


@asynccontextmanager
async def page(engine: str, made: str, process: Process, path: str) -> AsyncIterator[Look]:
    """A page of the gateway's own origin."""
    library = (NPM / "node_modules" / FILES[made]).read_text() if made in FILES else ""
    async with ENGINES[engine](process.url + "/ui/live.css") as evaluate:
        given = f"const url = {json.dumps(process.url + path)}, token = {json.dumps(token())};"
        await evaluate(
            f"(() => {{ {library.replace('export {', 'void {')}; {given} {FOLLOW.replace('MADE', MADE[made])} }})()"
        )

        async def look() -> Told:
            seen, over = await evaluate("[seen, over]")  # in one look
            return [*seen, *([{"closed": True}] if over else [])]

        yield look


@asynccontextmanager
async def program(words: tuple[str, ...], cwd: Path | None, process: Process, path: str) -> AsyncIterator[Look]:
    told: Told = []

    async def read(out: asyncio.StreamReader) -> None:
        async for line in out:
            told.append(json.loads(line))

    async def look() -> Told:
        return told

    pipe = asyncio.subprocess.PIPE
    started = await asyncio.create_subprocess_exec(*words, process.url + path, token(), cwd=cwd, stdout=pipe)
    assert started.stdout is not None
    reading = asyncio.create_task(read(started.stdout))
    try:
        yield look
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()
        await reading


def browser(engine: str, made: str = "EventSource") -> Any:
    skip = pytest.mark.skipif(missing(engine), reason=f"{engine} is not installed")
    return pytest.param(lambda *given: page(engine, made, *given), id=f"{made} in {engine}", marks=skip)


def library(name: str) -> Any:
    return pytest.param(lambda *given: program(("node", "clients.mjs", name), NPM, *given), id=name)


def python(name: str) -> Any:
    words = (sys.executable, "-m", "tests.e2e.py_clients", name)
    return pytest.param(lambda *given: program(words, None, *given), id=name)


CLIENTS = [
    *map(browser, ENGINES),
    *(browser("chromium", made) for made in FILES),
    *map(library, ("eventsource", "eventsource-client", "@microsoft/fetch-event-source")),
    *map(python, ("httpx-sse", "aiohttp-sse-client2")),
]


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    installed()


async def until(look: Look, shown: Callable[[Told], bool], timeout: float = 30) -> Told:
    async with asyncio.timeout(timeout):
        while not shown(told := await look()):
            await asyncio.sleep(0.05)
    return told


def ids(told: Told) -> list[str]:
    return [each["id"] for each in told if each.get("type", "").startswith("github_sync_")]


@pytest.mark.parametrize("client", CLIENTS)
async def test_it_loses_and_doubles_nothing_and_stops_at_the_end(
    client: Callable[..., AbstractAsyncContextManager[Look]],
    own_redis: RedisServer,
    launch: Launch,
    session: Any,
) -> None:
    settings = {
        "SSE_AUTH": "jwt",
        "SSE_JWT_SECRET": SECRET,
        "SSE_RETRY": "200ms",
        "SSE_HEARTBEAT": "500ms",
        "SSE_UI": "on",
    }
    limit = {"SSE_MAX_CONNECTIONS_PER_CLIENT": "1"}
    process = await asyncio.to_thread(launch, SSE_REDIS_URL=own_redis.url, **settings, **limit)
    worker = Worker(own_redis.url, "github:sync:events")
    path, bearer = "/api/operations/op-1/stream", {"Authorization": f"Bearer {token()}"}
    sent: list[str] = []

    async def publish(type: str, **data: Any) -> None:
        sent.append(await worker.publish(type, **data))

    async with connect(session, process.url + "/api/projects/p-1/stream", headers=bearer) as holder:
        await holder.until_id("0-0")
        taking = client(process, path)
        look = await taking.__aenter__()  # refused: the place is taken
        try:
            async with asyncio.timeout(20):
                while 'requests_rejected_total{status="429"} 1.0' not in await asyncio.to_thread(process.metrics):
                    await asyncio.sleep(0.05)
        except BaseException:
            await taking.__aexit__(None, None, None)
            raise
    try:
        await publish("started")
        await until(look, lambda told: ids(told) == sent)
        await asyncio.to_thread(process.kill)  # SIGKILL in the middle
        await publish("progress", percent=10)
        await publish("progress", percent=20)
        await asyncio.to_thread(process.start)
        await until(look, lambda told: ids(told) == sent)
        for _ in range(50):  # others' events: the quiet stream's place must move on
            await worker.publish("started", "other", "p-2")
        await asyncio.sleep(1.2)
        await worker.redis.xtrim(worker.key, maxlen=20, approximate=False)
        process.signal(15)  # a clean close of a stream that has been quiet
        await asyncio.to_thread(process.wait)
        await publish("progress", percent=60)
        await asyncio.to_thread(process.start)
        await until(look, lambda told: ids(told) == sent)
        await publish("completed")
        told = await until(look, lambda told: bool(told) and "closed" in told[-1])
        assert ids(told) == sent
        assert not any(each.get("type") == "replay_gap" for each in told)
    finally:
        await taking.__aexit__(None, None, None)
        await worker.redis.aclose()
