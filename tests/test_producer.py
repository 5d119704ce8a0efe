"""The workers' kit on a real Redis: one terminal event on every way out, and a sync that never feels Redis."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, closing, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import schema
from gateway.event import decode, parse_id
from gateway.producer import AsyncProducer, Producer, Trim, github_error
from gateway.producer.core import LAST_SEQ, STOPPED, Attempt, Sync
from gateway.producer.outbox import Entry, Outbox
from gateway.shaping import STALE, Track, shape
from tests.conftest import Gateway, Worker, working
from tests.proxy import Proxy, proxied
from tests.redis_groups import lossy_cluster
from tests.redis_server import RedisServer


async def written(worker: Worker) -> list[dict[str, Any]]:
    """The stream as the contract reads it: every entry is accepted and conforms."""
    found = []
    for id, fields in await worker.redis.xrange(worker.key):
        event = decode(parse_id(id), [part.encode() for pair in fields.items() for part in pair])
        assert schema.violation(event.type, event.data) is None, event.data
        found.append(event.data | {"type": event.type.removeprefix("github_sync_")})
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
    failed = (await written(worker))[-1]
    # Retryable by itself, but nobody said that another attempt will come.
    assert (failed["error_code"], failed["retryable"]) == ("NOT_FAST_FORWARD", False)


@pytest.mark.parametrize(
    ("attempt", "attempts", "again"),
    [(1, 3, True), (2, 3, True), (3, 3, False), (4, 3, False), (None, 3, False), (1, None, False), (1, 1, False)],
)
async def test_a_failure_says_that_it_is_retried_only_where_another_attempt_will_come(
    producer: AsyncProducer, worker: Worker, attempt: int | None, attempts: int | None, again: bool
) -> None:
    for error in (TimeoutError(), ValueError("no")):
        with suppress(TimeoutError, ValueError):
            async with producer.operation("op-1", "p-1", direction="to_github", attempt=attempt, attempts=attempts):
                raise error
    started, timed_out, _, refused = await written(worker)
    assert (timed_out["retryable"], refused["retryable"]) == (again, False)
    assert (started.get("attempt"), started.get("attempts")) == (attempt, attempts)
    runs = [each["run"] for each in await written(worker)]
    assert [each["seq"] for each in await written(worker)] == [1, LAST_SEQ, 1, LAST_SEQ]
    assert runs[0] == runs[1] != runs[2] == runs[3]


async def test_after_the_end_nothing_more_is_published(producer: AsyncProducer, worker: Worker) -> None:
    async with producer.operation("op-1", "p-1", direction="to_github") as op:
        op.failed(TimeoutError())
        await op.progress(50, "too late")
        op.failed(ValueError())
    await producer.close()
    assert [event["type"] for event in await written(worker)] == ["started", "failed"]


def interrupted(call: Callable[[], None], at: int, handler: Callable[[], None]) -> bool:
    """Calls it, with a signal at the line that runs `at`-th. Whether so many ran."""
    left = at

    def tracer(frame: Any, event: str, _: object) -> Any:
        nonlocal left
        if "gateway" not in frame.f_globals["__name__"]:  # the collector calls others at any moment
            return None
        left -= event == "line"
        if left == 0:
            sys.settrace(None)
            handler()
        return tracer if left > 0 else None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        call()
    except SystemExit:
        pass
    finally:
        sys.settrace(before)
    return left <= 0


@pytest.mark.parametrize("killed", [True, False])
@pytest.mark.parametrize("call", [Attempt.complete, partial(Attempt.progress, percent=50, message="half")])
def test_a_signal_at_any_line_leaves_one_end_and_nothing_behind_it(call: Callable[..., None], killed: bool) -> None:
    """Its handler ends what is open, and then the process, or lets it go on."""
    for at in count(1):
        entries: list[Entry] = []
        attempt = Attempt(Sync("op", "p", "to_github"), partial(queued, entries), time.monotonic, time.time)
        attempt.start()

        def handler(attempt: Attempt = attempt) -> None:
            attempt.fail(STOPPED)
            if killed:
                raise SystemExit

        if not interrupted(partial(call, attempt), at, handler):
            assert at > 10
            return
        fields = [dict(zip(entry.fields[::2], entry.fields[1::2], strict=True)) for entry in entries]
        types = [type for _, type in seen([(f"{number}-0", each) for number, each in enumerate(fields, 1)])]
        assert [type in (schema.COMPLETED, schema.FAILED) for type in types] == [False] * (len(types) - 1) + [True], at


def queued(entries: list[Entry], entry: Entry) -> int:
    entries.append(entry)
    return len(entries)


async def test_a_result_of_any_size_and_attempts_as_text_cost_no_end(producer: AsyncProducer, worker: Worker) -> None:
    lists: Any = "x" * 100
    for _ in range(3):
        lists = [lists] * 10
    for error in (None, TimeoutError()):
        with suppress(TimeoutError):
            async with producer.operation("op-1", "p-1", direction="to_github", attempt="1", attempts=b"3") as op:  # type: ignore[arg-type]
                op.result(**{f"member_{number}": lists for number in range(12)})
                if error is not None:
                    raise error
    events = await written(worker)
    assert [each["type"] for each in events] == ["started", "completed", "started", "failed"]
    assert [(each["attempt"], each["attempts"]) for each in events] == [(1, 3)] * 4
    assert events[-1]["retryable"] is True


@pytest.mark.parametrize("again", [True, False])
async def test_what_a_cancellation_means_is_the_queues_rule(worker: Worker, again: bool) -> None:
    """As in the README's lines for arq, which runs what it cancelled again."""
    classify = (lambda error: github_error(error) | {"retryable": True}) if again else github_error
    async with AsyncProducer(worker.redis, stream=worker.key, classify=classify) as producer:
        with suppress(asyncio.CancelledError):
            async with producer.operation("op-1", "p-1", direction="to_github", attempt=1, attempts=2):
                raise asyncio.CancelledError
    failed = (await written(worker))[-1]
    assert (failed["message"], failed["retryable"]) == (STOPPED["error"], again)


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
        await op.progress(10, Rude())
        await op.conflict(None, strategy="local_wins", nonsense=1)  # type: ignore[arg-type]
        await op.conflict({"a.txt"}, strategy="local_wins")
        await op.conflict((name for name in ("b.txt", Path("c.txt"))), strategy="local_wins")
        op.result(files_changed=3, odd=circle, rude=Rude(), nan=float("nan"), type="x", status="y", self_=1)
    async with producer.operation("op-2", "p-1", direction="to_github") as op:
        op.result(files_changed=4, **{f"note{number}": "x" * 1990 for number in range(40)})
    async with producer.operation("op-3", "p-1", direction="to_github") as op:
        op.result(files_changed=10**5000, commit_sha="1f2e")
    events = await written(worker)
    kinds = ["started", "progress", "conflict", "conflict", "completed", "started", "completed", "started", "completed"]
    assert [event["type"] for event in events] == kinds
    assert [event["filesChanged"] for event in events if event["type"] == "completed"] == [3, 4, 0]
    assert [event["conflicts"] for event in events if event["type"] == "conflict"] == [["a.txt"], ["b.txt", "c.txt"]]
    assert events[-1]["commitSha"] == "1f2e"


