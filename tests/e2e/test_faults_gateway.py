"""Gateways are killed, stopped and deployed anew under load: no event lost or doubled, no listener lost for good."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest
import redis.asyncio

from tests.e2e.browser import chromium, needs_chromium
from tests.e2e.conftest import Launch
from tests.e2e.follower import Follower, Publisher, compare, tasks
from tests.e2e.front import needs_nginx, nginx
from tests.e2e.process import Process
from tests.e2e.test_browser import serve_page
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


@needs_nginx
@needs_chromium
async def test_a_rolling_deploy_of_three_behind_nginx(
    own_redis: RedisServer, launch: Launch, session: aiohttp.ClientSession
) -> None:
    runner, origin = await serve_page()
    settings = {"SSE_REDIS_URL": own_redis.url, "SSE_DRAIN": "3s", "SSE_RETRY": "1s", "SSE_CORS_ORIGINS": origin}
    processes: list[Process] = [await asyncio.to_thread(launch, **settings) for _ in range(3)]
    async with AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        port = stack.enter_context(nginx([process.port for process in processes]))
        publisher = await stack.enter_async_context(publishing(own_redis))
        url = f"http://127.0.0.1:{port}/api/projects/p-1/stream"
        followers = [Follower(session, url, pause=0.5) for _ in range(300)]
        for follower in followers:
            follower.last = "0-0"
        page = await (await stack.enter_async_context(chromium())).new_page()
        await page.goto(origin)
        await page.evaluate("url => follow(url)", f"{url}?lastEventId=0-0")
        await stack.enter_async_context(tasks(*(each.run for each in followers), publisher.run))
        await asyncio.sleep(1)
        opened = [len(follower.opened) for follower in followers]
        began = asyncio.get_running_loop().time()
        for process in processes:
            process.signal(signal.SIGTERM)
            assert (await asyncio.to_thread(process.wait))[0] == 0
            await asyncio.to_thread(process.start)
        await check(publisher, followers, "rolling deploy of three")
        held = await publisher.held()
        await page.wait_for_function("id => seen.at(-1)?.id === id", arg=held[-1], timeout=30_000)
        seen: list[dict[str, Any]] = await page.evaluate("seen")
        assert [event["id"] for event in seen] == held
        assert await page.evaluate("states.at(-1)") == "open"
        again = [at - began for each, before in zip(followers, opened, strict=True) for at in each.opened[before:]]
        histogram = Counter(int(at) for at in again)
        print(f"reconnects {len(again)}, by second: {[histogram[second] for second in range(max(histogram) + 1)]}")
        # Spread over the drains, not in one crowd: no second has a third of them.
        assert max(histogram.values()) < len(again) / 3
