"""Chromium's own EventSource follows a sync from its start to its end, through a gateway that is killed on the way."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import redis.asyncio
from aiohttp import web

from tests.conftest import Worker
from tests.e2e.browser import chromium, needs_chromium
from tests.e2e.conftest import Launch
from tests.redis_server import RedisServer

PAGE = Path(__file__).parent / "page.html"


async def serve_page() -> tuple[web.AppRunner, str]:
    async def page(request: web.Request) -> web.FileResponse:
        return web.FileResponse(PAGE)

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


@needs_chromium
async def test_eventsource_survives_a_killed_gateway_and_stops_at_the_end(
    worker: Worker, shared_redis: RedisServer, launch: Launch
) -> None:
    runner, origin = await serve_page()
    process = await asyncio.to_thread(
        launch, SSE_REDIS_URL=shared_redis.url, SSE_STREAM=worker.key, SSE_CORS_ORIGINS=origin, SSE_RETRY="300ms"
    )
    try:
        async with chromium() as browser:
            page = await browser.new_page()
            await page.goto(origin)
            await page.evaluate("url => follow(url)", process.url + "/api/operations/op-1/stream")
            await page.wait_for_function("states.includes('open')")
            ids = [await worker.publish("started")]
            for percent in range(0, 50, 10):
                ids.append(await worker.publish("progress", percent=percent, message=f"<b>{percent}</b>\n"))
            await page.wait_for_function("seen.length === 6")
            await asyncio.to_thread(process.kill)
            for percent in range(50, 80, 10):
                ids.append(await worker.publish("progress", percent=percent))
            await page.wait_for_function("states.includes('reconnecting')")
            await asyncio.to_thread(process.start)
            for percent in (80, 90, 100):
                ids.append(await worker.publish("progress", percent=percent))
            ids.append(await worker.publish("conflict"))
            await page.wait_for_function("seen.some(event => event.percent === 100)")
            ids.append(await worker.publish("completed"))
            await page.wait_for_function("source.readyState === EventSource.CLOSED", timeout=20_000)
            seen: list[dict[str, Any]] = await page.evaluate("seen")
            assert [event["id"] for event in seen] == ids
            assert seen[0]["type"] == "github_sync_started"
            assert seen[-1]["type"] == "github_sync_completed"
            assert await page.evaluate("states.at(-1)") == "closed"
    finally:
        await runner.cleanup()


@needs_chromium
async def test_a_refusal_in_its_own_language_keeps_eventsource_trying(
    worker: Worker, shared_redis: RedisServer, launch: Launch
) -> None:
    runner, origin = await serve_page()
    process = await asyncio.to_thread(
        launch,
        SSE_REDIS_URL=shared_redis.url,
        SSE_STREAM=worker.key,
        SSE_CORS_ORIGINS=origin,
        SSE_RETRY="200ms",
        SSE_MAX_CONNECTIONS="1",
    )
    try:
        async with chromium() as browser:
            first, second = await browser.new_page(), await browser.new_page()
            for page in (first, second):
                await page.goto(origin)
                await page.evaluate("url => follow(url)", process.url + "/api/projects/p-1/stream")
                await page.wait_for_function("states.includes('open')")
            await second.wait_for_function("states.includes('reconnecting')")
            await first.close()
            id = await worker.publish("started")
            await second.wait_for_function("seen.length === 1", timeout=20_000)
            assert await second.evaluate("seen[0].id") == id
    finally:
        await runner.cleanup()


@needs_chromium
async def test_a_page_follows_the_sample_workers_real_sync(shared_redis: RedisServer, launch: Launch) -> None:
    key = "browser:real"
    runner, origin = await serve_page()
    process = await asyncio.to_thread(launch, SSE_REDIS_URL=shared_redis.url, SSE_STREAM=key, SSE_CORS_ORIGINS=origin)
    try:
        async with chromium() as browser:
            page = await browser.new_page()
            await page.goto(origin)
            await page.evaluate("url => follow(url)", process.url + "/api/projects/stream")
            await page.wait_for_function("states.includes('open')")
            await run_worker(shared_redis.url, key, rounds=5)
            ended = "seen.filter(event => /completed|failed/.test(event.type)).length === 6"
            await page.wait_for_function(ended, timeout=20_000)
            seen: list[dict[str, Any]] = await page.evaluate("seen")
        attempts: dict[str, list[dict[str, Any]]] = {}
        for event in seen:
            attempts.setdefault(event["run"], []).append(event)
        assert len({event["operationId"] for event in seen}) == 5
        assert len(attempts) == 6  # one of them is tried again, and succeeds
        for events in attempts.values():
            assert events[0]["type"] == "github_sync_started"
            percents = [event["percent"] for event in events if "percent" in event]
            assert percents == sorted(percents)
        assert {event.get("error_code") for event in seen} == {None, "NOT_FAST_FORWARD", "BRANCH_PROTECTED"}
        assert sum(event["type"] == "github_sync_conflict" for event in seen) == 1
        assert len({event["id"] for event in seen}) == len(seen)
        client = redis.asyncio.Redis.from_url(shared_redis.url)
        assert await client.xlen(key) >= len(seen)
        await client.aclose()
    finally:
        await runner.cleanup()


async def run_worker(url: str, key: str, rounds: int) -> None:
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.worker",
        env=os.environ | {"SSE_REDIS_URL": url, "SSE_STREAM": key, "ROUNDS": str(rounds), "PAUSE": "0.1"},
    )
    assert await worker.wait() == 0
