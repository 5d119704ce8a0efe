"""The kit in JavaScript as it is published, in real processes on a real Redis: one end on every way out."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import schema
from tests.conftest import Worker, working
from tests.e2e.npm import installed, node
from tests.proxy import Proxy, proxied
from tests.redis_groups import lossy_cluster
from tests.redis_server import RedisServer
from tests.test_producer import seen, written

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="npm (Node.js) is not installed")
CLIENTS = pytest.mark.parametrize("client", ["ioredis", "redis"])
ENDS = ("completed", "failed")


@pytest.fixture(scope="module")
def npm() -> Path:
    return installed()


def told(server: RedisServer, key: str) -> dict[str, list[str]]:
    """By operation the types that listeners got of it."""
    client = redis.Redis.from_url(server.url, decode_responses=True)
    found: dict[str, list[str]] = {}
    for operation, type in seen(client.xrange(key)):
        found.setdefault(operation, []).append(type.removeprefix("github_sync_"))
    client.close()
    return found


def run(server: RedisServer, npm: Path, key: str, by: int | None = None, **case: Any) -> tuple[int, str]:
    """The exit status of a process with syncs in it (`by`: the signal that ends it once they run), and its stderr."""
    words = ["node", "kit.mjs", json.dumps({"url": server.url, "key": key, **case})]
    process = subprocess.Popen(words, cwd=npm, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        if by is not None:
            assert process.stdout
            assert process.stdout.readline() == "running\n"
            process.send_signal(by)
        _, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
    return process.returncode, stderr


HANG = [[[10], "hang"], [[10], "hang"]]
WAYS: dict[str, tuple[dict[str, Any], int | None, int]] = {  # the process, its signal, its exit status
    "SIGTERM": ({}, signal.SIGTERM, -signal.SIGTERM),
    "SIGINT": ({}, signal.SIGINT, -signal.SIGINT),
    "SIGTERM with a handler of its own": ({"end": "own handler"}, signal.SIGTERM, 3),
    "process.exit": ({"end": "exit"}, None, 4),
    "an error nobody caught": ({"end": "crash"}, None, 1),
    "a rejection nobody caught": ({"end": "rejection"}, None, 1),
    "nothing left to do": ({"end": "forgotten", "syncs": [[[10], "forgotten"]] * 2}, None, 0),
}


@pytest.mark.parametrize("way", WAYS)
@CLIENTS
def test_however_a_process_ends_every_operation_is_told_its_end_once(
    shared_redis: RedisServer, npm: Path, way: str, client: str
) -> None:
    if client == "redis" and WAYS[way][2] in (4, 1):
        pytest.skip("node-redis hides its socket: gateway/producer/README.md says so")
    key = f"events:{client}:{way}"
    case, by, wanted = WAYS[way]
    status, stderr = run(shared_redis, npm, key, by, **{"syncs": HANG, "hold": 100, "client": client, **case})
    assert (status, "were not published" in stderr) == (wanted, False), stderr
    assert told(shared_redis, key) == {f"op-{number}": ["started", "progress", "failed"] for number in (0, 1)}


def test_what_begins_while_a_process_ends_is_told_to_nobody(shared_redis: RedisServer, npm: Path) -> None:
    case = {"syncs": [[[10], "again"]] * 8, "end": "loops", "hold": 200}
    status, _ = run(shared_redis, npm, "events:begins", signal.SIGTERM, **case)
    found = told(shared_redis, "events:begins")
    assert status == -signal.SIGTERM
    assert len(found) > 20
    assert {types[-1] for types in found.values()} <= set(ENDS)


def test_what_a_program_finds_to_do_at_its_end_is_told(shared_redis: RedisServer, npm: Path) -> None:
    """The kit has told the end of what was left open by then, and lets it go on."""
    case = {"syncs": [[[10], "forgotten"]], "end": "found something", "hold": 50}
    assert run(shared_redis, npm, "events:found", **case) == (0, "")
    assert told(shared_redis, "events:found") == {
        "op-0": ["started", "progress", "failed"],
        "op-1": ["started", "progress", "completed"],
    }


def test_nonsense_never_raises_into_the_sync_nor_costs_its_end(shared_redis: RedisServer, npm: Path) -> None:
    script = """
      import { Redis } from "ioredis";
      import { Producer } from "github-sync-events/producer";
      const redis = new Redis(process.env.URL), producer = new Producer(redis, { stream: "events:nonsense" });
      const large = Array.from({ length: 30 }, () => Array(30).fill("x".repeat(100)));
      for (const attempt of [1n, "1", null, "one", Symbol(), {}]) {
        await producer.operation("op", "p", { direction: "to_github", attempt, attempts: 3 }, async (op) => {
          op.progress(5, "x", null);
          op.conflict(["a"], null);
          op.conflict(null);
          for (let number = 0; number < 30; number += 1) op.result({ [`k${number}`]: large });
        });
      }
      redis.disconnect();
    """
    words = ["node", "--input-type=module", "-e", script]
    done = subprocess.run(words, cwd=npm, env=os.environ | {"URL": shared_redis.url}, capture_output=True, timeout=20)
    assert done.returncode == 0, done.stderr
    client = redis.Redis.from_url(shared_redis.url, decode_responses=True)
    events = [json.loads(fields["data"]) | {"type": fields["type"]} for _, fields in client.xrange("events:nonsense")]
    client.close()
    ends = [each for each in events if each["type"] == schema.COMPLETED]
    assert [each.get("attempt") for each in ends] == [1, 1, None, None, None, None]
    assert not [schema.violation(each["type"], each) for each in ends if schema.violation(each["type"], each)]


@CLIENTS
def test_a_process_ends_by_itself_once_its_syncs_have(shared_redis: RedisServer, npm: Path, client: str) -> None:
    key = f"events:{client}:itself"
    began = time.monotonic()
    syncs = [[[10, 50, 90], "success"], [[10], "exception"], [[20], "failed"]]
    assert run(shared_redis, npm, key, syncs=syncs, client=client) == (0, "")
    assert time.monotonic() - began < 5
    assert told(shared_redis, key) == {
        "op-0": ["started", "progress", "progress", "progress", "completed"],
        "op-1": ["started", "progress", "failed"],
        "op-2": ["started", "progress", "failed"],
    }


def test_what_a_signal_does_is_the_programs_own_where_it_has_a_handler(shared_redis: RedisServer, npm: Path) -> None:
    case = {"syncs": [[[10] * 200, "success"]], "end": "deaf", "hold": 50}
    assert run(shared_redis, npm, "events:deaf", signal.SIGTERM, **case) == (0, "")
    assert told(shared_redis, "events:deaf")["op-0"][-1] == "completed"


async def test_a_stopped_redis_is_not_felt_and_every_end_arrives(own_redis: RedisServer, npm: Path) -> None:
    async with proxied(own_redis.port) as proxy:
        proxy.cut("down")
        case = {"url": f"redis://127.0.0.1:{proxy.port}", "key": "events", "hold": 300, "end": "close"}
        words = json.dumps({**case, "syncs": [[[10, 50], "success"]] * 3, "options": {"flush": 10_000}})
        began = time.monotonic()
        async with node("kit.mjs", words, cwd=npm) as process:
            assert process.stdout
            assert await asyncio.wait_for(process.stdout.readline(), 5) == b"running\n"
            assert time.monotonic() - began < 2
            await asyncio.sleep(3)  # longer than the end of a sync waits
            proxy.cut("up")
            assert await asyncio.wait_for(process.wait(), 15) == 0
    assert told(own_redis, "events") == {f"op-{n}": ["started", "progress", "progress", "completed"] for n in range(3)}


@given(
    syncs=st.lists(
        st.tuples(st.lists(st.integers(0, 100), max_size=5), st.sampled_from(["success", "exception", "failed"])),
        min_size=1, max_size=4,
    ),
    faults=st.lists(st.sampled_from(["up", "up", "down", "mute"]), min_size=1, max_size=6),
    client=st.sampled_from(["ioredis", "redis"]),
)  # fmt: skip
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_exactly_one_terminal_event_through_every_order_of_ends_and_faults(
    shared_redis: RedisServer, npm: Path, syncs: Any, faults: list[Any], client: str
) -> None:
    asyncio.run(one_terminal_event_each(shared_redis, npm, syncs, faults, client))


async def one_terminal_event_each(
    server: RedisServer, npm: Path, syncs: list[tuple[list[int], str]], faults: list[Any], client: str
) -> None:
    async with working(server.url) as worker, proxied(server.port) as proxy:
        await through(proxy, server, worker, npm, syncs, faults, client)


@pytest.mark.parametrize("client", ["ioredis cluster", "redis cluster"])
async def test_a_cluster_that_loses_replies(npm: Path, client: str) -> None:
    async with lossy_cluster() as (server, proxy):
        for faults in (["mute"] * 4, ["down", "mute", "up", "mute"], ["up", "mute", "mute"]):
            async with working(server.url) as worker:
                await through(proxy, server, worker, npm, [([10, 50, 90], "success"), ([5], "failed")], faults, client)


async def through(
    proxy: Proxy, server: RedisServer, worker: Worker, npm: Path, syncs: Any, faults: list[Any], client: str
) -> None:
    """Syncs whose kit has its Redis behind a proxy that breaks: each is told once, from its beginning to its end."""
    key = "events:js:property"
    await worker.redis.delete(key)
    worker.key = key
    case = {"url": f"redis://127.0.0.1:{proxy.port}", "key": key, "syncs": syncs, "end": "close", "client": client}
    words = json.dumps({**case, "options": {"flush": 10_000, "patience": 500}})
    async with node("kit.mjs", words, cwd=npm) as process:
        assert process.stdout
        await asyncio.wait_for(process.stdout.readline(), 5)
        for fault in faults:
            proxy.cut(fault)
            await asyncio.sleep(0.005)
        proxy.cut("up")
        assert await asyncio.wait_for(process.wait(), 15) == 0
    found = told(server, key)
    assert set(found) == {f"op-{number}" for number in range(len(syncs))}
    for number, (_, ending) in enumerate(syncs):
        types = found[f"op-{number}"]
        assert types[0] == "started"
        assert types.count("started") == 1
        assert [type for type in types if type in ENDS] == types[-1:]
        assert types[-1] == ("completed" if ending == "success" else "failed")
    await written(worker)
    await worker.redis.delete(key)
