"""One test a promise of the contract, in its order. Each drives a real gateway, a real Redis and a real socket."""

import asyncio
import gc
import itertools
import json
import re
import shutil
import socket
import subprocess
import time
from contextlib import AsyncExitStack
from datetime import datetime

import aiohttp
import pytest
from aiohttp import web

from gateway.config import Config
from gateway.connection import Connection
from gateway.event import REASONS
from gateway.reader import NotAStream
from gateway.server import Server
from tests.conftest import SILENT, Gateway, Start, Worker, running, working
from tests.eventsource import Message, Stream
from tests.redis_server import RedisServer, free_port

# 1. The stream


async def test_an_event_reaches_its_operation_its_project_and_everything(gateway: Gateway, worker: Worker) -> None:
    paths = ("/api/operations/op-1/stream", "/api/projects/p-1/stream", "/api/projects/stream")
    for path in paths:
        async with gateway.stream(path) as stream:
            await stream.until_id(gateway_place(gateway))
            id = await worker.publish("started")
            message = await stream.next()
            assert (message.type, message.last_event_id) == ("github_sync_started", id)


async def test_an_event_reaches_nobody_else(gateway: Gateway, worker: Worker) -> None:
    async with (
        gateway.stream("/api/operations/op-2/stream") as other,
        gateway.stream("/api/projects/p-1/stream") as own,
    ):
        await worker.publish("started")
        await own.next()
        assert await other.quiet(0.1)


async def test_unknown_members_pass_through_untouched(gateway: Gateway, worker: Worker) -> None:
    extra = {"list": [1, 2.5, None, True, {"a": "b"}], "text": 'ü\u2028 "quoted"\n\\', "big": 12345678901234567890}
    async with gateway.stream("/api/projects/p-1/stream") as stream:
        await worker.publish("started", extra=extra)
        assert (await stream.next()).json["extra"] == extra


async def test_the_timestamp_comes_from_data_then_the_field_then_the_entry_id(gateway: Gateway, worker: Worker) -> None:
    base = {"operationId": "op-1", "projectId": "p-1", "direction": "to_github"}
    given, field = "2025-01-01T00:00:00Z", "2025-11-24T16:00:00.000Z"
    async with gateway.stream("/api/projects/stream") as stream:
        for data, fields, wanted in (
            (base | {"timestamp": given}, {"timestamp": field}, given),
            (base, {"timestamp": field}, field),
        ):
            await worker.raw(type="github_sync_started", data=json.dumps(data), **fields)
            assert (await stream.next()).json["timestamp"] == wanted
        future = f"{int(time.time()) + 5}123-7"
        await worker.raw(id=future, type="github_sync_started", data=json.dumps(base))
        assert (await stream.next()).json["timestamp"].endswith(".123Z")


BASE = '{"operationId":"op-1","projectId":"p-1","direction":"to_github"}'
REJECTED: dict[str, tuple[str, dict[str, str | bytes]]] = {
    "no type": ("type", {"data": BASE}),
    "a bad type": ("type", {"type": "Github-Sync", "data": BASE}),
    "no data": ("data", {"type": "github_sync_started"}),
    "data that is no object": ("data", {"type": "github_sync_started", "data": "[1]"}),
    "data that is not JSON": ("json", {"type": "github_sync_started", "data": "{"}),
    "NaN": ("json", {"type": "github_sync_started", "data": BASE[:-1] + ',"x":NaN}'}),
    "bytes that are not UTF-8": ("json", {"type": "a", "data": b'{"operationId":"\xff","projectId":"p-1"}'}),
    "no operationId": ("operation_id", {"type": "github_sync_started", "data": '{"projectId":"p-1"}'}),
    "an empty operationId": ("operation_id", {"type": "a", "data": '{"operationId":"","projectId":"p-1"}'}),
    "a newline in an id": ("operation_id", {"type": "a", "data": '{"operationId":"a\\nb","projectId":"p-1"}'}),
    "an id of 257 characters": (
        "project_id",
        {"type": "a", "data": f'{{"operationId":"o","projectId":"{"p" * 257}"}}'},
    ),
    "a number as projectId": ("project_id", {"type": "a", "data": '{"operationId":"o","projectId":1}'}),
    "a bad timestamp": ("timestamp", {"type": "a", "data": BASE, "timestamp": "yesterday"}),
    "over 64 KiB": ("too_large", {"type": "a", "data": BASE[:-1] + f',"x":"{"y" * 65536}"}}'}),
}


def test_every_reason_of_rejection_is_among_those() -> None:
    assert {reason for reason, _ in REJECTED.values()} == set(REASONS)


@pytest.mark.parametrize("why", REJECTED)
async def test_an_entry_that_breaks_the_first_table_is_counted_and_skipped(
    gateway: Gateway, worker: Worker, why: str
) -> None:
    reason, fields = REJECTED[why]
    async with gateway.stream("/api/projects/stream") as stream:
        await worker.raw(**fields)
        good = await worker.publish("started")
        assert (await stream.next()).last_event_id == good
    assert await gateway.metric("events_rejected_total", reason=reason) == 1
    assert await worker.redis.xlen(worker.key) == 2


async def test_a_nonconforming_event_is_delivered_as_it_is_and_counted(gateway: Gateway, worker: Worker) -> None:
    async with gateway.stream("/api/projects/stream") as stream:
        await worker.publish("started", direction="sideways")
        assert (await stream.next()).json["direction"] == "sideways"
    assert await gateway.metric("events_nonconforming_total", type="github_sync_started") == 1


async def test_a_type_beside_the_five_is_delivered_and_counted_as_other(gateway: Gateway, worker: Worker) -> None:
    async with gateway.stream("/api/projects/stream") as stream:
        await worker.raw(type="github_sync_paused", data=BASE)
        assert (await stream.next()).type == "github_sync_paused"
    assert await gateway.metric("events_consumed_total", type="other") == 1


def _ids(*offsets_ms: int) -> list[str]:
    base = int(time.time() * 1000)
    return [f"{base + offset}-0" for offset in offsets_ms]


async def test_throttle_drops_what_is_both_near_and_soon(gateway: Gateway, worker: Worker) -> None:
    ids = _ids(0, 100, 200, 1199, 1200, 1300, 1301)
    percents = (10, 14.9, 15, 19, 17, 20, 100)
    async with gateway.stream("/api/projects/stream") as stream:
        for id, percent in zip(ids, percents, strict=True):
            await worker.publish("progress", id=id, percent=percent)
        seen = await stream.until_id(ids[-1])
    # 17 comes a second after 15 passed; it is raised to the 19 that was seen, though 19 itself was dropped.
    assert [message.json["percent"] for message in seen] == [10, 15, 19, 100]
    assert await gateway.metric("events_throttled_total") == 3


