"""The workers' kit on a real Redis: one terminal event on every way out, and a sync that never feels Redis."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import schema
from gateway.event import decode, parse_id
from gateway.producer import AsyncProducer, Producer, Trim
from gateway.producer.core import Entry, Outbox
from tests.conftest import Gateway, Worker, working
from tests.proxy import proxied
from tests.redis_server import RedisServer


async def written(worker: Worker) -> list[dict[str, Any]]:
    """The stream as the contract reads it: every entry is accepted and conforms."""
    found = []
    for id, fields in await worker.redis.xrange(worker.key):
        event = decode(parse_id(id), [part.encode() for pair in fields.items() for part in pair])
        assert schema.violation(event.type, event.data) is None, event.data
        found.append({"type": event.type.removeprefix("github_sync_")} | event.data)
    return found


@pytest.fixture
async def producer(worker: Worker) -> AsyncIterator[AsyncProducer]:
    async with AsyncProducer(worker.redis, stream=worker.key) as kit:
        yield kit


async def test_one_line_an_event(producer: AsyncProducer, worker: Worker, gateway: Gateway) -> None:
    async with gateway.stream("/api/operations/op-1/stream") as stream:
        async with producer.operation("op-1", "p-1", direction="to_github", sync_mode="hybrid") as op:
            await op.progress(20, "Reading project files…", step="read")
            await op.conflict(["a.txt"], strategy="local_wins", details={"localCommitSha": "1"})
            await op.progress(100, "Done")
            op.result(files_changed=3, commit_sha="abc", pr_url="https://x", branch_name="main")
        seen = [message.json for message in await stream.rest()]
    assert [event.get("percent") for event in seen] == [None, 20, None, 100, None]
    assert {"direction": "to_github", "syncMode": "hybrid"}.items() <= seen[0].items()
    assert {"filesChanged": 3, "commitSha": "abc", "prUrl": "https://x", "branchName": "main"}.items() <= seen[
        -1
    ].items()
    assert seen[-1]["duration"] >= 0
    assert len(await written(worker)) == 5


def test_the_synchronous_form_is_the_same(shared_redis: RedisServer) -> None:
    client = redis.Redis.from_url(shared_redis.url)
    with Producer(client, stream="sync:form") as kit:
        with kit.operation("op-1", "p-1", direction="from_github") as op:
            op.progress(50, "Half")
            op.result(files_changed=1)
        with suppress(ValueError), kit.operation("op-2", "p-1", direction="from_github"):
            raise ValueError("no")
    types = [fields[b"type"].decode() for _, fields in client.xrange("sync:form")]
    assert types == [schema.STARTED, schema.PROGRESS, schema.COMPLETED, schema.STARTED, schema.FAILED]
    client.close()


async def test_an_exception_goes_on_and_is_told(producer: AsyncProducer, worker: Worker) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        async with producer.operation("op-1", "p-1", direction="to_github"):
            raise subprocess.CalledProcessError(1, "git", stderr="! [rejected] main -> main (fetch first)")
    await producer.close()
    failed = (await written(worker))[-1]
    assert (failed["error_code"], failed["retryable"]) == ("NOT_FAST_FORWARD", True)


async def test_after_the_end_nothing_more_is_published(producer: AsyncProducer, worker: Worker) -> None:
    async with producer.operation("op-1", "p-1", direction="to_github") as op:
        op.failed(TimeoutError())
        await op.progress(50, "too late")
        op.failed(ValueError())
    await producer.close()
    assert [event["type"] for event in await written(worker)] == ["started", "failed"]


async def test_throttle_and_monotonic_at_the_source(producer: AsyncProducer, worker: Worker) -> None:
    async with producer.operation("op-1", "p-1", direction="to_github") as op:
        for percent in (0, 1, 4.9, 5, 3, 2, 10, float("nan"), 400, 100, -5):
            await op.progress(percent, "x")
    await producer.close()
    percents = [event["percent"] for event in await written(worker) if event["type"] == "progress"]
    assert percents == [0, 5, 10, 100]


async def test_what_is_too_large_is_cut_until_it_is_accepted(producer: AsyncProducer, worker: Worker) -> None:
    with suppress(ValueError):
        async with producer.operation("op-1", "p-1", direction="to_github") as op:
            await op.progress(1, "é" * 100_000)
            await op.conflict(["p" * 300 + str(number) for number in range(100_000)], strategy="manual_review")
            await op.conflict(["a"], strategy="github_wins", details={"localCommitSha": "x" * 100_000})
            await op.progress(50, "\ud800 half a pair")
            raise ValueError("x" * 1_000_000)
    await producer.close()
    assert [event["type"] for event in await written(worker)] == [
        "started",
        "progress",
        "conflict",
        "conflict",
        "progress",
        "failed",
    ]


async def test_nonsense_never_raises_into_the_sync_nor_costs_its_end(producer: AsyncProducer, worker: Worker) -> None:
    class Rude:
        def __str__(self) -> str:
            raise RuntimeError("no")

    circle: list[Any] = []
    circle.append(circle)
    async with producer.operation("op-1", "p-1", direction="to_github") as op:
        await op.progress("half", "x")  # type: ignore[arg-type]
        await op.progress(10, Rude())  # type: ignore[arg-type]
        await op.conflict(None, strategy="local_wins", nonsense=1)  # type: ignore[arg-type]
        op.result(files_changed=3, odd=circle, rude=Rude(), nan=float("nan"))
    async with producer.operation("op-2", "p-1", direction="to_github") as op:
        op.result(files_changed=4, rude=Rude())
    await producer.close()
    events = await written(worker)
    assert [event["type"] for event in events] == ["started", "completed", "started", "completed"]
    assert [event.get("filesChanged") for event in events] == [None, 3, None, 4]


async def test_the_readmes_lines_run_as_they_stand(own_redis: RedisServer) -> None:
    readme = (Path(schema.__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    [lines] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    async with working(own_redis.url) as worker:
        scope: dict[str, Any] = {}
        exec("async def run(redis):\n" + textwrap.indent(lines, "    "), scope)
        await scope["run"](worker.redis)
        assert [event["type"] for event in await written(worker)] == ["started", "progress", "conflict", "completed"]


async def test_trimming_is_its_option(worker: Worker) -> None:
    for trim in (Trim(maxlen=100), Trim(maxlen=None), Trim(max_age=3600)):
        async with AsyncProducer(worker.redis, stream=worker.key, trim=trim) as kit:
            for number in range(300):
                async with kit.operation(f"op-{number}", "p-1", direction="to_github"):
                    pass
    assert Trim(max_age=60).words(1000.0) == ("MINID", "~", "940000-0")
    assert await worker.redis.xlen(worker.key) >= 1200


ENDINGS = st.sampled_from(["success", "exception", "cancel", "failed"])
FAULTS = st.sampled_from(["up", "up", "down", "mute"])


@given(
    syncs=st.lists(st.tuples(st.lists(st.integers(0, 100), max_size=5), ENDINGS), min_size=1, max_size=4),
    faults=st.lists(FAULTS, min_size=1, max_size=6),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_exactly_one_terminal_event_through_every_order_of_ends_and_faults(
    shared_redis: RedisServer, syncs: list[tuple[list[int], str]], faults: list[Any]
) -> None:
    asyncio.run(one_terminal_event_each(shared_redis, syncs, faults))


async def one_terminal_event_each(server: RedisServer, syncs: list[tuple[list[int], str]], faults: list[Any]) -> None:
    key = "events:property"
    async with proxied(server.port) as proxy, AsyncExitStack() as stack:
        direct = redis.asyncio.Redis.from_url(server.url, decode_responses=True)
        client = redis.asyncio.Redis(port=proxy.port)  # with all the retries that redis-py has by default
        stack.push_async_callback(direct.aclose)
        stack.push_async_callback(client.aclose)
        await direct.delete(key)
        kit = AsyncProducer(client, stream=key, patience=0.5)

        async def sync(number: int, steps: list[int], ending: str) -> None:
            async with kit.operation(f"op-{number}", "p-1", direction="to_github") as op:
                for step in steps:
                    await op.progress(step, f"{step}")
                    await asyncio.sleep(0.002)
                if ending == "exception":
                    raise ValueError("no")
                if ending == "failed":
                    op.failed(TimeoutError())
                if ending == "cancel":
                    asyncio.current_task().cancel()
                    await asyncio.sleep(1)

        tasks = [asyncio.create_task(sync(number, *each)) for number, each in enumerate(syncs)]
        for fault in faults:
            proxy.cut(fault)
            await asyncio.sleep(0.005)
        await asyncio.gather(*tasks, return_exceptions=True)
        proxy.cut("up")
        await kit.close()
        assert kit.dropped == 0
        for number, (_, ending) in enumerate(syncs):
            own = [fields["type"] for _, fields in await direct.xrange(key) if f'"op-{number}"' in fields["data"]]
            assert own[0] == schema.STARTED
            assert own.count(schema.STARTED) == 1
            ends = [type for type in own if type in (schema.COMPLETED, schema.FAILED)]
            assert ends == [schema.COMPLETED if ending == "success" else schema.FAILED]
            assert own[-1] == ends[0]


async def test_a_stopped_redis_is_not_felt_and_every_terminal_event_arrives(own_redis: RedisServer) -> None:
    client = redis.asyncio.Redis.from_url(own_redis.url)
    kit = AsyncProducer(client, limit=50, patience=0.2)
    async with kit.operation("before", "p-1", direction="to_github"):
        pass
    own_redis.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    for number in range(20):
        async with kit.operation(f"op-{number}", "p-1", direction="to_github") as op:
            for percent in range(0, 101, 5):
                await op.progress(percent, "x")
    assert time.monotonic() - began < 0.5  # a hundred times what it takes; one wait for Redis would be 0.2 s
    assert kit.dropped > 0
    own_redis.process.send_signal(signal.SIGCONT)
    await kit.close()
    types = [fields[b"type"].decode() for _, fields in await client.xrange("github:sync:events")]
    assert types.count(schema.COMPLETED) == 21
    await client.aclose()


async def test_closing_waits_only_so_long_and_says_what_was_lost(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.kill()
    client = redis.asyncio.Redis.from_url(own_redis.url)
    async with AsyncProducer(client, flush=0.2) as kit, kit.operation("op-1", "p-1", direction="to_github"):
        pass
    assert kit.dropped == 2
    assert "2 events were not published" in caplog.text
    await client.aclose()


SCRIPT = """
import os, sys, signal, redis
from gateway.producer import Producer
kit = Producer(redis.Redis.from_url(os.environ["URL"]), stream=os.environ["KEY"])
def run():
    with kit.operation("op-1", "p-1", direction="to_github") as op:
        op.progress(10, "x")
        {ending}
