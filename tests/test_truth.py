"""The log is what Redis has: nothing silent, nothing foreign, nothing invented. Each was seen to go wrong.

Against a real Redis; what needs its counts (7.0) says so.
"""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.event import EntryId, format_id
from gateway.link import Link, Moved
from gateway.pages import Info, Pages, Place, judge
from gateway.source import Source
from tests.conftest import Gateway, Start, Worker, running, working
from tests.e2e.process import Process
from tests.eventsource import Message, Stream
from tests.proxy import proxied
from tests.redis_server import RedisServer, binary, version

COUNTS = pytest.mark.skipif(version(binary()) < (7, 0), reason="Redis 6 doesn't count what was added and deleted")
ALL = "/api/projects/stream"


def ids(messages: list[Message]) -> list[str]:
    return [message.last_event_id for message in messages]


def field(operation: str = "op-1", project: str = "p-1", kind: str = "started", **more: Any) -> dict[str, str]:
    body = {"operationId": operation, "projectId": project, "direction": "to_github", "percent": 1} | more
    return {"type": f"github_sync_{kind}", "data": json.dumps(body)}


async def state(gateway: Gateway, operation: str) -> Any:
    response = await gateway.get(f"/api/operations/{operation}")
    return json.loads(await response.text()) if response.status == 200 else response.status


@asynccontextmanager
async def own(redis: RedisServer, session: aiohttp.ClientSession, **settings: str) -> AsyncIterator[Gateway]:
    async with running(session, SSE_REDIS_URL=redis.url, **settings) as gateway:
        async with asyncio.timeout(20):
            await gateway.server.ready()
        yield gateway


async def complete(stream: Stream) -> list[Message]:
    """What comes up to the heartbeat that says so."""
    async with asyncio.timeout(10):
        while len(stream.heartbeats) < 2:
            await stream.read()
    ready, stream._ready = stream._ready, []
    return ready


# Trimmed