async def test_throttle_can_be_off(start: Start, worker: Worker) -> None:
    gateway = await start(SSE_THROTTLE="off")
    async with gateway.stream("/api/projects/stream") as stream:
        for percent in (10, 11, 9):
            await worker.publish("progress", percent=percent)
        assert [message.json["percent"] for message in await stream.take(3)] == [10, 11, 11]  # though none falls


async def test_percent_never_falls_within_an_attempt(gateway: Gateway, worker: Worker) -> None:
    async with gateway.stream("/api/projects/stream") as stream:
        for percent in (40, 20):
            await worker.publish("progress", percent=percent)
        await worker.publish("started")
        await worker.publish("progress", percent=5)
        seen = await stream.take(4)
    assert [message.json.get("percent") for message in seen] == [40, 40, None, 5]


async def test_replicas_and_restarts_shape_alike(gateway: Gateway, start: Start, worker: Worker) -> None:
    ids = _ids(*range(0, 6000, 150))
    for number, id in enumerate(ids):
        await worker.publish("progress", id=id, percent=(number * 7) % 90)
    await gateway.read(ids[-1])
    later = await start()
    assert await everything(gateway) == await everything(later)


async def everything(gateway: Gateway) -> list[tuple[str, str]]:
    last = await gateway_newest(gateway)
    async with gateway.stream("/api/projects/stream?lastEventId=earliest") as stream:
        return [(message.last_event_id, message.data) for message in await stream.until_id(last)]


async def gateway_newest(gateway: Gateway) -> str:
    async with gateway.stream("/api/projects/stream") as stream:
        return await last_place(stream)


async def last_place(stream: Stream) -> str:
    while len(stream.heartbeats) < 2:
        await stream.read()
    return stream.heartbeats[1].last_event_id


def gateway_place(gateway: Gateway) -> str:
    newest = gateway.server.hub.history.newest
    return f"{newest >> 64}-{newest & (1 << 64) - 1}"


async def test_it_writes_nothing_and_runs_under_a_read_only_user(start: Start, worker: Worker) -> None:
    name, password = worker.key.replace(":", "-"), "secret"
    rights = ["+xread", "+xrange", "+xrevrange", "+xinfo|stream"]
    await worker.redis.execute_command("ACL", "SETUSER", name, "on", f">{password}", f"~{worker.key}", "-@all", *rights)
    port = worker.redis.connection_pool.connection_kwargs["port"]
    await worker.publish("started")
    gateway = await start(SSE_REDIS_URL=f"redis://{name}:{password}@127.0.0.1:{port}/0")
    async with gateway.stream("/api/projects/stream") as stream:
        await stream.next()
        await worker.publish("progress")
        await stream.next()
    assert await worker.redis.execute_command("ACL", "LOG") == []


async def test_silence_of_a_running_operation_is_told_once_without_an_id(start: Start, worker: Worker) -> None:
    gateway = await start(SSE_STALLED_AFTER="500ms")
    async with (
        gateway.stream("/api/projects/stream") as stream,
        gateway.stream("/api/operations/op-1/stream") as single,
    ):
        id = await worker.publish("started")
        for listener in (stream, single):
            await listener.next()
            advice = await listener.next()
            assert advice.type == "operation_stalled"
            assert advice.last_event_id == id
            told = advice.json
            assert told.pop("silentFor") >= 0.5
            assert told == {"operationId": "op-1", "projectId": "p-1", "lastEventId": id}
        assert await stream.quiet(0.7)
        await worker.publish("progress")
        assert [(await stream.next()).type for _ in range(2)] == ["github_sync_progress", "operation_stalled"]


async def test_who_comes_later_is_told_of_silence_too_but_not_of_ended_operations(start: Start, worker: Worker) -> None:
    gateway = await start(SSE_STALLED_AFTER="300ms")
    await worker.publish("started")
    await worker.publish("started", operation="op-2")
    await worker.publish("completed", operation="op-2")
    async with gateway.stream("/api/projects/stream") as early:
        await early.take(2)
    async with gateway.stream("/api/projects/stream") as stream:
        seen = await stream.take(2)
        assert [(message.type, message.json["operationId"]) for message in seen] == [
            ("github_sync_started", "op-1"),
            ("operation_stalled", "op-1"),
        ]
        assert await stream.quiet(0.5)


# 2. The HTTP face


async def test_headers_of_a_stream_and_of_head(gateway: Gateway) -> None:
    wanted = {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-store, no-transform",
        "X-Accel-Buffering": "no",
    }
    headers = {"Accept-Encoding": "gzip, br"}
    async with gateway.stream("/api/projects/stream", headers=headers) as stream:
        assert {name: stream.response.headers[name] for name in wanted} == wanted
        assert "Content-Encoding" not in stream.response.headers
    async with gateway.session.head(gateway.url + "/api/projects/stream") as response:
        assert response.status == 200
        assert {name: response.headers[name] for name in wanted} == wanted
        assert await response.read() == b""
    assert await gateway.metric("connections_opened_total", scope="multi") == 1


async def test_the_first_bytes_are_a_spread_retry_and_a_heartbeat(start: Start) -> None:
    gateway = await start(SSE_RETRY="4s", SSE_HEARTBEAT="20s")
    told = set()
    for _ in range(20):
        async with gateway.stream("/api/projects/stream") as stream:
            first = await stream.response.content.readuntil(b"\n\n")
            parts = re.fullmatch(rb"retry: (\d+)\nevent: heartbeat\ndata: (.+)\n\n", first)
            body = json.loads(parts[2])
            assert list(body) == ["time", "every"]
            assert body["every"] == 20_000
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["time"])
            assert abs(datetime.fromisoformat(body["time"]).timestamp() - time.time()) < 5
            told.add(int(parts[1]))
    assert all(2000 <= retry <= 6000 for retry in told)
    assert len(told) > 10


async def test_a_frame_is_id_event_and_one_line_of_json(gateway: Gateway, worker: Worker) -> None:
    data = '{ "operationId": "op-123",\n "projectId": "proj-456", "percent": 45, "message": "…\\n", "timestamp": "t" }'
    async with gateway.stream("/api/projects/stream") as stream:
        await stream.read()
        id = await worker.raw(type="github_sync_progress", data=data)
        frame = b""
        while not frame.endswith(b"}\n\n"):
            frame += await stream.response.content.readany()
        line = data.replace("\n", "")
        assert frame.decode().endswith(f"id: {id}\nevent: github_sync_progress\ndata: {line}\n\n")


