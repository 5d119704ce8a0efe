"""The command line, the signals and the exit status of a real process."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

import gateway
from gateway.config import VARIABLES
from tests.conftest import Worker
from tests.e2e.conftest import Launch
from tests.eventsource import connect
from tests.redis_server import RedisServer


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SSE_")}
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments], env=clean | settings, capture_output=True, text=True, timeout=20
    )


def test_help_lists_every_variable_with_its_default() -> None:
    done = run("--help")
    assert done.returncode == 0
    for name, variable in VARIABLES.items():
        assert re.search(rf"^  {name} +.*\[{re.escape(variable.default or 'unset')}\]$", done.stdout, re.MULTILINE)


def test_version() -> None:
    assert (run("--version").stdout, run("--version").returncode) == (f"sse-gateway {gateway.__version__}\n", 0)
    assert run("--nonsense").returncode == 2


def test_bad_settings_stop_the_start_with_one_message() -> None:
    done = run(SSE_HEARTBEAT="never", SSE_DRAIN="x", SSE_JWT_SECRET="hush-hush", SSE_HARTBEAT="1s")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 4
    assert "SSE_HARTBEAT: unknown variable" in done.stderr
    assert "SSE_HEARTBEAT='never'" in done.stderr
    assert "SSE_DRAIN='x'" in done.stderr
    assert "hush" not in done.stderr
    assert run().returncode == 2


def test_an_unusable_key_file_stops_the_start(tmp_path: Path) -> None:
    for content, said in (("", "it is empty"), ("junk", "PEM")):
        (tmp_path / "key").write_text(content)
        done = run(SSE_JWT_PUBLIC_KEY=str(tmp_path / "key"))
        assert done.returncode == 2
        assert said in done.stderr


def test_a_taken_port_is_said(shared_redis: RedisServer) -> None:
    done = run(SSE_AUTH="none", SSE_LISTEN=f"127.0.0.1:{shared_redis.port}", SSE_ADMIN_LISTEN="127.0.0.1:0")
    assert done.returncode == 1
    assert "address already in use" in done.stderr.lower()


async def test_sigterm_drains_and_exits_0_with_json_lines(
    worker: Worker, shared_redis: RedisServer, launch: Launch
) -> None:
    process = await asyncio.to_thread(
        launch, SSE_REDIS_URL=shared_redis.url, SSE_STREAM=worker.key, SSE_HEARTBEET="1s", SSE_DRAIN="500ms"
    )
    async with aiohttp.ClientSession() as session:
        first = await worker.publish("started")
        async with connect(session, process.url + "/api/projects/stream") as stream:
            while stream.parser.last_event_id != first:
                await stream.read()
            process.signal(signal.SIGTERM)
            await stream.rest()
            assert stream.parser.last_event_id == first
    status, log = await asyncio.to_thread(process.wait)
    assert status == 0
    lines = [json.loads(line) for line in log.splitlines()]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    assert any("SSE_HEARTBEET" in line["message"] for line in lines)


async def test_a_second_sigterm_exits_at_once(worker: Worker, shared_redis: RedisServer, launch: Launch) -> None:
    process = await asyncio.to_thread(launch, SSE_REDIS_URL=shared_redis.url, SSE_STREAM=worker.key, SSE_DRAIN="60s")
    async with aiohttp.ClientSession() as session, connect(session, process.url + "/api/projects/stream") as one:
        await one.read()
        async with connect(session, process.url + "/api/projects/stream") as two:
            await two.read()
            process.signal(signal.SIGTERM)
            async with asyncio.timeout(5):
                while True:  # until it drains, so that the second signal is not merged with the first
                    async with session.get(process.admin + "/readyz") as response:
                        if response.status == 503:
                            break
            process.signal(signal.SIGTERM)
            status, _ = await asyncio.to_thread(process.wait, 5)
            assert status == 128 + signal.SIGTERM


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_it_runs_without_uvloop_too(
    worker: Worker, shared_redis: RedisServer, launch: Launch, loop: str, tmp_path: Path
) -> None:
    hidden = {} if loop == "uvloop" else {"PYTHONPATH": f"{tmp_path}:."}
    if hidden:
        (tmp_path / "uvloop.py").write_text("raise ImportError")
    process = await asyncio.to_thread(launch, SSE_REDIS_URL=shared_redis.url, SSE_STREAM=worker.key, **hidden)
    async with aiohttp.ClientSession() as session, connect(session, process.url + "/api/projects/p-1/stream") as stream:
        ids = [await worker.publish("progress", f"op-{number}", message="x" * 1000) for number in range(2000)]
        seen = await stream.until_id(ids[-1], timeout=20)
        assert [message.last_event_id for message in seen] == ids
    assert process.stop()[0] == 0


async def test_a_stderr_that_nobody_reads_stops_nothing(
    worker: Worker, shared_redis: RedisServer, launch: Launch
) -> None:
    process = await asyncio.to_thread(
        launch, SSE_REDIS_URL=shared_redis.url, SSE_STREAM=worker.key, SSE_LOG_LEVEL="debug"
    )
    async with aiohttp.ClientSession() as session, connect(session, process.url + "/api/projects/p-1/stream") as stream:
        for _ in range(6):  # a pipe takes 64 KiB, the gateway keeps 1 MiB more
            for _ in range(200):
                path = f"/api/operations/{'x' * 250}/stream?projectId={'y' * 250}&" + "projectId=y&" * 60
                async with session.get(process.url + path, headers={"Connection": "close"}) as response:
                    assert response.status == 200
            id = await worker.publish("started")
            async with asyncio.timeout(5):
                assert (await stream.until_id(id))[-1].last_event_id == id
            if "log_lines_dropped_total 0.0" not in await asyncio.to_thread(process.metrics):
                break
        assert "log_lines_dropped_total 0.0" not in await asyncio.to_thread(process.metrics)
    process.signal(signal.SIGTERM)  # and it ends, though its last lines go nowhere
    assert process.popen is not None
    assert await asyncio.to_thread(process.popen.wait, 10) == 0
    for pipe in (process.popen.stdout, process.popen.stderr):
        assert pipe is not None
        pipe.close()
