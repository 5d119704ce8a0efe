"""The README's BullMQ worker, the React hook and the types, with the real packages from npm."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis

from tests.conftest import Worker
from tests.e2e.conftest import Launch
from tests.e2e.npm import FLAGS, NPM, ROOT, installed, node, packed
from tests.eventsource import Stream, connect
from tests.redis_server import RedisServer
from tests.test_producer import seen

BUILD = NPM / "build"
STRICT = ("--strict", "--target", "es2022", "--module", "nodenext", "--moduleResolution", "nodenext", "--skipLibCheck")

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="npm (Node.js) is not installed")


def code(page: str) -> list[str]:
    return re.findall(r"```ts\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def built() -> Path:
    """Everything transpiled and type-checked: the pages' lines, the package's types as its users use them."""
    installed()
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir()
    [worker] = code("README.md")
    block, trigger = code("gateway/producer/README.md")
    (BUILD / "worker.ts").write_text(worker)
    (BUILD / "trigger.ts").write_text(trigger)
    (BUILD / "block.ts").write_text(
        'import { Redis } from "ioredis";\nconst redis = new Redis(process.env.URL!);\n'
        + block
        + "redis.disconnect();\n"
    )
    for name in ("sync.ts", "main.ts", "types.ts"):
        shutil.copy(NPM / name, BUILD / name)
    words = [
        "node",
        str(NPM / "node_modules" / "typescript" / "bin" / "tsc"),
        *STRICT,
        "main.ts",
        "types.ts",
        "block.ts",
    ]
    done = subprocess.run(words, cwd=BUILD, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    return BUILD


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


async def test_the_workers_page_in_typescript(built: Path, own_redis: RedisServer) -> None:
    done = subprocess.run(["node", "block.js"], cwd=built, env=os.environ | {"URL": own_redis.url}, timeout=20)
    assert done.returncode == 0
    client = redis.Redis.from_url(own_redis.url, decode_responses=True)
    types = [type.removeprefix("github_sync_") for _, type in seen(client.xrange("github:sync:events"))]
    client.close()
    assert types == ["started", "progress", "conflict", "completed"]


@pytest.mark.parametrize(("module", "resolution"), [("esnext", "bundler"), ("nodenext", "nodenext")])
def test_the_tarball_in_a_project_of_its_own(built: Path, tmp_path: Path, module: str, resolution: str) -> None:
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    words = ["npm", "install", "--no-save", "--offline", "--omit=optional", *FLAGS, str(packed(tmp_path))]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    (tmp_path / "page.ts").write_text(
        'import { watch, type SyncEvent } from "github-sync-events";\n'
        'import { githubError, redact, type StandardError } from "github-sync-events/producer";\n'
        "export const said: StandardError = githubError(new Error(redact('ghp_aaaaaaaaaaaaaaaa')));\n"
        "export const events: SyncEvent[] = [];\n"
        "type Told = SyncEvent | { type: 'operation_stalled' };\n"
        "const keep = (told: Told) => void (told.type === 'operation_stalled' || events.push(told));\n"
        "export const open = () => watch({ operationId: 'op', onEvent: keep });\n"
        "console.log(said.error);\n"
    )
    tsc = ["node", str(NPM / "node_modules" / "typescript" / "bin" / "tsc"), "--strict", "--target", "es2022"]
    words = [*tsc, "--lib", "es2022,dom", "--module", module, "--moduleResolution", resolution, "page.ts"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    ran = subprocess.run(["node", "page.js"], cwd=tmp_path, capture_output=True, text=True, timeout=20)
    assert (ran.stdout, ran.returncode) == ("The sync failed: ***\n", 0), ran.stderr
