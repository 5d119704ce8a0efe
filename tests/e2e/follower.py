"""Listeners that come back as browsers do, a publisher that doesn't give up, and what the one saw of the other."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import redis
import redis.asyncio

from tests.eventsource import Parser

Redis = Any  # redis.asyncio.Redis or RedisCluster


class Follower:
    """An EventSource that checks nothing: `runs` holds the ids it was given, a run for each `replay_gap`."""

    def __init__(self, session: aiohttp.ClientSession, url: str, pause: float = 0.2) -> None:
        self.runs: list[list[str]] = [[]]
        self.gaps: list[dict[str, Any]] = []
        self.gap_at: list[float] = []
        self.seen_at: dict[str, float] = {}
        self.opened: list[float] = []
        self.last = ""
        self._session = session
        self._url = url
        self._pause = pause

    async def run(self) -> None:
        while True:
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                await self._listen()
            await asyncio.sleep(self._pause)

    async def _listen(self) -> None:
        asked = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self.last} if self.last else {})
        async with self._session.get(self._url, headers=asked) as response:
            if response.status != 200:
                return
            self.opened.append(time.monotonic())
            parser = Parser(last_event_id=self.last)
            async for chunk in response.content.iter_any():
                for message in parser.feed(chunk):
                    if message.type == "replay_gap":
                        self.gaps.append(message.json)
                        self.gap_at.append(time.monotonic())
                        self.runs.append([])
                    elif message.type.startswith("github_sync_"):
                        self.runs[-1].append(message.last_event_id)
                        self.seen_at[message.last_event_id] = time.monotonic()
                self.last = parser.last_event_id

    async def reach(self, id: str, timeout: float) -> None:
        """Waits until the event `id` was seen."""
        async with asyncio.timeout(timeout):
            while id not in self.seen_at:
                await asyncio.sleep(0.01)


@dataclass
class Publisher:
    """Writes an operation's start, `rate` times a second; tries again for ever where Redis fails."""

    client: Redis
    key: str
    rate: float = 200
    paused: bool = False
    sent: int = 0
    failed: int = 0
    newest: str = ""
    _number: int = field(default=0)

    async def run(self) -> None:
        began, count = time.monotonic(), 0
        while True:
            if self.paused or count > (time.monotonic() - began) * self.rate:
                await asyncio.sleep(0.002)
            else:
                await self.publish()
                count += 1

    async def publish(self, id: str = "*") -> str:
        """The id of the entry written, or '' where Redis didn't take it."""
        self._number += 1
        data = {"operationId": f"op-{self._number}", "projectId": "p-1", "direction": "to_github"}
        fields = {"type": "github_sync_started", "data": json.dumps(data)}
        try:
            async with asyncio.timeout(2):
                self.newest = await self.client.xadd(self.key, fields, id=id)
        except (redis.RedisError, redis.exceptions.RedisClusterException, OSError, TimeoutError, RuntimeError) as error:
            assert not isinstance(error, RuntimeError) or "closed" in str(error), CLOSED
            self.failed += 1
            await asyncio.sleep(0.02)
            return ""
        self.sent += 1
        return self.newest

    async def publish_now(self, count: int) -> list[str]:
        """Writes `count` events, however often Redis has to be asked; their ids."""
        ids: list[str] = []
        async with asyncio.timeout(30):
            while len(ids) < count:
                if id := await self.publish():
                    ids.append(id)
        return ids

    async def held(self) -> list[str]:
        return [id for id, _ in await self.client.xrange(self.key)]


CLOSED = "uvloop has no connection error for what is written after Redis closed, between two writes of redis-py's"


@asynccontextmanager
async def connected(**options: Any) -> AsyncIterator["redis.asyncio.Redis[str]"]:
    """A client of redis-py, closed to the end even where its task is cancelled meanwhile: redis-py's own `async with`
    then leaves connections open. A time-out belongs inside of it.
    """
    client = redis.asyncio.Redis(decode_responses=True, **options)
    try:
        yield client
    except RuntimeError as error:
        if "closed" not in str(error):
            raise
        raise redis.ConnectionError(CLOSED) from error
    finally:
        await asyncio.shield(client.aclose())


@asynccontextmanager
async def tasks(*runs: Callable[[], Awaitable[None]]) -> AsyncIterator[list["asyncio.Task[None]"]]:
    """Runs each as a task until the block ends; what one fails of is raised here."""
    running = [asyncio.ensure_future(run()) for run in runs]
    try:
        yield running
    finally:
        for task in running:
            while not task.done():  # asyncio.wait_for, within redis-py, may swallow one before Python 3.12
                task.cancel()
                await asyncio.wait([task], timeout=1)
        for task in running:
            if not task.cancelled():
                task.result()


@dataclass
class Verdict:
    """What a follower missed of what Redis holds, what it got twice, and what it got that isn't there."""

    lost: int
    doubled: int
    strange: int


def compare(follower: Follower, held: list[str], after: list[str]) -> Verdict:
    """Without a gap, all of the stream must have been seen; after one, all from the events `after` on at least."""
    run = follower.runs[-1]
    there = set(held)
    wanted = held if not follower.gaps else [*held[held.index(after[0]) :]]
    seen = set(run)
    in_order = [id for id in held if id in seen]
    strange = sum(id not in there for id in run) + (list(dict.fromkeys(run)) != in_order)
    return Verdict(sum(id not in seen for id in wanted), sum(map(len, follower.runs)) - _distinct(follower), strange)


def _distinct(follower: Follower) -> int:
    return sum(len(set(run)) for run in follower.runs)