async def test_the_union_names_operations_and_projects(gateway: Gateway, worker: Worker) -> None:
    path = "/api/projects/stream?projectId=p-1&projectId=p-2&operationId=x&operationId=op-1"
    async with gateway.stream(path) as stream:
        for operation, project in (("op-1", "p-1"), ("a", "p-2"), ("b", "p-3"), ("x", "p-3"), ("y", "p-1")):
            await worker.publish("started", operation, project)
        assert [message.json["operationId"] for message in await stream.take(4)] == ["op-1", "a", "x", "y"]


async def test_ids_are_percent_decoded(gateway: Gateway, worker: Worker) -> None:
    async with gateway.stream("/api/operations/a%2Fb%20%C3%BC%7B%7D/stream") as stream:
        await worker.publish("started", "a/b ü{}")
        assert (await stream.next()).json["operationId"] == "a/b ü{}"


async def test_heartbeats_move_the_place_and_every_block_has_data(start: Start, worker: Worker) -> None:
    gateway = await start(SSE_HEARTBEAT="200ms")
    async with gateway.stream("/api/operations/op-1/stream") as stream:
        await stream.until_id("0-0")
        while len(stream.heartbeats) < 4:
            await stream.read()
        assert [beat.last_event_id for beat in stream.heartbeats] == ["", "0-0", "0-0", "0-0"]
        assert all(set(beat.json) == {"time", "every"} for beat in stream.heartbeats)
        elsewhere = await worker.publish("started", "op-2", "p-2")
        assert await stream.until_id(elsewhere) == []
        assert stream.parser.comments == []
        assert len(stream.parser.ids) == len(stream.heartbeats) - 1
    async with gateway.stream("/api/operations/op-1/stream", last_event_id=elsewhere) as stream:
        own = await worker.publish("started")
        assert (await stream.next()).last_event_id == own


async def test_a_replay_that_is_complete_is_said_to_be(gateway: Gateway, worker: Worker) -> None:
    ids = [await worker.publish("started", f"op-{number}") for number in range(3)]
    await gateway.read(ids[-1])
    async with gateway.stream("/api/projects/stream", last_event_id=ids[0]) as stream:
        await stream.take(2)
        assert await last_place(stream) == ids[-1]


async def test_resuming_gives_everything_later_then_live(gateway: Gateway, worker: Worker) -> None:
    ids = [await worker.publish("started", f"op-{number}") for number in range(50)]
    await gateway.read(ids[-1])
    for cut in (0, 1, 25, 48, 49):
        async with gateway.stream("/api/projects/stream", last_event_id=ids[cut]) as stream:
            ids.append(await worker.publish("started", f"op-{len(ids)}"))
            seen = await stream.until_id(ids[-1])
            assert [message.last_event_id for message in seen] == ids[cut + 1 :]
    assert await gateway.metric("replayed_events_total") > 0


async def test_the_header_wins_over_the_query_and_earliest_is_all(gateway: Gateway, worker: Worker) -> None:
    ids = [await worker.publish("started", f"op-{number}") for number in range(3)]
    await gateway.read(ids[-1])
    async with gateway.stream(f"/api/projects/stream?lastEventId={ids[0]}") as stream:
        assert [message.last_event_id for message in await stream.until_id(ids[-1])] == ids[1:]
    async with gateway.stream(f"/api/projects/stream?lastEventId={ids[0]}", last_event_id=ids[1]) as stream:
        assert [message.last_event_id for message in await stream.until_id(ids[-1])] == ids[2:]
    async with gateway.stream("/api/projects/stream?lastEventId=earliest") as stream:
        assert [message.last_event_id for message in await stream.until_id(ids[-1])] == ids


async def test_without_an_id_the_stream_opens_with_a_snapshot(gateway: Gateway, worker: Worker) -> None:
    await worker.publish("started", direction="from_github")
    second = await worker.publish("started")  # a new attempt
    await worker.publish("progress", percent=10)
    conflict = await worker.publish("conflict")
    newest = await worker.publish("progress", percent=60)
    await worker.publish("started", "op-2")
    await worker.publish("completed", "op-2")
    other = await worker.publish("started", "op-3", "p-2")
    await gateway.read(other)
    for path, wanted in {
        "/api/projects/p-1/stream": [second, conflict, newest],
        "/api/operations/op-1/stream": [second, conflict, newest],
        "/api/projects/stream": [second, conflict, newest, other],
        "/api/operations/nobody/stream": [],
    }.items():
        async with gateway.stream(path) as stream:
            assert [message.last_event_id for message in await stream.until_id(other)] == wanted
            assert await last_place(stream) == other
    live = await worker.publish("progress", percent=70)
    await gateway.read(live)
    async with gateway.stream("/api/projects/p-1/stream", last_event_id=other) as stream:
        assert (await stream.next()).last_event_id == live


async def test_a_retryable_failure_is_part_of_the_snapshot_and_no_end(gateway: Gateway, worker: Worker) -> None:
    started = await worker.publish("started")
    failed = await worker.publish("failed", retryable=True, retryAfter=5)
    async with gateway.stream("/api/operations/op-1/stream") as stream:
        assert [(await stream.next()).last_event_id for _ in range(2)] == [started, failed]
        again = await worker.publish("started")
        assert (await stream.next()).last_event_id == again


async def test_a_gap_is_told_when_the_id_is_older_than_anything_held(gateway: Gateway, worker: Worker) -> None:
    ids = [await worker.publish("started", f"op-{number}") for number in range(3)]
    await gateway.read(ids[-1])
    async with gateway.stream("/api/projects/stream", last_event_id="1-0") as stream:
        gap = await stream.next()
        assert (gap.type, gap.last_event_id) == ("replay_gap", "")
        assert gap.json == {"lastEventId": "1-0", "oldestId": ids[0], "reason": "trimmed"}
        assert [message.last_event_id for message in await stream.until_id(ids[-1])] == ids
    assert await gateway.metric("replay_gaps_total", reason="trimmed") == 1


@pytest.mark.parametrize("id", ["garbage", "99999999999999-0", "1-2-3", "-1-0", "18446744073709551616-0", "ü"])
async def test_a_gap_is_told_when_the_id_is_unknown(gateway: Gateway, worker: Worker, id: str) -> None:
    first = await worker.publish("started")
    await gateway.read(first)
    async with gateway.stream(f"/api/projects/stream?lastEventId={id}") as stream:
        gap = await stream.next()
        assert gap.json == {"lastEventId": id, "oldestId": first, "reason": "unknown"}
        assert (await stream.next()).last_event_id == first