@pytest.mark.parametrize(
    "classified", [None, {}, {"error": None}, {"error": 1, "error_code": "MINE", "retryAfter": float("nan")}, 7]
)
async def test_whatever_classify_makes_of_an_exception_the_end_is_told(worker: Worker, classified: Any) -> None:
    kit = AsyncProducer(worker.redis, stream=worker.key, classify=lambda _: classified)
    with pytest.raises(KeyError):
        async with kit.operation("op-1", "p-1", direction="to_github"):
            raise KeyError("x")
    failed = (await written(worker))[-1]
    assert (failed["type"], failed["error_code"], failed["retryable"]) == ("failed", "UNKNOWN", False)
    await kit.close()


async def test_ids_that_cannot_be_encoded_are_mended_and_stop_nothing(producer: AsyncProducer, worker: Worker) -> None:
    for operation, project in (
        (os.fsdecode(b"op-\xff"), os.fsdecode(b"proj-\xff")), (7, 8), ("o\n\x00p", "p" * 1000), ("after", "p"),
    ):  # fmt: skip
        async with producer.operation(operation, project, direction="to_github"):
            pass
    events = await written(worker)
    assert [event["operationId"] for event in events[::2]] == ["op-\ufffd", "7", "o\ufffd\ufffdp", "after"]
    assert [event["projectId"] for event in events[::2]] == ["proj-\ufffd", "8", "p" * 256, "p"]