async def test_what_is_trimmed_while_it_is_loaded_is_a_hole_that_nobody_resumes_across(
    own_redis: RedisServer, session: aiohttp.ClientSession
) -> None:
    async with working(own_redis.url) as worker, proxied(own_redis.port) as proxy:
        pipeline = worker.redis.pipeline()
        for number in range(3000):
            pipeline.xadd(worker.key, field(f"op-{number}"))
        before = await pipeline.execute()
        proxy.rate = 300_000
        async with running(session, SSE_REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0") as gateway:
            pages = gateway.server._reader._pages
            async with asyncio.timeout(20):
                while pages._count < 64:  # some pages were read, the rest was not
                    await asyncio.sleep(0.001)
                await worker.redis.xtrim(worker.key, maxlen=500, approximate=False)
                proxy.rate = 0.0
                await gateway.server.ready()
            async with gateway.stream(ALL, last_event_id=before[1]) as stream:
                gap = await stream.next()
                assert gap.json == {"lastEventId": before[1], "oldestId": before[2500], "reason": "trimmed"}
            async with gateway.stream(ALL + "?lastEventId=earliest") as stream:
                assert ids(await complete(stream)) == before[2500:]
            async with gateway.stream(ALL, last_event_id=before[2600]) as stream:
                assert ids(await complete(stream)) == before[2601:]


@COUNTS
async def test_a_burst_that_is_trimmed_before_it_is_read_is_told_as_trimmed(gateway: Gateway, worker: Worker) -> None:
    async with gateway.stream(ALL) as stream, gateway.stream("/api/operations/op-9/stream") as single:
        first = await worker.publish("started")
        await stream.until_id(first)
        pipeline = worker.redis.pipeline(transaction=True)
        for number in range(6):
            pipeline.xadd(worker.key, field(f"op-{number + 4}"), maxlen=5, approximate=False)
        burst = await pipeline.execute()
        gap = await stream.next()
        assert (gap.type, gap.json["reason"], gap.json["lastEventId"]) == ("replay_gap", "trimmed", first)
        seen = await stream.until_id(burst[-1])
        assert ids(seen) == [first, *burst[1:]]
        assert (await single.next()).json["reason"] == "trimmed"
    assert await gateway.metric("replay_gaps_total", reason="reset") == 0


@COUNTS
async def test_a_trim_of_what_was_read_is_told_to_nobody(gateway: Gateway, worker: Worker) -> None:
    async with gateway.stream(ALL) as stream:
        for number in range(20):
            id = await worker.redis.xadd(worker.key, field(f"op-{number}"), maxlen=1, approximate=False)
            assert (await stream.next()).last_event_id == id
        await worker.redis.xtrim(worker.key, maxlen=0, approximate=False)
        assert await stream.quiet(1.2)
        id = await worker.publish("started")
        assert ids(await stream.until_id(id)) == [id]


# Deleted by hand


@COUNTS
async def test_the_newest_entry_deleted_by_hand_is_no_reset(gateway: Gateway, worker: Worker) -> None:
    async with gateway.stream(ALL) as stream, gateway.stream("/api/projects/p-1/stream") as project:
        await worker.publish("started", "op-0")
        newest = await worker.publish("started")
        await stream.until_id(newest)
        await project.until_id(newest)
        await worker.redis.xdel(worker.key, newest)
        end = await worker.publish("completed")
        for listener in (stream, project):
            assert ids(await listener.until_id(end)) == [end]
        assert await stream.quiet(1.2)
        again = await worker.publish("started", "op-2")
        assert ids(await stream.until_id(again)) == [again]


@pytest.mark.parametrize("how", ["XTRIM", "XDEL"])
@COUNTS
async def test_the_very_last_id_is_known_after_a_restart_though_its_entry_is_gone(
    start: Start, worker: Worker, how: str
) -> None:
    kept = await worker.publish("started", "op-0")
    last = await worker.publish("started")
    await (worker.redis.xtrim(worker.key, maxlen=0) if how == "XTRIM" else worker.redis.xdel(worker.key, last))
    gateway = await start()
    async with gateway.stream(ALL, last_event_id=last) as stream:
        assert await complete(stream) == []
        id = await worker.publish("started")
        assert (await stream.next()).last_event_id == id
    async with gateway.stream(ALL, last_event_id=kept) as stream:
        told = await complete(stream)
        assert [message.type for message in told] == ["replay_gap" if how == "XTRIM" else "github_sync_started", *(
            ["github_sync_started"] if how == "XTRIM" else []
        )]  # fmt: skip


# Replaced


async def test_an_id_that_was_given_again_to_another_entry_is_a_reset(
    own_redis: RedisServer, session: aiohttp.ClientSession
) -> None:
    """After a failover whose new master has a clock that is behind."""
    async with working(own_redis.url) as worker, own(own_redis, session) as gateway:
        base = int(time.time() * 1000)
        await worker.raw(f"{base}-0", **field())
        await worker.raw(f"{base + 9}-0", **field(kind="progress", percent=40))
        async with gateway.stream("/api/projects/p-1/stream") as stream:
            await stream.until_id(f"{base + 9}-0")
            async with worker.redis.pipeline(transaction=True) as pipe:
                pipe.delete(worker.key)
                pipe.xadd(worker.key, field(), id=f"{base}-0")
                pipe.xadd(worker.key, field(kind="completed"), id=f"{base + 9}-0")
                await pipe.execute()
            gap = await stream.next()
            assert (gap.type, gap.json["reason"]) == ("replay_gap", "reset")
            seen = await stream.take(2)
            assert [message.type for message in seen] == ["github_sync_started", "github_sync_completed"]
        assert (await state(gateway, "op-1"))["terminal"] is True


@pytest.mark.parametrize("newest", [5, 12])
async def test_who_lost_nothing_by_a_failover_is_told_nothing(
    own_redis: RedisServer, session: aiohttp.ClientSession, newest: int
) -> None:
    """Whether the new master's ids are below or beyond those that were read."""
    async with working(own_redis.url) as worker, own(own_redis, session) as gateway:
        base = int(time.time() * 1000)
        kept = [(f"{base + at}-0", field("op-1", "p-1")) for at in range(3)]
        for id, each in kept:
            await worker.raw(id, **each)
        await gateway.read(await worker.raw(f"{base + 10}-0", **field("op-2", "p-2")))
        async with gateway.stream("/api/projects/p-1/stream") as one, gateway.stream("/api/projects/p-2/stream") as two:
            await one.until_id(f"{base + 10}-0")
            await two.until_id(f"{base + 10}-0")
            async with worker.redis.pipeline(transaction=True) as pipe:
                pipe.delete(worker.key)
                for id, each in kept:
                    pipe.xadd(worker.key, each, id=id)
                pipe.xadd(worker.key, field("op-3", "p-3"), id=f"{base + newest}-0")
                await pipe.execute()
            assert (await two.next()).json["reason"] == "reset"
            id = await worker.raw(f"{base + newest + 2}-0", **field("op-4", "p-1"))
            assert ids(await one.until_id(id)) == [id]  # and no gap
            assert one.heartbeats[-1].last_event_id == f"{base + newest}-0"  # a place that is there


async def test_an_id_inside_what_is_held_must_be_one_that_the_stream_has(start: Start, worker: Worker) -> None:
    """Split brain: the other master had given 20000-0, this stream never did."""
    for ms in (10_500, 12_000, 19_999, 30_000):
        await worker.raw(f"{ms}-0", **field(f"op-{ms}"))
    for settings in ({}, {"SSE_REPLAY_MAX_EVENTS": "1"}):
        gateway = await start(SSE_STALLED_AFTER="0", **settings)  # entries of 1970 have been silent for long
        for foreign in ("20000-0", "12000-1", "10500-1", "29999-18446744073709551615"):
            async with gateway.stream(ALL, last_event_id=foreign) as stream:
                gap, *rest = await complete(stream)
                assert (gap.type, gap.json["lastEventId"], gap.json["reason"]) == ("replay_gap", foreign, "unknown")
                assert settings or ids(rest) == ["10500-0", "12000-0", "19999-0", "30000-0"]
        for known, after in (("10500-0", 3), ("19999-0", 1), ("30000-0", 0)):
            async with gateway.stream(ALL, last_event_id=known) as stream:
                assert len(await complete(stream)) == after


async def test_ids_of_entries_that_are_no_events_are_known_too(start: Start, worker: Worker) -> None:
    """Thinned out, stale or rejected: a heartbeat may have told them."""
    named = [
        await worker.publish("progress", percent=10),
        await worker.publish("progress", percent=11),
        await worker.raw(type="Bad", data="{}"),
        await worker.publish("started", "op-2"),
    ]
    for settings in ({}, {"SSE_REPLAY_MAX_EVENTS": "1"}):
        gateway = await start(**settings)
        for id in named:
            async with gateway.stream(ALL, last_event_id=id) as stream:
                assert "replay_gap" not in [message.type for message in await complete(stream)]


async def test_the_old_history_serves_until_the_new_one_is_whole(
    own_redis: RedisServer, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is emptied, filled anew, and goes away again while that is loaded."""
    async with working(own_redis.url) as worker, own(own_redis, session) as gateway:
        await gateway.read(await worker.publish("started", "old"))
        read, broken = Pages.read, [3]

        async def breaking(self: Pages, *given: Any, **named: Any) -> Any:
            page = await read(self, *given, **named)
            if gateway.server._reader._stale and broken[0]:
                broken[0] -= 1
                assert (await state(gateway, "old"))["terminal"] is False
                assert len(gateway.server.hub.history) == 1
                raise ConnectionResetError
            return page

        monkeypatch.setattr(Pages, "read", breaking)
        async with gateway.stream(ALL) as stream:
            await stream.take(1)
            pipeline = worker.redis.pipeline(transaction=True)
            pipeline.delete(worker.key)
            for number in range(100):
                pipeline.xadd(worker.key, field(f"new-{number}"))
            await pipeline.execute()
            assert (await stream.next()).json["reason"] == "reset"
            assert len(await stream.take(100)) == 100
        assert broken == [0]
        assert await state(gateway, "old") == 404


# Ids


@COUNTS
async def test_an_entry_from_the_future_takes_its_place_and_changes_nothing_for_others(
    start: Start, worker: Worker
) -> None:
    gateway = await start()
    first = await worker.publish("started", "op-0")
    future = f"{int(time.time() * 1000) + 2 * 24 * 3600 * 1000}-0"
    await worker.publish("started", "op-1", id=future)
    await gateway.read(await worker.publish("progress", "op-0"))
    for each in (gateway, await start()):
        assert (await state(each, "op-0"))["terminal"] is False
        async with each.stream(ALL) as stream:
            assert len(await complete(stream)) == 3
        async with each.stream(ALL, last_event_id=first) as stream:
            assert len(await complete(stream)) == 2


async def test_ids_up_to_the_greatest_are_read(start: Start, worker: Worker) -> None:
    for number in range(600):
        await worker.raw(f"1-{number + 1}", **field(f"op-{number}"))
    greatest = f"{2**64 - 1}-{2**64 - 1}"
    await worker.raw(greatest, **field("last"))
    gateway = await start(SSE_STALLED_AFTER="0")
    async with gateway.stream(ALL, last_event_id="1-600") as stream:
        assert ids(await complete(stream)) == [greatest]
    async with gateway.stream(ALL, last_event_id=greatest) as stream:
        assert await complete(stream) == []


async def test_throttled_progress_counts_as_heard_while_ids_stand_still(start: Start, worker: Worker) -> None:
    """After a clock that was ahead steps back, Redis counts on in one millisecond."""
    gateway = await start(SSE_STALLED_AFTER="600ms")
    ahead = int(time.time() * 1000) + 60_000
    async with gateway.stream(ALL) as stream:
        await worker.publish("progress", id=f"{ahead}-0", percent=10)
        await stream.next()
        for _ in range(15):
            await worker.publish("progress", percent=11)
            assert await stream.quiet(0.1)
        assert await gateway.metric("events_throttled_total") == 15
        assert (await stream.next()).type == "operation_stalled"


# Pages


@pytest.mark.parametrize("most", ["64MiB", "96KiB", "512KiB"])
async def test_a_page_from_redis_looks_as_it_did_however_few_verdicts_are_remembered(
    own_redis: RedisServer, session: aiohttp.ClientSession, most: str
) -> None:
    """Where verdicts were forgotten, the stream is walked from its start and shaped anew."""
    base, calm = int(time.time() * 1000) - 3_600_000, {"SSE_STALLED_AFTER": "0"}
    async with working(own_redis.url) as worker:
        pipeline = worker.redis.pipeline(transaction=False)
        for number in range(6000):
            kind = "started" if number % 300 < 3 else "progress"
            entry = field(f"op-{number % 3}", kind=kind, percent=30 + number * 7 % 4 + number % 300 // 5)
            pipeline.xadd(worker.key, entry, id=f"{base + number * 40}-0")
        added = await pipeline.execute()
        async with (
            own(own_redis, session, **calm) as full,
            own(own_redis, session, **calm, SSE_REPLAY_MAX_BYTES=most) as small,
        ):
            async with full.stream(ALL + "?lastEventId=earliest") as stream:
                wanted = [(message.last_event_id, message.data) for message in await complete(stream)]
            assert 500 < len(wanted) < 5900
            verdicts = small.server.hub.history.verdicts
            assert (verdicts.floor >> 64 >= base) == (most != "64MiB")
            for cut in (0, 1, 299, 2000, 3001, 5000, 5998):
                async with small.stream(ALL, last_event_id=added[cut]) as stream:
                    seen = [(message.last_event_id, message.data) for message in await complete(stream)]
                assert seen == [each for each in wanted if int(each[0][:-2]) > base + cut * 40], cut


async def test_large_entries_over_a_slow_link_slow_it_and_never_stop_it(
    own_redis: RedisServer, session: aiohttp.ClientSession
) -> None:
    async with working(own_redis.url) as worker, proxied(own_redis.port) as proxy:
        text = "x" * 59_000
        for number in range(200):
            last = await worker.redis.xadd(worker.key, field(f"op-{number}", text=text))
        proxy.rate = 2_000_000  # all of them take longer than a dead link is waited for
        async with running(session, SSE_REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0") as gateway:
            async with asyncio.timeout(20):
                await gateway.server.ready()
            assert await gateway.metric("redis_reconnects_total") == 0
            await gateway.read(last)


async def test_a_thousandfold_entry_costs_no_page_of_them(own_redis: RedisServer) -> None:
    """Small ones teach large pages; then come 200 of a megabyte, which are rejected and must be read all the same."""
    async with working(own_redis.url) as worker:
        pipeline = worker.redis.pipeline()
        for number in range(3000):
            pipeline.xadd(worker.key, field(f"op-{number}"))
        await pipeline.execute()
        process = Process(SSE_REDIS_URL=own_redis.url)
        process.start()
        try:
            before = rss(process)
            for _ in range(200):
                await worker.redis.xadd(worker.key, {"type": "a", "data": "x" * 1_000_000})
            last = await worker.publish("started", "op-last")
            await asyncio.to_thread(until_read, process, last)
            assert rss(process) - before < 40
            process.signal(15)
            await asyncio.to_thread(process.wait)
            await asyncio.to_thread(process.start)  # and again, from the start
            assert rss(process) - before < 60
        finally:
            process.kill()


def rss(process: Process) -> float:
    """The most that it ever had, in MiB."""
    status = Path(f"/proc/{process.popen.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def until_read(process: Process, id: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        with socket.create_connection(("127.0.0.1", process.port)) as client:
            client.settimeout(5)
            client.send(f"GET {ALL}?operationId=op-last HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            got = b""
            while got.count(b"event: heartbeat") < 2:
                got += client.recv(65536) or b"event: heartbeat"  # it was refused
        if id.encode() in got:
            return
        assert time.monotonic() < deadline
        time.sleep(0.1)


async def test_who_does_not_read_holds_no_page_and_nobody_up(own_redis: RedisServer) -> None:
    """40 clients with an old id, none of which reads: an innocent one with an old id is served at once."""
    async with working(own_redis.url) as worker:
        text = "x" * 59_000
        first = await worker.publish("started", "op-0")
        for number in range(300):
            await worker.redis.xadd(worker.key, field("op-1", kind="conflict", text=text, number=number))
        await worker.publish("started", "op-last")
        process = Process(SSE_REDIS_URL=own_redis.url, SSE_REPLAY_MAX_EVENTS="10")
        process.start()
        stuck = []
        try:
            before = rss(process)
            for _ in range(40):
                client = socket.socket()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(("127.0.0.1", process.port))
                client.send(f"GET {ALL} HTTP/1.1\r\nHost: x\r\nLast-Event-ID: {first}\r\n\r\n".encode())
                stuck.append(client)
            await asyncio.sleep(0.5)
            began = time.monotonic()
            async with (
                aiohttp.ClientSession() as session,
                session.get(process.url + ALL, headers={"Last-Event-ID": first}) as response,
            ):
                stream = Stream(response)
                await stream.next()
                assert time.monotonic() - began < 2
                assert len(await stream.take(300, timeout=20)) == 300
            assert rss(process) - before < 40 * 0.2 + 32
        finally:
            for client in stuck:
                client.close()
            process.kill()


async def test_nothing_waits_behind_the_doorbell(
    gateway: Gateway, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KeyDB answers what is pipelined behind a blocking read only when that ends."""
    exchange, under_way, seen = Link.exchange, [], []

    async def watched(self: Any, *commands: Any, **options: Any) -> Any:
        assert not any(link is self for link in under_way)
        assert len(commands) == 1
        seen.append(commands[0][0])
        under_way.append(self)
        try:
            return await exchange(self, *commands, **options)
        finally:
            under_way.remove(self)

    monkeypatch.setattr(Link, "exchange", watched)
    async with gateway.stream(ALL) as stream:
        for _ in range(20):
            id = await worker.publish("started")
            await stream.until_id(id)
        assert await stream.quiet(0.1)  # long enough for the doorbell
        await stream.until_id(await worker.publish("started"))
    assert "XREAD" in seen


@pytest.mark.parametrize(
    ("place", "info", "fate"),
    [
        (Place(EntryId(5), [], 5), None, "RESET"),
        (Place(), None, "WHOLE"),
        (Place(EntryId(5), [], 5), Info(0, EntryId(5), None, None, 5, EntryId(0)), "WHOLE"),  # XTRIM to 0
        (Place(EntryId(5), [], 5), Info(0, EntryId(9), None, None, 9, EntryId(0)), "TRIMMED"),
        (Place(EntryId(5), [], 5), Info(2, EntryId(7), EntryId(6), EntryId(7), 7, EntryId(0)), "WHOLE"),
        (Place(EntryId(5), [], 5), Info(2, EntryId(8), EntryId(7), EntryId(8), 8, EntryId(0)), "TRIMMED"),
        (Place(EntryId(5), [], 5), Info(2, EntryId(8), EntryId(7), EntryId(8), 2, EntryId(0)), "RESET"),  # anew
        (Place(EntryId(5), [], 5), Info(3, EntryId(4), EntryId(1), EntryId(4), 4, EntryId(0)), "RESET"),  # backwards
        (Place(EntryId(5), [], 5), Info(3, EntryId(9), EntryId(1), EntryId(9), 6, EntryId(5)), "WHOLE"),  # XDEL
        (Place(EntryId(5), [], 5), Info(3, EntryId(9), EntryId(1), EntryId(9), 6, EntryId(0)), "RESET"),  # never there
        (Place(EntryId(5), []), Info(0, EntryId(5), None, None, None, None), "WHOLE"),  # Redis 6
        (Place(EntryId(5), []), Info(2, EntryId(8), EntryId(7), EntryId(8), None, None), "RESET"),
        (Place(EntryId(5), []), Info(3, EntryId(9), EntryId(1), EntryId(9), None, None), "RESET"),
    ],
)
def test_what_became_of_a_missing_witness(place: Place, info: Info | None, fate: str) -> None:
    assert judge(place, info).name == fate, (format_id(place.id), info)


# Found by a reader with fresh eyes


async def test_what_the_reader_has_not_come_to_is_its_own_to_hand_out(start: Start, worker: Worker) -> None:
    """A page for an old cursor may reach beyond it: of what is there, nobody knows yet what becomes of it."""
    gateway = await start(SSE_REPLAY_MAX_EVENTS="5", SSE_STALLED_AFTER="0")
    first = await worker.raw("1000-0", **field("op-0"))
    for number in range(8):
        await worker.raw(f"{2000 + number}-0", **field(f"op-{number}"))
    await gateway.read(await worker.raw("3000-0", **field("op-x", kind="conflict", run="r", seq=1)))
    pages, gate, waiting = gateway.server._reader._pages, asyncio.Event(), asyncio.Event()
    read = pages.read

    async def gated(*given: Any, **named: Any) -> Any:
        waiting.set()
        await gate.wait()
        return await read(*given, **named)

    pages.read = gated  # type: ignore[method-assign]
    async with asyncio.timeout(5):
        await waiting.wait()
    await worker.raw("4000-0", **field("op-x", kind="conflict", run="r", seq=1))  # sent again
    await worker.raw("5000-0", **field("op-y", kind="progress", percent=10))
    await worker.raw("5001-0", **field("op-y", kind="progress", percent=11))  # thinned out
    async with gateway.stream(ALL, last_event_id=first) as stream:
        await stream.until_id("3000-0")
        gate.set()
        end = await worker.raw("7000-0", **field("op-end"))
        assert ids(await stream.until_id(end)) == ["5000-0", "7000-0"]


@pytest.fixture
async def link(own_redis: RedisServer) -> AsyncIterator[Link]:
    opened = await Source(own_redis.url, "stream").connect()
    yield opened
    await opened.close()


async def test_a_link_that_was_left_for_good_never_connects_again(link: Link) -> None:
    """redis-py would, to the same node."""
    assert await link.exchange(("XRANGE", "stream", "-", "+")) == [[]]
    await link.retire()
    with pytest.raises(Moved):
        await link.exchange(("XRANGE", "stream", "-", "+"))
    with pytest.raises(Moved):
        await link.reopen()


async def test_a_command_that_waits_is_sent_late_or_never(link: Link, own_redis: RedisServer) -> None:
    """Never where who asked is gone by then: its reply would be taken for the next one's."""
    add, began = ("XADD", "stream", "*", "field", "value"), time.monotonic()
    assert await link.exchange(("XLEN", "stream"), later=0.2) == [0]
    assert 0.19 < time.monotonic() - began < 5
    left = asyncio.create_task(link.exchange(add, later=0.1))
    await asyncio.sleep(0.05)
    left.cancel()
    await asyncio.sleep(0.2)
    assert await link.exchange(("XLEN", "stream")) == [0]
    waiting = asyncio.create_task(link.exchange(add, later=60))
    await asyncio.sleep(0.05)
    async with working(own_redis.url, "stream") as worker:
        await worker.redis.client_kill_filter(_type="normal", skipme=True)
    async with asyncio.timeout(5):
        with pytest.raises(RedisConnectionError):
            await waiting


async def test_a_redis_that_closes_while_it_is_greeted_is_come_back_to(
    start: Start, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop raises no connection error for what redis-py writes then: once that ended the process."""
    gateway, connect, left = await start(), Connection.connect, [3]

    async def closing(connection: Any) -> None:
        await connect(connection)
        if left[0] and not connection.encoder.decode_responses:  # the gateway's, not the worker's
            left[0] -= 1
            connection._writer.transport.abort()
            await asyncio.sleep(0.01)
            connection._writer.writelines([b"PING\r\n"])

    last = await worker.publish("started")
    await gateway.read(last)
    monkeypatch.setattr(Connection, "connect", closing)
    await worker.redis.client_kill_filter(_type="normal", skipme=True)
    async with asyncio.timeout(20):
        while left[0]:
            await asyncio.sleep(0.05)
    await gateway.read(await worker.publish("completed"))


@pytest.mark.parametrize("query", ["", "?projectId=p-1"])
async def test_an_operation_that_was_forgotten_is_read_from_redis_though_another_project_has_its_id(
    start: Start, worker: Worker, query: str
) -> None:
    gateway = await start(SSE_REPLAY_MAX_EVENTS="10")
    place = await worker.publish("started", "1", "p-2")
    mine = [await worker.publish(kind, "1", "p-1") for kind in ("started", "completed")]
    for number in range(30):
        last = await worker.publish("completed", f"op-{number}", "p-3")
    await gateway.read(last)
    async with gateway.stream(f"/api/operations/1/stream{query}", last_event_id=place) as stream:
        assert ids(await stream.take(2)) == mine


async def test_the_list_of_a_project_survives_what_is_forgotten_meanwhile(
    start: Start, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.api.PER_TURN", 1)
    gateway = await start(SSE_REPLAY_MAX_EVENTS="20")
    for round in range(8):
        for project in ("p-1", "p-2"):  # the second's push the first's out of memory, while those are listed
            pipeline = worker.redis.pipeline(transaction=True)
            for number in range(60):
                pipeline.xadd(worker.key, field(f"op-{round}-{number}", project, kind="completed"))
            listing = [asyncio.create_task(gateway.get("/api/projects/p-1/operations?ended=100")) for _ in range(12)]
            last = (await pipeline.execute())[-1]
            assert {response.status for response in await asyncio.gather(*listing)} == {200}
            await gateway.read(last)