async def test_pages_come_from_redis_where_it_holds_more_than_memory(start: Start, worker: Worker) -> None:
    gateway = await start(SSE_REPLAY_MAX_EVENTS="10")
    base = int(time.time() * 1000)
    for number in range(1500):
        await worker.publish("progress", f"op-{number % 3}", id=f"{base + number * 10}-0", percent=number * 0.05)
    await gateway.read(await worker.publish("completed", "op-0"))
    shaped = await everything(gateway)
    assert 30 < len(shaped) < 1400
    full = await start()
    assert await everything(full) == shaped
    last = shaped[-1][0]
    for cut in (0, 1, len(shaped) // 2, len(shaped) - 20, len(shaped) - 2):
        async with gateway.stream("/api/projects/stream", last_event_id=shaped[cut][0]) as stream:
            seen = await stream.until_id(last)
            assert [(message.last_event_id, message.data) for message in seen] == shaped[cut + 1 :]
            live = await worker.publish("started", f"op-{cut}")
            assert (await stream.next()).last_event_id == live
            shaped.append((live, ""))
            last = live
        shaped = [*shaped[:-1], (live, (await newest_frame(gateway))[1])]


async def newest_frame(gateway: Gateway) -> tuple[str, str]:
    return (await everything(gateway))[-1]


async def test_an_id_that_redis_has_trimmed_away_is_a_gap(start: Start, worker: Worker) -> None:
    gateway = await start(SSE_REPLAY_MAX_EVENTS="3")
    ids = [await worker.publish("started", f"op-{number}") for number in range(10)]
    await gateway.read(ids[-1])
    await worker.redis.xtrim(worker.key, maxlen=6, approximate=False)
    async with gateway.stream("/api/projects/stream", last_event_id=ids[4]) as stream:
        assert [message.last_event_id for message in await stream.until_id(ids[-1])] == ids[5:]
    async with gateway.stream("/api/projects/stream", last_event_id=ids[2]) as stream:
        assert (await stream.next()).json == {"lastEventId": ids[2], "oldestId": ids[4], "reason": "trimmed"}


async def test_the_state_of_an_operation(gateway: Gateway, worker: Worker) -> None:
    await worker.publish("started", syncMode="hybrid")
    id = await worker.publish("progress", percent=40, message="Half")
    await gateway.read(id)
    response = await gateway.get("/api/operations/op-1")
    assert response.content_type == "application/json"
    state = json.loads(await response.text())
    assert (state["type"], state["id"], state["terminal"]) == ("github_sync_progress", id, False)
    assert {"operationId": "op-1", "syncMode": "hybrid", "percent": 40, "message": "Half"}.items() <= state[
        "data"
    ].items()
    async with gateway.stream(f"/api/operations/op-1/stream?lastEventId={state['id']}") as stream:
        end = await worker.publish("completed")
        assert [message.last_event_id for message in await stream.rest()] == [end]
    assert json.loads(await (await gateway.get("/api/operations/op-1")).text())["terminal"] is True
    assert (await gateway.get("/api/operations/nobody")).status == 404


@pytest.mark.parametrize("ending", ["completed", "failed"])
async def test_a_single_operation_stream_ends_with_its_operation(gateway: Gateway, worker: Worker, ending: str) -> None:
    async with gateway.stream("/api/operations/op-1/stream") as stream:
        await worker.publish("started")
        end = await worker.publish(ending)
        assert [message.type for message in await stream.rest()] == ["github_sync_started", f"github_sync_{ending}"]
        last = stream.parser.last_event_id
        assert last == end
    assert await gateway.metric("connections_closed_total", reason="terminal") == 1
    for id in (end, last, "99999999999999-0"):
        assert (await gateway.get("/api/operations/op-1/stream", Last_Event_ID=id)).status == 204
        assert (await gateway.get(f"/api/operations/op-1/stream?lastEventId={id}")).status == 204


async def test_an_ended_operation_shows_its_end_to_who_comes_late(gateway: Gateway, worker: Worker) -> None:
    started = await worker.publish("started")
    end = await worker.publish("completed")
    later = await worker.publish("started", "op-2")
    await gateway.read(later)
    async with gateway.stream("/api/operations/op-1/stream") as stream:
        assert [message.last_event_id for message in await stream.rest()] == [started, end]
        assert stream.parser.ids[-1] == later  # the closing block
    async with gateway.stream("/api/operations/op-1/stream", last_event_id=started) as stream:
        assert [message.last_event_id for message in await stream.rest()] == [end]


async def test_follow_keeps_the_stream_open(gateway: Gateway, worker: Worker) -> None:
    await worker.publish("started")
    end = await worker.publish("completed")
    await gateway.read(end)
    async with gateway.stream(f"/api/operations/op-1/stream?follow=true&lastEventId={end}") as stream:
        again = await worker.publish("started")
        assert (await stream.next()).last_event_id == again


async def test_a_new_attempt_after_the_end_is_followed(gateway: Gateway, worker: Worker) -> None:
    await worker.publish("started")
    end = await worker.publish("failed")
    again = await worker.publish("started")
    await gateway.read(again)
    async with gateway.stream("/api/operations/op-1/stream", last_event_id=end) as stream:
        assert (await stream.next()).last_event_id == again


async def test_a_client_that_lags_misses_only_superseded_progress(start: Start, worker: Worker) -> None:
    gateway = await start(SSE_THROTTLE="off")
    async with gateway.stream("/api/projects/stream") as slow:
        await slow.read()
        slow.response.connection.transport.pause_reading()
        await worker.publish("started")
        pipeline = worker.redis.pipeline(transaction=False)
        text = "x" * 4000
        for number in range(4000):
            data = {"operationId": "op-1", "projectId": "p-1", "percent": number / 40, "message": text}
            pipeline.xadd(worker.key, {"type": "github_sync_progress", "data": json.dumps(data)})
        await pipeline.execute()
        await worker.publish("conflict")
        end = await worker.publish("completed")
        await gateway.read(end)
        slow.response.connection.transport.resume_reading()
        seen = await slow.until_id(end, timeout=20)
    kinds = [message.type for message in seen if message.type != "github_sync_progress"]
    assert kinds == ["github_sync_started", "github_sync_conflict", "github_sync_completed"]
    skipped = await gateway.metric("events_skipped_total")
    assert skipped > 0
    assert len(seen) + skipped == 4003
    percents = [message.json["percent"] for message in seen if message.type == "github_sync_progress"]
    assert percents == sorted(percents)
    assert percents[-1] == 3999 / 40


async def test_a_client_that_takes_nothing_is_cut(start: Start, worker: Worker) -> None:
    gateway = await start(SSE_SLOW_CLIENT_TIMEOUT="500ms", SSE_THROTTLE="off")
    async with gateway.stream("/api/projects/stream") as stuck, gateway.stream("/api/projects/stream") as brisk:
        await stuck.read()
        stuck.response.connection.transport.pause_reading()
        text = "x" * 60_000
        for number in range(200):
            id = await worker.publish("progress", percent=number / 2, message=text)
        await brisk.until_id(id, timeout=20)
        await gateway.metric_reaches(1, "connections_closed_total", reason="slow")


async def test_latency_is_measured_from_the_entry_id(gateway: Gateway, worker: Worker) -> None:
    async with gateway.stream("/api/projects/stream") as stream:
        for _ in range(20):
            await worker.publish("started")
            await stream.next()
    assert await gateway.metric("delivery_seconds_count") == 20
    assert await gateway.metric("delivery_seconds_bucket", le="0.1") == 20


async def test_errors_are_problems(gateway: Gateway) -> None:
    many = "&".join(f"projectId={number}" for number in range(65))
    for path, status in {
        "/api/operations/%00/stream": 400,
        f"/api/operations/{'x' * 257}": 400,
        f"/api/projects/stream?{many}": 400,
        "/api/projects/stream?operationId=": 400,
        "/api/nothing": 404,
    }.items():
        response = await gateway.get(path, Accept="text/event-stream")
        assert (response.status, response.content_type) == (status, "application/problem+json")
        problem = json.loads(await response.text())
        assert problem["status"] == status
        assert problem["title"]
        assert problem["detail"]
        assert await gateway.metric("requests_rejected_total", status=str(status)) > 0
    async with gateway.session.post(gateway.url + "/api/projects/stream") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET, HEAD, OPTIONS"


async def test_limits_refuse_in_the_language_of_who_asks(start: Start) -> None:
    gateway = await start(
        SSE_MAX_CONNECTIONS="2", SSE_MAX_CONNECTIONS_PER_CLIENT="1", SSE_TRUSTED_PROXIES="127.0.0.0/8"
    )
    async with gateway.stream("/api/projects/stream", headers={"X-Forwarded-For": "192.0.2.1"}):
        response = await gateway.get("/api/projects/stream", X_Forwarded_For="192.0.2.1, 127.0.0.9")
        assert (response.status, response.headers["Retry-After"]) == (429, "15")
        async with gateway.stream("/api/projects/stream", headers={"X-Forwarded-For": "192.0.2.2"}):
            response = await gateway.get("/api/projects/stream", X_Forwarded_For="192.0.2.3")
            assert (response.status, response.headers["Retry-After"]) == (503, "15")
            async with gateway.stream("/api/projects/stream", headers={"X-Forwarded-For": "192.0.2.3"}) as refused:
                [message] = await refused.rest()
                assert 7500 <= refused.parser.retry <= 22500
                assert message.json == {"status": 503, "detail": "too many streams: come back"}
                assert refused.response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert await gateway.metric("requests_rejected_total", status="503") == 2
    await gateway.metric_reaches(2, "connections_closed_total", reason="client")
    async with gateway.stream("/api/projects/stream", headers={"X-Forwarded-For": "192.0.2.1"}):
        pass


async def test_a_stream_ends_at_its_maximum_age(start: Start, worker: Worker) -> None:
    gateway = await start(SSE_MAX_CONNECTION_AGE="300ms")
    async with gateway.stream("/api/projects/p-1/stream") as stream:
        elsewhere = await worker.publish("started", "op-9", "p-9")
        assert await stream.rest() == []
        assert stream.parser.last_event_id == elsewhere
    assert await gateway.metric("connections_closed_total", reason="expired") == 1


async def test_cors_is_for_the_origins_named(start: Start) -> None:
    named = await start(SSE_CORS_ORIGINS="https://app.example.com, https://b.example.com")
    response = await named.get("/api/operations/x", Origin="https://app.example.com")
    assert response.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
    assert response.headers["Access-Control-Allow-Credentials"] == "true"
    assert response.headers["Vary"] == "Origin"
    assert response.headers["Access-Control-Expose-Headers"] == "Retry-After, X-Request-ID"
    for path in ("/api/operations/x", "/api/nothing"):
        assert "Access-Control-Allow-Origin" not in (await named.get(path, Origin="https://evil.example.com")).headers
    async with named.stream("/api/projects/stream", headers={"Origin": "https://b.example.com"}) as stream:
        assert stream.response.headers["Access-Control-Allow-Origin"] == "https://b.example.com"
    async with named.session.options(
        named.url + "/api/projects/stream",
        headers={"Origin": "https://b.example.com", "Access-Control-Request-Method": "GET"},
    ) as preflight:
        assert preflight.status == 204
        assert preflight.headers["Access-Control-Allow-Origin"] == "https://b.example.com"
        allowed = preflight.headers["Access-Control-Allow-Headers"].split(", ")
        assert {*allowed} == {"Authorization", "Cache-Control", "Last-Event-ID", "traceparent", "X-Request-ID"}
    anyone = await start(SSE_CORS_ORIGINS="*")
    response = await anyone.get("/api/operations/x", Origin="https://app.example.com")
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in response.headers


async def test_http_1_0_gets_the_same_blocks_unchunked(gateway: Gateway, worker: Worker) -> None:
    await gateway.read(await worker.publish("started"))
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /api/projects/stream HTTP/1.0\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"chunked" not in head
    await worker.publish("completed")
    body = await asyncio.wait_for(reader.readuntil(b"github_sync_completed"), 5)
    start = rb"retry: \d+\nevent: heartbeat\ndata: [^\n]+\n\nid: \d+-0\nevent: github_sync_started\ndata: "
    assert re.match(start, body)
    writer.close()


async def test_clients_that_leave_before_they_are_answered_leave_nothing_behind(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    request = b"GET /api/projects/stream HTTP/1.1\r\nHost: x\r\n\r\n"
    for number in range(300):
        with socket.create_connection(("127.0.0.1", gateway.port)) as client:
            client.send(request[: len(request) - number % 3])
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if number % 7 == 0:
            await asyncio.sleep(0)
    async with gateway.stream("/api/projects/stream"):
        pass
    async with asyncio.timeout(10):
        while await gateway.metric("connections", scope="multi") or gateway.server.hub.subscribers:
            await asyncio.sleep(0.02)
    opened = await gateway.metric("connections_opened_total", scope="multi")
    assert opened == await gateway.metric("connections_closed_total", reason="client")
    assert [record.getMessage() for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


# 3. The platform face


async def test_health_and_readiness(gateway: Gateway) -> None:
    for path in ("/healthz", "/readyz"):
        async with gateway.session.get(gateway.admin + path) as response:
            assert response.status == 200


async def test_a_redis_that_was_never_there_keeps_it_unready_and_refuses_kindly(session: aiohttp.ClientSession) -> None:
    async with running(session, SSE_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0") as gateway:
        async with gateway.session.get(gateway.admin + "/readyz") as response:
            assert response.status == 503
        async with gateway.session.get(gateway.admin + "/healthz") as response:
            assert response.status == 200
        assert (await gateway.get("/api/projects/stream")).status == 503
        async with gateway.stream("/api/projects/stream") as refused:
            [message] = await refused.rest()
            assert (message.type, message.json["status"]) == ("refused", 503)
            assert 1500 <= refused.parser.retry <= 4500
        both = "text/event-stream, application/problem+json"
        refusal = await gateway.get("/api/projects/stream", Accept=both)
        assert (refusal.status, refusal.content_type) == (503, "application/problem+json")
        assert await gateway.metric("redis_up") == 0


async def test_metrics_are_all_there_without_identifying_labels(gateway: Gateway, worker: Worker) -> None:
    async with gateway.stream("/api/projects/secret-project/stream"):
        await gateway.read(await worker.publish("started", "secret-operation", "secret-project"))
    async with gateway.session.get(gateway.admin + "/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = await response.text()
    assert "secret" not in text
    types = dict(re.findall(r"^# TYPE sse_gateway_(\w+) (\w+)$", text, re.MULTILINE))
    assert types == {
        "connections": "gauge",
        "connections_limit": "gauge",  # not the contract's: how near the limit is can't be told without it
        "connections_opened_total": "counter",
        "connections_closed_total": "counter",
        "requests_rejected_total": "counter",
        "events_consumed_total": "counter",
        "events_rejected_total": "counter",
        "events_nonconforming_total": "counter",
        "events_throttled_total": "counter",
        "events_stale_total": "counter",
        "operations": "gauge",
        "events_delivered_total": "counter",
        "events_skipped_total": "counter",
        "delivery_seconds": "histogram",
        "replayed_events_total": "counter",
        "replay_gaps_total": "counter",
        "log_lines_dropped_total": "counter",
        "log_events": "gauge",
        "log_bytes": "gauge",
        "redis_up": "gauge",
        "stream_lag_seconds": "gauge",
        "redis_reconnects_total": "counter",
        "build_info": "gauge",
    }


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian's package prometheus) is not installed")
async def test_promtool_accepts_the_metrics(gateway: Gateway) -> None:
    async with gateway.session.get(gateway.admin + "/metrics") as response:
        text = await response.read()
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, b"")


async def test_the_log_is_bounded_by_events_and_bytes(start: Start, worker: Worker) -> None:
    by_events, by_bytes = await start(SSE_REPLAY_MAX_EVENTS="7"), await start(SSE_REPLAY_MAX_BYTES="8KiB")
    for number in range(100):
        last = await worker.publish("started", f"op-{number}")
    for gateway in (by_events, by_bytes):
        await gateway.read(last)
    assert await by_events.metric("log_events") == 7
    assert 4096 < await by_bytes.metric("log_bytes") <= 8192


async def test_drain_tells_every_stream_its_place_and_refuses_new_ones(
    worker: Worker, shared_redis: RedisServer, session: aiohttp.ClientSession
) -> None:
    settings = {"SSE_REDIS_URL": shared_redis.url, "SSE_STREAM": worker.key, "SSE_DRAIN": "2s"}
    async with running(session, **settings) as gateway:
        await gateway.server.ready()
        async with AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(gateway.stream("/api/projects/p-1/stream")) for _ in range(20)]
            for stream in streams:
                await stream.read()
            elsewhere = await worker.publish("started", "op-2", "p-2")
            await gateway.read(elsewhere)
            gateway.server.stop()
            await asyncio.sleep(0)
            async with gateway.stream("/api/projects/stream") as refused:
                [message] = await refused.rest()
                assert (message.type, message.last_event_id) == ("refused", "")
                assert message.json == {"status": 503, "detail": "this replica is going away: come back"}
            assert (await gateway.get("/api/projects/stream")).headers["Retry-After"] == "3"
            async with session.get(gateway.admin + "/readyz") as response:
                assert response.status == 503
            began = time.monotonic()
            ended = []

            async def rest(stream: Stream) -> None:
                assert await stream.rest() == []
                assert stream.parser.last_event_id == elsewhere
                ended.append(time.monotonic() - began)

            await asyncio.gather(*map(rest, streams))
    ended.sort()
    gaps = [later - sooner for sooner, later in itertools.pairwise(ended)]
    assert max(gaps) < 1.0
    assert 1.0 < ended[-1] < 2.5


async def test_redis_away_and_back_loses_and_repeats_nothing(
    own_redis: RedisServer, session: aiohttp.ClientSession
) -> None:
    own_redis.stop()
    redis = RedisServer("--appendonly", "yes", "--appendfsync", "always", port=own_redis.port).start()
    try:
        async with working(redis.url) as worker, running(session, SSE_REDIS_URL=redis.url) as gateway:
            await gateway.server.ready()
            async with gateway.stream("/api/projects/stream") as stream:
                ids: list[str] = []
                seen: list[Message] = []
                for _ in range(3):
                    ids += [await worker.publish("started", f"op-{number}") for number in range(20)]
                    redis.kill()
                    await worker.redis.connection_pool.disconnect()
                    async with session.get(gateway.admin + "/readyz") as response:
                        assert response.status == 200
                    redis.start()
                    ids.append(await worker.publish("started", "after"))
                    seen += await stream.until_id(ids[-1], timeout=20)
                assert [message.last_event_id for message in seen] == ids
            assert await gateway.metric("redis_reconnects_total") >= 3
    finally:
        redis.stop()


@pytest.mark.parametrize("how", ["DEL", "FLUSHALL", "backwards"])
async def test_a_reset_is_told_and_reading_goes_on(
    own_redis: RedisServer, session: aiohttp.ClientSession, how: str
) -> None:
    async with working(own_redis.url) as worker, running(session, SSE_REDIS_URL=own_redis.url) as gateway:
        await gateway.server.ready()
        async with gateway.stream("/api/projects/stream") as stream:
            before = [await worker.publish("started", f"op-{number}") for number in range(3)]
            await stream.until_id(before[-1])
            if how == "backwards":  # what a promoted replica without the newest entries looks like
                async with worker.redis.pipeline(transaction=True) as pipe:
                    pipe.delete(worker.key)
                    pipe.xadd(worker.key, _entry("kept"), id=before[0])
                    pipe.xadd(worker.key, _entry("new"), id=f"{int(before[-1].partition('-')[0]) + 5}-0")
                    kept, new = (await pipe.execute())[1:]
            else:
                await worker.redis.execute_command(how, *([worker.key] if how == "DEL" else []))
                kept, new = None, None
            gap = await stream.next()
            assert (gap.type, gap.json["reason"], gap.json["lastEventId"]) == ("replay_gap", "reset", before[-1])
            assert gap.json["oldestId"] == kept
            if new is not None:
                assert [message.last_event_id for message in await stream.until_id(new)] == [kept, new]
            live = await worker.publish("started", "op-9")
            assert (await stream.next()).last_event_id == live
        assert await gateway.metric("replay_gaps_total", reason="reset") == 1


def _entry(operation: str) -> dict[str, str]:
    data = {"operationId": operation, "projectId": "p-1", "direction": "to_github"}
    return {"type": "github_sync_started", "data": json.dumps(data)}


async def test_trimming_is_no_reset(gateway: Gateway, worker: Worker) -> None:
    async with gateway.stream("/api/projects/stream") as stream:
        ids = [await worker.publish("started", f"op-{number}") for number in range(5)]
        await stream.until_id(ids[-1])
        await worker.redis.xtrim(worker.key, maxlen=0, approximate=False)
        assert await stream.quiet(1.5)
    async with gateway.stream("/api/projects/stream", last_event_id=ids[1]) as stream:
        assert [message.last_event_id for message in await stream.until_id(ids[-1])] == ids[2:]


async def test_a_key_of_another_type_stops_the_start(worker: Worker, shared_redis: RedisServer) -> None:
    await worker.redis.set(worker.key, "not a stream")
    server = Server(Config.load(SILENT | {"SSE_REDIS_URL": shared_redis.url, "SSE_STREAM": worker.key}))
    await server.start()
    with pytest.raises(NotAStream, match=worker.key):
        await server.run()


async def test_a_stream_that_ends_is_freed_at_once(gateway: Gateway) -> None:
    """Not when its heartbeat would have been due, nor by the collector: a refused request too."""

    def held() -> int:
        return sum(isinstance(each, Connection | web.Request) for each in gc.get_objects())

    before = held()
    gc.disable()
    try:
        for _ in range(20):
            async with gateway.stream("/api/projects/p-1/stream") as stream:
                await stream.read()
            assert (await gateway.get("/api/operations/nobody")).status == 404
            assert (await gateway.get("/api/nowhere")).status == 404
        async with asyncio.timeout(5):
            while held() > before + 1:  # an idle connection has its last request
                await asyncio.sleep(0.05)
    finally:
        gc.enable()


# Two projects, one operationId


async def test_operations_of_two_projects_that_share_an_id_know_nothing_of_each_other(
    gateway: Gateway, worker: Worker
) -> None:
    await worker.publish("started", "1", "mine")
    await worker.publish("conflict", "1", "yours", conflicts=["secret.txt"])
    await worker.publish("progress", "1", "yours", percent=90)
    mine = await worker.publish("progress", "1", "mine", percent=10)
    end = await worker.publish("completed", "1", "yours")
    await gateway.read(end)
    async with (
        gateway.stream("/api/projects/mine/stream") as project,
        gateway.stream("/api/operations/1/stream?projectId=mine") as single,
        gateway.stream("/api/operations/1/stream") as both,
    ):
        for stream in (project, single):
            assert await last_place(stream) == end
            seen = await stream.take(2)
            assert [message.json["projectId"] for message in seen] == ["mine", "mine"]
            assert seen[-1].json["percent"] == 10
        assert {message.json["projectId"] for message in await both.take(5)} == {"mine", "yours"}
        done = await worker.publish("completed", "1", "mine")
        assert (await project.next()).last_event_id == done
        for stream in (single, both):  # only now have all of that id ended
            assert [message.last_event_id for message in await stream.rest()] == [done]
    states = [json.loads(await (await gateway.get(f"/api/operations/1{query}")).text()) for query in
              ("?projectId=yours", "?projectId=mine", "")]  # fmt: skip
    assert [state["data"]["projectId"] for state in states] == ["yours", "mine", "mine"]
    assert states[1]["data"]["percent"] == 10
    assert (await gateway.get("/api/operations/1?projectId=theirs")).status == 404
    assert (await gateway.get("/api/operations/1/stream?projectId=mine", Last_Event_ID=mine)).status == 200
    assert (await gateway.get("/api/operations/1/stream?projectId=mine", Last_Event_ID=done)).status == 204
    assert await gateway.metric("operations", state="running") == 0


# Fencing


async def test_a_worker_that_lost_its_lock_ends_no_stream_and_an_entry_sent_twice_is_one_event(
    gateway: Gateway, worker: Worker
) -> None:
    async with gateway.stream("/api/operations/op-1/stream") as stream:
        await worker.publish("started", run="a", seq=1)
        await worker.publish("started", run="b", seq=1)
        stale = await worker.publish("completed", run="a", seq=2, commitSha="stale")
        await worker.publish("progress", run="b", seq=2, percent=50)
        await worker.publish("completed", run="b", seq=3, commitSha="true")
        await worker.publish("completed", run="b", seq=3, commitSha="true")
        seen = await stream.rest()
    assert [message.json["run"] for message in seen] == ["a", "b", "b", "b"]
    assert seen[-1].json["commitSha"] == "true"
    assert await gateway.metric("events_stale_total") == 2
    async with gateway.stream("/api/operations/op-1/stream?follow=true", last_event_id=stale) as stream:
        await last_place(stream)  # an id that a heartbeat may have told
        assert [message.type for message in await stream.take(2)] == ["github_sync_progress", "github_sync_completed"]


async def test_run_seq_and_attempt_are_part_of_the_second_table(gateway: Gateway, worker: Worker) -> None:
    for wrong in ({"run": ""}, {"run": "x" * 65}, {"seq": 0}, {"seq": 1.5}, {"attempt": "2"}, {"attempts": True}):
        await worker.publish("started", **wrong)
    await gateway.read(await worker.publish("started", run="r", seq=1, attempt=1, attempts=3))
    assert await gateway.metric("events_nonconforming_total", type="github_sync_started") == 6


# What a listener is told


async def test_ended_adds_the_operations_that_ended_last(gateway: Gateway, worker: Worker) -> None:
    for number in range(5):
        await worker.publish("started", f"op-{number}", f"p-{number % 2}")
    for number in (3, 1, 2):
        await worker.publish("completed", f"op-{number}", f"p-{number % 2}")
    newest = await worker.publish("started", "op-9", "p-9")
    await gateway.read(newest)
    for path, wanted in {
        "/api/projects/stream": {"op-0", "op-4", "op-9"},
        "/api/projects/stream?ended=1": {"op-0", "op-4", "op-9", "op-2"},
        "/api/projects/stream?ended=100": {f"op-{number}" for number in (0, 1, 2, 3, 4, 9)},
        "/api/projects/p-1/stream?ended=1": {"op-1"},
        "/api/projects/stream?projectId=p-1&operationId=op-2&ended=2": {"op-1", "op-2"},
    }.items():
        async with gateway.stream(path) as stream:
            assert await last_place(stream) == newest
            seen = stream._ready
            assert {message.json["operationId"] for message in seen} == wanted, path
            assert [m.last_event_id for m in seen] == sorted(m.last_event_id for m in seen)
    for bad in ("-1", "101", "1.5", "x", "", "٣"):
        response = await gateway.get(f"/api/projects/stream?ended={bad}")
        assert (response.status, "ended" in await response.text()) == (400, True)


@pytest.mark.parametrize("forgets", [False, True])
async def test_a_gap_is_followed_by_what_ended_since_so_that_no_row_runs_on_for_ever(
    start: Start, worker: Worker, forgets: bool
) -> None:
    gateway = await start(**({"SSE_REPLAY_MAX_EVENTS": "2"} if forgets else {}))
    early = await worker.publish("started", "op-0")
    await worker.publish("completed", "op-0")
    place = await worker.publish("started", "op-1")
    await worker.publish("started", "op-2")
    await worker.publish("completed", "op-1")
    newest = await worker.publish("progress", "op-2")
    await gateway.read(newest)
    await worker.redis.xtrim(worker.key, maxlen=2, approximate=False)
    later = gateway if forgets else await start()  # who has never read the place
    async with later.stream("/api/projects/stream", last_event_id=place) as stream:
        assert await last_place(stream) == newest
        gap, *seen = stream._ready
        assert (gap.type, gap.json["reason"]) == ("replay_gap", "trimmed")
        assert {(m.json["operationId"], m.type) for m in seen} >= {("op-1", "github_sync_completed")}
        assert "op-0" not in {message.json["operationId"] for message in seen}
    assert early < place


async def test_the_operations_of_a_project(gateway: Gateway, worker: Worker) -> None:
    for number in range(3):
        await worker.publish("started", f"op-{number}")
    await worker.publish("completed", "op-0", number=12345678901234567890123)
    await worker.publish("completed", "op-1")
    await worker.publish("started", "op-9", "p-2")
    newest = await worker.publish("progress", "op-3", percent=40)
    await gateway.read(newest)
    response = await gateway.get("/api/projects/p-1/operations")
    assert (response.content_type, response.headers["Cache-Control"]) == ("application/json", "no-store")
    listed = json.loads(await response.text())
    assert listed["id"] == newest
    assert [each["data"]["operationId"] for each in listed["operations"]] == ["op-3", "op-2", "op-1", "op-0"]
    assert [each["terminal"] for each in listed["operations"]] == [False, False, True, True]
    assert listed["operations"][3]["data"]["number"] == 12345678901234567890123
    assert all(set(each) == {"type", "id", "terminal", "stalled", "data"} for each in listed["operations"])
    fewer = json.loads(await (await gateway.get("/api/projects/p-1/operations?ended=1")).text())
    assert [each["data"]["operationId"] for each in fewer["operations"]] == ["op-3", "op-2", "op-1"]
    nobody = json.loads(await (await gateway.get("/api/projects/nobody/operations")).text())
    assert nobody == {"id": newest, "operations": []}
    async with gateway.stream("/api/projects/p-1/stream", last_event_id=listed["id"]) as stream:
        id = await worker.publish("progress", "op-2")
        assert (await stream.next()).last_event_id == id
    assert (await gateway.get("/api/projects/p-1/operations?ended=101")).status == 400


async def test_the_state_says_whether_it_is_stalled_until_it_is_heard_of(start: Start, worker: Worker) -> None:
    gateway = await start(SSE_STALLED_AFTER="300ms")

    async def stalled() -> bool:
        return bool(json.loads(await (await gateway.get("/api/operations/op-1")).text())["stalled"])

    async with gateway.stream("/api/projects/stream") as stream:
        await worker.publish("started")
        await stream.next()
        assert not await stalled()
        assert (await stream.next()).type == "operation_stalled"
        assert await stalled()
        assert await gateway.metric("operations", state="stalled") == 1
        assert await gateway.metric("operations", state="running") == 0
        await worker.publish("progress", percent=10)
        await stream.next()
        assert not await stalled()
        assert await gateway.metric("operations", state="running") == 1


async def test_silence_is_put_off_by_what_a_failure_announces(start: Start, worker: Worker) -> None:
    gateway = await start(SSE_STALLED_AFTER="200ms")
    async with gateway.stream("/api/projects/stream") as stream:
        await worker.publish("failed", retryable=True, retryAfter=1)
        await worker.publish("failed", "op-2", retryable=True)
        seen = await stream.take(3)
        assert seen[-1].json["operationId"] == "op-2"  # who announced nothing
        assert await stream.quiet(0.5)
        advice = await stream.next()
        assert (advice.type, advice.json["operationId"]) == ("operation_stalled", "op-1")
        assert advice.json["silentFor"] >= 0.2


async def test_throttled_at_one_gateway_is_throttled_at_another_that_began_after_a_trim(
    gateway: Gateway, start: Start, worker: Worker
) -> None:
    """Every attempt whose `started` is held looks the same at both."""
    await worker.publish("started", "op-1")
    for percent in (80, 70, 81, 60):
        await worker.publish("progress", "op-1", percent=percent)
    cut = await worker.publish("started", "op-1")
    for percent in (40, 42, 30, 46, 44):
        last = await worker.publish("progress", "op-1", percent=percent)
    await gateway.read(last)
    await worker.redis.xtrim(worker.key, minid=cut, approximate=False)
    later = await start()
    whole, rest = await everything(gateway), await everything(later)
    assert [each for each in whole if each[0] >= cut] == rest
