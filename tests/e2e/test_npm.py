"""The README's BullMQ worker, the React hook and the types, with the real packages from npm."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import Worker
from tests.e2e.conftest import Launch
from tests.eventsource import Stream, connect
from tests.redis_server import RedisServer

ROOT = Path(__file__).parent.parent.parent
NPM = ROOT / "tests" / "npm"
BUILD = NPM / "build"

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="npm (Node.js) is not installed")


@pytest.fixture(scope="module")
def built() -> Path:
    """Everything transpiled and type-checked: the README's lines, the module's types as a page uses them."""
    if not (NPM / "node_modules" / "bullmq").exists():
        flags = ["--no-package-lock", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(["npm", "install", *flags], cwd=NPM, check=True, capture_output=True, timeout=300)
    shutil.rmtree(BUILD, ignore_errors=True)
    (BUILD / "web").mkdir(parents=True)
    [code] = re.findall(r"```ts\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (BUILD / "worker.ts").write_text(code)
    for name in ("sync.ts", "main.ts", "types.ts"):
        shutil.copy(NPM / name, BUILD / name)
    for path in (ROOT / "gateway" / "web").glob("*.js"):
        shutil.copy(path, BUILD / "web" / path.name)
    (BUILD / "types.ts").write_text((BUILD / "types.ts").read_text().replace("../../../gateway/web/", "./web/"))
    for path in (ROOT / "gateway" / "web").glob("*.d.ts"):
        shutil.copy(path, BUILD / "web" / path.name)
    options = [
        "--strict",
        "--target",
        "es2022",
        "--module",
        "nodenext",
        "--moduleResolution",
        "nodenext",
        "--skipLibCheck",
    ]
    tsc = ["node", str(NPM / "node_modules" / "typescript" / "bin" / "tsc"), *options, "main.ts", "types.ts"]
    done = subprocess.run(tsc, cwd=BUILD, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    return BUILD


@asynccontextmanager
async def node(*arguments: str, cwd: Path, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Node.js process that is gone when the block is left."""
    process = await asyncio.create_subprocess_exec(
        "node", *arguments, cwd=cwd, env=os.environ | environment, stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_the_readmes_bullmq_worker_is_followed_to_its_ends(
    built: Path, own_redis: RedisServer, launch: Launch
) -> None:
    process = await asyncio.to_thread(launch, SSE_REDIS_URL=own_redis.url)
    async with aiohttp.ClientSession() as session, connect(session, process.url + "/api/projects/stream") as stream:
        await stream.until_id("0-0")
        async with node("main.js", cwd=built, REDIS_URL=own_redis.url) as worker:
            out, _ = await asyncio.wait_for(worker.communicate(), 60)
            assert worker.returncode == 0
        ids = dict(line.split() for line in out.decode().splitlines())
        seen: dict[str, list[str]] = {}
        await collect(stream, seen, ids)
    started, completed = "github_sync_started", "github_sync_completed"
    steps = ["github_sync_progress"] * 5
    failed = "github_sync_failed"
    assert seen[ids["works"]] == [started, *steps, completed]
    assert seen[ids["limps"]] == [started, *steps, f"{failed} retryable", started, *steps, completed]
    assert seen[ids["breaks"]] == [started, *steps, failed]


async def collect(stream: Stream, seen: dict[str, list[str]], ids: dict[str, str]) -> None:
    while not all(seen.get(id, [""])[-1] in ("github_sync_completed", "github_sync_failed") for id in ids.values()):
        message = await stream.next()
        retryable = " retryable" if message.json.get("retryable") else ""
        seen.setdefault(message.json["operationId"], []).append(message.type + retryable)


async def test_the_react_hook_gives_the_state_of_a_sync(
    built: Path, worker: Worker, shared_redis: RedisServer, launch: Launch
) -> None:
    process = await asyncio.to_thread(launch, SSE_REDIS_URL=shared_redis.url, SSE_STREAM=worker.key)
    state: dict[str, Any] = {}
    async with node("hook.mjs", process.url, "op-1", cwd=NPM) as page:

        async def until(shown: Callable[[dict[str, Any]], bool]) -> None:
            async with asyncio.timeout(15):
                while not (state and shown(state)):
                    line = await page.stdout.readline()
                    assert line, state
                    state.update(json.loads(line))

        # One step at a time: React renders only the last of the events that come at once.
        await until(lambda state: state["status"] == "live")
        await worker.publish("started")
        await worker.publish("progress", percent=30, message="Pushing")
        await until(lambda state: (state["percent"], state["message"]) == (30, "Pushing"))
        await worker.publish("failed", retryable=True)
        await until(lambda state: state["error"] and state["error"]["retryable"])
        assert (state["attempt"], state["attempts"]) == (None, None)
        await worker.publish("started", attempt=2, attempts=3)
        await until(lambda state: (state["attempt"], state["attempts"], state["percent"]) == (2, 3, 0))
        await worker.publish("progress", percent=60)
        await until(lambda state: state["percent"] == 60 and state["error"] is None)
        await worker.publish("conflict", conflicts=["a.txt"])
        await until(lambda state: state["conflict"] and state["conflict"]["conflicts"] == ["a.txt"])
        await worker.publish("completed", filesChanged=9)
        await until(lambda state: state["status"] == "ended")
        assert (state["percent"], state["result"]["filesChanged"]) == (100, 9)
        assert await asyncio.wait_for(page.wait(), 10) == 0
