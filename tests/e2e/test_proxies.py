"""Behind real proxies: the first byte and every event at once, Last-Event-ID passes, a drain ends streams cleanly."""

import asyncio
import json
import re
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import Worker
from tests.e2e.conftest import Launch
from tests.e2e.front import INGRESS, haproxy, needs_haproxy, needs_nginx, nginx
from tests.eventsource import Parser, connect
from tests.redis_server import RedisServer

CHART = Path(__file__).parent.parent.parent / "helm" / "sse-gateway" / "README.md"
GZIP = "gzip on; gzip_proxied any; gzip_types *; gzip_min_length 1; gzip_http_version 1.0;"
AT_ONCE = 0.7
"""Seconds; a proxy that buffered would wait for the next heartbeat, 15 s."""

UNTOUCHED, PACKED = None, "gzip"  # the Content-Encoding that reaches the client; HAProxy heeds our `no-transform`

Front = Callable[[list[int]], AbstractContextManager[int]]
FRONTS = [
    pytest.param(lambda ports: nginx(ports), UNTOUCHED, marks=needs_nginx, id="nginx as ingress-nginx sets it up"),
    pytest.param(lambda ports: nginx(ports, ""), UNTOUCHED, marks=needs_nginx, id="nginx untouched, which buffers"),
    pytest.param(
        lambda ports: nginx(ports, INGRESS, GZIP), PACKED, marks=needs_nginx, id="ingress-nginx with gzip for all"
    ),
    pytest.param(lambda ports: nginx(ports, GZIP), PACKED, marks=needs_nginx, id="nginx untouched with gzip for all"),
    pytest.param(lambda ports: haproxy(ports), UNTOUCHED, marks=needs_haproxy, id="HAProxy"),
    pytest.param(
        lambda ports: haproxy(ports, "  compression algo gzip\n  compression type text/event-stream"),
        UNTOUCHED,
        marks=needs_haproxy,
        id="HAProxy with gzip",
    ),
]


@pytest.mark.parametrize(("front", "encoding"), FRONTS)
async def test_nothing_is_held_back_and_a_drain_ends_cleanly(
    worker: Worker, shared_redis: RedisServer, launch: Launch, front: Front, encoding: str | None
) -> None:
    process = await asyncio.to_thread(launch, SSE_REDIS_URL=shared_redis.url, SSE_STREAM=worker.key, SSE_DRAIN="300ms")
    asked = {"Accept-Encoding": "gzip"}
    with front([process.port]) as port:
        url = f"http://127.0.0.1:{port}/api/projects/p-1/stream"
        async with aiohttp.ClientSession() as session:
            began = time.monotonic()
            async with connect(session, url, headers=asked) as stream:
                assert stream.response.headers.get("Content-Encoding") == encoding
                await stream.read()  # the retry line
                assert time.monotonic() - began < AT_ONCE
                for number in range(5):
                    published = time.monotonic()
                    id = await worker.publish("started", f"op-{number}")
                    assert (await stream.next()).last_event_id == id
                    assert time.monotonic() - published < AT_ONCE
                    await asyncio.sleep(0.1)
            missed = await worker.publish("started", "op-missed")
            async with connect(session, url, last_event_id=id, headers=asked) as stream:
                assert (await stream.next()).last_event_id == missed
                newest = await worker.publish("started", "elsewhere", project="p-2")
                process.signal(15)
                await stream.rest()  # ends, with no error on the way
                assert stream.parser.last_event_id in (missed, newest)
    assert (await asyncio.to_thread(process.wait))[0] == 0


@needs_nginx
async def test_the_pages_lines_turn_a_proxys_502_into_a_retry(
    worker: Worker, shared_redis: RedisServer, launch: Launch, session: aiohttp.ClientSession
) -> None:
    [lines] = re.findall(r"```nginx\n(.*?)```", CHART.read_text(encoding="utf-8"), re.DOTALL)
    process = await asyncio.to_thread(launch, SSE_REDIS_URL=shared_redis.url, SSE_STREAM=worker.key)
    with nginx([process.port], server=lines) as port:
        url = f"http://127.0.0.1:{port}/api/projects/p-1/stream"
        await asyncio.to_thread(process.kill)
        async with session.get(url) as response:
            assert (response.status, response.content_type) == (200, "text/event-stream")
            [refused] = Parser().feed(await response.read())
            assert (refused.type, refused.json) == ("refused", {"status": 502})
        await asyncio.to_thread(process.start)
        async with connect(session, url) as stream:
            await stream.until_id("0-0")
            id = await worker.publish("started")
            assert (await stream.next()).last_event_id == id


@needs_nginx
async def test_http_2_through_nginx(worker: Worker, shared_redis: RedisServer, launch: Launch) -> None:
    process = await asyncio.to_thread(launch, SSE_REDIS_URL=shared_redis.url, SSE_STREAM=worker.key)
    with nginx([process.port], listen="http2") as port:
        command = ["curl", "-sSN", "--http2-prior-knowledge", "-D", "-", "-m", "20"]
        curl = await asyncio.create_subprocess_exec(
            *command, f"http://127.0.0.1:{port}/api/operations/op-1/stream", stdout=subprocess.PIPE
        )
        assert curl.stdout is not None
        async with asyncio.timeout(20):
            head = await curl.stdout.readuntil(b"retry:")
            assert head.startswith(b"HTTP/2 200")
            assert b"\r\nconnection:" not in head
            await worker.publish("started")
            await worker.publish("completed")
            rest = await curl.stdout.read()  # the terminal event ends the stream
            assert await curl.wait() == 0
    data = [json.loads(line[6:]) for line in rest.decode().splitlines() if line.startswith("data: ")]
    assert [each.get("status") for each in data if "operationId" in each] == [None, "success"]
