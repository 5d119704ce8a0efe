"""A gateway is killed and stopped under load: no event lost or doubled, no listener lost for good."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
import redis.asyncio

from tests.e2e.conftest import Launch
from tests.e2e.follower import Follower, Publisher, compare, tasks
from tests.redis_server import RedisServer

KEY = "github:sync:events"


@asynccontextmanager
async def publishing(server: RedisServer, rate: float = 100) -> AsyncIterator[Publisher]:
    async with redis.asyncio.Redis.from_url(server.url, decode_responses=True) as client:
        publisher = Publisher(client, KEY, rate)
        await publisher.publish_now(5)
        yield publisher


async def check(publisher: Publisher, followers: list[Follower], name: str) -> None:
    publisher.paused = True
    await asyncio.sleep(0.1)
    last = (await publisher.publish_now(1))[0]
    for follower in followers:
        await follower.reach(last, 30)
    held = await publisher.held()
    verdicts = [compare(follower, held, [last]) for follower in followers]
    lost, doubled = sum(each.lost for each in verdicts), sum(each.doubled for each in verdicts)
    print(f"\n{name:34} listeners {len(followers)}  sent {publisher.sent}  lost {lost}  doubled {doubled}")
    assert {(each.lost, each.doubled, each.strange) for each in verdicts} == {(0, 0, 0)}
    assert [follower.gaps for follower in followers if follower.gaps] == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_gateway_that_ends_and_comes_back_costs_nothing(
    own_redis: RedisServer, launch: Launch, session: aiohttp.ClientSession, number: signal.Signals
) -> None:
    process = await asyncio.to_thread(launch, SSE_REDIS_URL=own_redis.url)
    followers = [Follower(session, process.url + "/api/projects/p-1/stream", pause=0.3) for _ in range(100)]
    for follower in followers:
        follower.last = "0-0"
    async with publishing(own_redis) as publisher, tasks(*(each.run for each in followers), publisher.run):
        for _ in range(3):
            await asyncio.sleep(1.5)
            process.signal(number)
            status, _ = await asyncio.to_thread(process.wait)
            assert status == (0 if number == signal.SIGTERM else -number)
            await asyncio.to_thread(process.start)
        await check(publisher, followers, f"{number.name}, three times")
        assert min(len(follower.opened) for follower in followers) >= 4