async def test_what_is_not_redis_own_error_is_not_tried_again(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    class Odd:
        def pipeline(self, **_: Any) -> Any:
            raise TypeError("a bug of the client's")

    kit = AsyncProducer(Odd(), stream=worker.key)
    async with asyncio.timeout(1), kit.operation("op-1", "p-1", direction="to_github"):
        pass
    assert "events can't be sent, and are left out" in caplog.text
    await kit.close()


async def test_the_readmes_lines_run_as_they_stand(own_redis: RedisServer) -> None:
    readme = (Path(schema.__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    [lines] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    async with working(own_redis.url) as worker:
        scope: dict[str, Any] = {}
        exec("async def run(redis):\n" + textwrap.indent(lines, "    "), scope)
        await scope["run"](worker.redis)
        assert [event["type"] for event in await written(worker)] == ["started", "progress", "completed"]


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


def seen(entries: list[tuple[str, dict[str, str]]]) -> list[tuple[str, str]]:
    """What listeners get of a stream: the operation and the type of each event that is not stale."""
    tracks: dict[Any, Track] = {}
    found = []
    for id, fields in entries:
        event = decode(parse_id(id), [part.encode() for pair in fields.items() for part in pair])
        outcome, _ = shape(tracks.setdefault(event.key, Track()), event, throttle=False)
        if outcome is not STALE:
            found.append((event.operation, event.type))
    return found


async def one_terminal_event_each(server: RedisServer, syncs: list[tuple[list[int], str]], faults: list[Any]) -> None:
    async with proxied(server.port) as proxy:
        await through(proxy, redis.asyncio.Redis(port=proxy.port), server, syncs, faults)  # with all its own retries


async def test_a_cluster_that_loses_replies() -> None:
    async with lossy_cluster() as (server, proxy):
        for faults in (["mute"] * 4, ["down", "mute", "up", "mute"], ["up", "mute", "mute"]):
            client: Any = redis.asyncio.RedisCluster(host="127.0.0.1", port=proxy.port)
            await client.initialize()
            await through(proxy, client, server, [([10, 50, 90], "success"), ([5], "exception")], faults)


async def test_a_cluster_that_loses_replies_to_a_thread() -> None:
    async with lossy_cluster() as (server, proxy):
        client = await asyncio.to_thread(redis.RedisCluster, host="127.0.0.1", port=proxy.port)
        with closing(client), Producer(client, stream="events", flush=10) as kit:

            def sync() -> None:
                with kit.operation("op-1", "p-1", direction="to_github") as op:
                    for percent in (10, 50, 90):
                        op.progress(percent, "x")
                        time.sleep(0.02)

            syncing = asyncio.create_task(asyncio.to_thread(sync))
            for fault in ("mute", "up", "mute", "down", "up"):
                proxy.cut(fault)
                await asyncio.sleep(0.03)
            await syncing
            await asyncio.to_thread(kit.close)
        direct = redis.Redis(port=server.port, decode_responses=True)
        types = [type.removeprefix("github_sync_") for _, type in seen(direct.xrange("events"))]
        direct.close()
        assert types == ["started", "progress", "progress", "progress", "completed"]


async def through(
    proxy: Proxy, client: Any, server: RedisServer, syncs: list[tuple[list[int], str]], faults: list[Any]
) -> None:
    """Syncs whose kit has its Redis behind a proxy that breaks: each is told once, from its beginning to its end."""
    key = "events:property"
    async with AsyncExitStack() as stack:
        direct = redis.asyncio.Redis.from_url(server.url, decode_responses=True)
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
            own = [type for operation, type in seen(await direct.xrange(key)) if operation == f"op-{number}"]
            assert own[0] == schema.STARTED
            assert own.count(schema.STARTED) == 1
            ends = [type for type in own if type in (schema.COMPLETED, schema.FAILED)]
            assert ends == [schema.COMPLETED if ending == "success" else schema.FAILED]
            assert own[-1] == ends[0]


async def test_a_stopped_redis_is_not_felt_and_every_terminal_event_arrives(own_redis: RedisServer) -> None:
    client = redis.asyncio.Redis.from_url(own_redis.url)
    kit = AsyncProducer(client, limit=50, patience=0.2)
    kit_limit = 2.0  # what leaving a block waits for Redis at most
    async with kit.operation("before", "p-1", direction="to_github"):
        pass
    own_redis.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    for number in range(20):
        async with kit.operation(f"op-{number}", "p-1", direction="to_github") as op:
            for percent in range(0, 101, 5):
                await op.progress(percent, "x")
    assert time.monotonic() - began < kit_limit + 1  # all twenty together: who finds Redis away doesn't wait again
    assert kit.dropped > 0
    own_redis.process.send_signal(signal.SIGCONT)
    await kit.close()
    async with redis.asyncio.Redis.from_url(own_redis.url, decode_responses=True) as direct:
        types = [type for _, type in seen(await direct.xrange("github:sync:events"))]  # some may have been sent twice
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
import asyncio, multiprocessing, os, sys, signal, threading, time, redis, redis.asyncio
from gateway.producer import AsyncProducer, Producer
kit = Producer(redis.Redis.from_url(os.environ["URL"]), stream=os.environ["KEY"])
def run(name="op-1"):
    with kit.operation(name, "p-1", direction="to_github") as op:
        op.progress(10, "x")
        {ending}
{after}
"""


def ended(server: RedisServer, key: str, script: str) -> tuple[int, dict[str, list[str]]]:
    """The exit status of a process, and by operation the types that listeners got of it."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"URL": server.url, "KEY": key},
        stderr=subprocess.PIPE,
        timeout=20,
    )
    client = redis.Redis.from_url(server.url, decode_responses=True)
    found: dict[str, list[str]] = {}
    for operation, type in seen(client.xrange(key)):
        found.setdefault(operation, []).append(type.removeprefix("github_sync_"))
    client.close()
    assert LEFT in script or b"Task was destroyed" not in done.stderr
    return done.returncode, found


TERM = "os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)"
THREADS = "[threading.Thread(target=run, args=(f'op-{n}',)).start() for n in range(3)]; time.sleep(0.5)\n" + TERM
ASYNC = """
async def sync(kit, name, seconds):
    async with kit.operation(name, "p-1", direction="to_github") as op:
        await op.progress(10, "x")
        await asyncio.sleep(seconds)
async def main(kit, wait, seconds=5):
    tasks = [asyncio.create_task(sync(kit, f"op-{n}", seconds)) for n in range(12)]
    await asyncio.sleep(wait)
    return tasks
async def cancel(kit):
    tasks = await main(kit, 0.1)
    every = asyncio.all_tasks() - {asyncio.current_task()}
    [task.cancel() for task in every]
    await asyncio.gather(*every, return_exceptions=True)
kit = AsyncProducer(redis.asyncio.Redis.from_url(os.environ["URL"]), stream=os.environ["KEY"])
"""
LEFT = "loop = asyncio.new_event_loop(); tasks = loop.run_until_complete(main(kit, 0.3))"
BY_NAME = ASYNC.replace('os.environ["URL"]', 'os.environ["URL"].replace("127.0.0.1", "localhost")')
FORK = """
with kit.operation("parent", "p-1", direction="to_github") as op:
    op.progress(10, "x")
    pid = os.fork()
    if not pid:
        run("child")
        os._exit(0)
    os.waitpid(pid, 0)
"""
INSIDE = """
pid = None
try:
    with kit.operation("parent", "p-1", direction="to_github") as op:
        pid = os.fork()
        if not pid:
            sys.exit(0)  # leaves its copy of the block
        os.waitpid(pid, 0)
finally:
    if not pid:
        os._exit(0)
"""
FORK_ENDS = """
pid = os.fork()
if not pid:
    run("child")
time.sleep(0.5)
os.kill(pid, signal.SIGTERM)
assert os.waitpid(pid, 0)[1] == signal.SIGTERM
"""
AGAIN = """
threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
kit._redis.execute_command("CLIENT", "PAUSE", 400)
"""
BEGINNERS = """
def loop(thread):
    for number in range(100_000):
        run(f"op-{thread}-{number}")
for thread in range(12):
    threading.Thread(target=loop, args=(thread,), daemon=True).start()
time.sleep(0.5)
"""
CLOSED = "kit.close(); run('op-2'); kit.close(); kit.close()"
LEFT_OPEN = "op = kit.operation('op-1', 'p-1', direction='to_github'); op.__enter__()\n"
DAEMON = "threading.Thread(target=run, daemon=True).start(); time.sleep(0.3)"
CHILD = "run('parent'); p = multiprocessing.get_context('fork').Process(target=run); p.start(); p.join()"
TWICE = "asyncio.run(main(kit, 0.2, 0.1)); asyncio.run(sync(kit, 'later', 0.1))"
TIMER = "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start(); asyncio.run(main(kit, 4))"
ENDS = {  # what happens within the block of op-1, and what behind the function that runs it
    "SIGTERM in a plain script": ("pass", LEFT_OPEN + TERM),
    "SIGTERM within the block": (TERM, "run()"),
    "SIGTERM with threads": ("time.sleep(5)", THREADS),
    "SIGTERM in a loop": ("pass", ASYNC + TIMER),
    "SIGTERM twice": ("pass", LEFT_OPEN + AGAIN + TERM),
    "SIGTERM while threads begin": ("pass", BEGINNERS + TERM),
    "a fork that is told to end": ("time.sleep(5)", FORK_ENDS),
    "daemon threads at the end": ("time.sleep(5)", DAEMON),
    "os._exit right behind the block": ("pass", "run(); os._exit(0)"),
    "a fork": ("pass", FORK),
    "a fork within the block": ("pass", INSIDE),
    "multiprocessing": ("pass", CHILD),
    "used after close": ("pass", CLOSED),
    "closed within a sync": ("kit.close()", "run()"),
    "all tasks cancelled": ("pass", ASYNC + "asyncio.run(cancel(kit))"),
    "the loop ends beside them": ("pass", ASYNC + "asyncio.run(main(kit, 0.1))"),
    "a loop that is left, Redis by its name": ("pass", BY_NAME + LEFT),
    "the loop ends at once": ("pass", ASYNC + "asyncio.run(main(kit, 0))"),
    "one loop after another": ("pass", ASYNC + TWICE),
}


@pytest.mark.parametrize("name", ENDS)
def test_however_a_process_ends_every_operation_is_told_its_end_once(shared_redis: RedisServer, name: str) -> None:
    ending, after = ENDS[name]
    key = f"events:ends:{name}"
    status, found = ended(shared_redis, key, SCRIPT.format(ending=ending, after=after))
    assert status == (-signal.SIGTERM if "SIGTERM" in name else 0)
    assert found or name == "the loop ends at once"
    for operation, types in found.items():
        assert types[0] == "started", operation
        assert [type for type in types if type in ("completed", "failed")] == types[-1:], (operation, types)
    if name in ("a fork", "multiprocessing"):
        assert list(found.values()) == [["started", "progress", "completed"]] * 2
    if name in ("all tasks cancelled", "the loop ends beside them"):
        assert found == {f"op-{number}": ["started", "progress", "failed"] for number in range(12)}


HANDLERS = {
    "signal.SIG_IGN": (0, "completed"),
    "lambda *_: (kit.on_exit(), os._exit(7))": (7, "failed"),
    "lambda *_: sys.exit(8)": (8, "failed"),
}


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("first", [True, False])
def test_a_programs_own_handler_rules(shared_redis: RedisServer, handler: str, first: bool) -> None:
    made = 'kit = Producer(redis.Redis.from_url(os.environ["URL"]), stream=os.environ["KEY"])\n'
    own = f"signal.signal(signal.SIGTERM, {handler})\n"
    script = SCRIPT.format(ending="os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.2)", after="run()")
    status, end = HANDLERS[handler]
    found = ended(shared_redis, f"events:{handler}:{first}", script.replace(made, own + made if first else made + own))
    assert found == (status, {"op-1": ["started", "progress", end]})


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
    _, found = ended(shared_redis, f"events:exit:{ending}", SCRIPT.format(ending=ending, after="run()"))
    assert found == {"op-1": ["started", "progress", wanted.removeprefix("github_sync_")]}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["p", "p", "p", "s", "t"])), max_size=60))