run()
"""


# A process that a shell put into the background ignores SIGINT unless it says so.
INTERRUPTED = "signal.signal(2, signal.default_int_handler); os.kill(os.getpid(), 2); import time; time.sleep(5)"


@pytest.mark.parametrize(
    ("ending", "wanted"),
    [
        ("pass", schema.COMPLETED),
        ("sys.exit(3)", schema.FAILED),
        ("raise ValueError('x')", schema.FAILED),
        (INTERRUPTED, schema.FAILED),
        ("return", schema.COMPLETED),
    ],
)
def test_a_process_that_exits_has_told_its_end(shared_redis: RedisServer, ending: str, wanted: str) -> None:
    key = f"events:exit:{ending}"
    subprocess.run(
        [sys.executable, "-c", SCRIPT.format(ending=ending)],
        env=os.environ | {"URL": shared_redis.url, "KEY": key},
        stderr=subprocess.DEVNULL,
        timeout=20,
    )
    client = redis.Redis.from_url(shared_redis.url)
    assert [fields[b"type"].decode() for _, fields in client.xrange(key)] == [schema.STARTED, schema.PROGRESS, wanted]
    client.close()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["p", "p", "p", "s", "t"])), max_size=60))
def test_a_full_outbox_loses_superseded_progress_first_and_terminal_events_never(adds: list[tuple[str, str]]) -> None:
    outbox = Outbox(8)
    types = {"p": schema.PROGRESS, "s": schema.STARTED, "t": schema.COMPLETED}
    added = [Entry(operation, types[kind], kind == "t", ()) for operation, kind in adds]
    for entry in added:
        outbox.add(entry)
    kept = []
    while outbox:
        kept.append(outbox.first())
        outbox.remove(outbox.first())
    assert outbox.dropped == len(added) - len(kept)
    order = [id(entry) for entry in added]
    assert [order.index(id(entry)) for entry in kept] == sorted(order.index(id(entry)) for entry in kept)
    assert sum(entry.terminal for entry in kept) == sum(entry.terminal for entry in added)
    assert len(kept) <= max(8, sum(entry.terminal for entry in added) + 1)


def test_the_json_schema_is_current() -> None:
    path = Path(schema.__file__).parent / "schema.json"
    assert json.loads(path.read_text()) == schema.json_schema(), "run: python -m tests.schema_json"


def test_the_kit_imports_the_schema_alone() -> None:
    from tests.test_imports import imports

    for path in (Path(schema.__file__).parent / "producer").glob("*.py"):
        inside = {name for name in imports(path) if name.startswith("gateway")}
        assert all(name == "gateway.schema" or name.startswith("gateway.producer") for name in inside), path
        assert not {name.split(".")[0] for name in imports(path)} & {"redis", "httpx", "aiohttp", "requests", "github"}