def test_a_full_outbox_loses_superseded_progress_first_and_terminal_events_never(adds: list[tuple[str, str]]) -> None:
    outbox = Outbox(8)
    types = {"p": schema.PROGRESS, "s": schema.STARTED, "t": schema.COMPLETED}
    added = [Entry("abc".index(operation), types[kind], kind == "t", ()) for operation, kind in adds]
    for entry in added:
        outbox.add(entry)
    kept = []
    while batch := outbox.batch():
        for number, entry in batch:
            kept.append(entry)
            outbox.remove(number)
    assert outbox.dropped == len(added) - len(kept)
    order = [id(entry) for entry in added]
    assert [order.index(id(entry)) for entry in kept] == sorted(order.index(id(entry)) for entry in kept)
    assert sum(entry.terminal for entry in kept) == sum(entry.terminal for entry in added)
    assert len(kept) <= max(8, sum(entry.terminal for entry in added))
    if any(entry.type == schema.PROGRESS for entry in kept):
        assert sum(entry.type == schema.STARTED for entry in kept) == sum(
            entry.type == schema.STARTED for entry in added
        )


def test_the_kit_imports_the_schema_alone() -> None:
    from tests.test_imports import imports

    for path in (Path(schema.__file__).parent / "producer").glob("*.py"):
        inside = {name for name in imports(path) if name.startswith("gateway")}
        assert all(name == "gateway.schema" or name.startswith("gateway.producer") for name in inside), path
        assert not {name.split(".")[0] for name in imports(path)} & {"redis", "httpx", "aiohttp", "requests", "github"}
