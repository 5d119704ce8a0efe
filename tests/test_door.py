"""Connections before they are streams: what is answered without a route, half-closed clients, and who goes for whom."""

import asyncio
import gc
import json
import logging
import re
import socket
import subprocess
import sys
import time

import pytest

from gateway.metrics import REFUSALS
from tests.conftest import Gateway, Start, Worker

BAD = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20 + b"\r\n\r\n",
    "a bad header": b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
    "a long line": b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n",
    "two lengths": b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "a bad version": b"GET / HTTP/9\r\n\r\n",
}


def port(gateway: Gateway, *, admin: bool = False) -> int:
    return int((gateway.admin if admin else gateway.url).rpartition(":")[2])


async def exchange(gateway: Gateway, request: bytes, *, half_close: bool = False, admin: bool = False) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port(gateway, admin=admin))
    writer.write(request)
    if half_close:
        writer.write_eof()
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


def told(answer: bytes) -> tuple[str, dict[str, object]]:
    head, _, body = answer.decode().partition("\r\n\r\n")
    return head, json.loads(body)


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("admin", [False, True])
async def test_what_is_no_http_is_a_problem_that_tells_nothing_of_the_server(
    gateway: Gateway, caplog: pytest.LogCaptureFixture, name: str, admin: bool
) -> None:
    before = await gateway.metric("requests_rejected_total", status="400")
    for _ in range(20):
        head, problem = told(await exchange(gateway, BAD[name], admin=admin))
    assert " 400 " in head.splitlines()[0]
    assert "application/problem+json" in head
    assert (problem["status"], problem["title"]) == (400, "Bad Request")
    assert "Server: sse-gateway" in head
    assert not re.search("(?i)python|aiohttp", head + str(problem))
    if not admin:
        assert await gateway.metric("requests_rejected_total", status="400") == before + 20
    lines = [each for each in caplog.records if each.levelno >= logging.WARNING and each.name.startswith("gateway.a")]
    assert len(lines) <= 5
    assert not any(each.exc_info for each in caplog.records)


@pytest.mark.parametrize("path", ["/api/projects/p/stream", "/api/operations/o", "/nowhere", "/"])
@pytest.mark.parametrize("expected", [b"foo", b"\xff\xfe", b"100-continue, foo"])
async def test_an_expectation_that_is_not_understood_is_417(
    start: Start, caplog: pytest.LogCaptureFixture, path: str, expected: bytes
) -> None:
    gateway = await start(SSE_AUTH="jwt", SSE_JWT_SECRET="s" * 32)
    for _ in range(20):
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nExpect: ".encode() + expected + b"\r\nConnection: close\r\n\r\n"
        head, problem = told(await exchange(gateway, request))
        assert head.startswith("HTTP/1.1 417 ")
        assert problem["status"] == 417
        assert "100-continue" in str(problem["detail"])
        assert "Server: sse-gateway" in head
    assert await gateway.metric("requests_rejected_total", status="417") == 20
    assert 417 in REFUSALS
    lines = [each.message for each in caplog.records if "Expect" in each.message]
    assert 1 <= len(lines) <= 5


async def test_100_continue_is_understood(gateway: Gateway) -> None:
    answer = await exchange(
        gateway,
        b"GET /api/projects/p/operations HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


async def test_a_bug_is_a_problem_too(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("a secret of the code")

    monkeypatch.setattr(gateway.server._api, "_known", broken)
    async with gateway.session.get(gateway.url + "/api/operations/o", headers={"X-Request-ID": "mine"}) as response:
        assert response.status == 500
        assert response.content_type == "application/problem+json"
        assert response.headers["Server"] == "sse-gateway"
        text = await response.text()
    assert "secret" not in text
    assert "mine" in text
    assert await gateway.metric("requests_rejected_total", status="500") == 1
    assert [each.exc_info[0] for each in caplog.records if each.exc_info] == [ZeroDivisionError]


@pytest.mark.parametrize("pause", [0, 0.05])
async def test_who_half_closes_behind_the_request_is_answered(gateway: Gateway, worker: Worker, pause: float) -> None:
    await gateway.read(await worker.publish("started", "op-1"))
    async with gateway.stream("/api/operations/op-1/stream") as stream:
        await stream.read()
        for path in ("/api/operations/op-1", "/api/projects/p-1/operations", "/nowhere"):
            request = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            reader, writer = await asyncio.open_connection("127.0.0.1", port(gateway))
            writer.write(request)
            await asyncio.sleep(pause)  # 0: the end comes with the request, else with an idle connection
            writer.write_eof()
            async with asyncio.timeout(2):
                answer = await reader.read()  # and the connection is closed
            assert answer.count(b"HTTP/1.1 ") == 1
            assert answer.startswith(b"HTTP/1.1 404" if path == "/nowhere" else b"HTTP/1.1 200")
            writer.close()


async def test_several_requests_before_the_half_close_are_all_answered(gateway: Gateway) -> None:
    request = b"GET /api/projects/p/operations HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = await exchange(gateway, request * 3, half_close=True)
    assert answer.count(b"HTTP/1.1 200 OK") == 3


async def test_a_stream_ends_with_its_clients_side_and_says_so_where_it_can(gateway: Gateway) -> None:
    """A tab that was closed looks the same: its place must be free at once, for the one that is opened next."""
    request = b"GET /api/projects/p/stream HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = await exchange(gateway, request, half_close=True)
    assert not answer or answer.startswith(b"HTTP/1.1 200 OK")  # what was known when the end was seen
    for first in (b"", b"GET /api/operations/o HTTP/1.1\r\nHost: x\r\n\r\n"):
        answer = await exchange(gateway, first + request[:9], half_close=True)  # nothing that could be a stream
        assert not first or answer.startswith(b"HTTP/1.1 404 ")
    answer = await exchange(gateway, request * 2, half_close=True)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"keep the connection open" in answer
    reader, writer = await asyncio.open_connection("127.0.0.1", port(gateway))
    writer.write(request)
    await reader.readuntil(b"heartbeat")
    writer.write_eof()
    async with asyncio.timeout(2):
        await reader.read()
        while await gateway.metric("connections", scope="project"):
            await asyncio.sleep(0.01)
    writer.close()


@pytest.mark.parametrize("said", [b"", b"GET /api/projects/p/stream HTTP/1.1\r\nHost: x\r\n"], ids=["silent", "half"])
async def test_silent_sockets_take_no_place_of_a_listener_a_newcomer_or_the_platform(
    start: Start, monkeypatch: pytest.MonkeyPatch, worker: Worker, said: bytes
) -> None:
    """400 connections where 300 descriptors are; here by the limit that the process sees."""
    monkeypatch.setattr("gateway.server.resource.setrlimit", lambda *_: None)
    monkeypatch.setattr("gateway.server.resource.getrlimit", lambda *_: (300, 300))
    gateway = await start()
    assert await gateway.metric("connections_limit") == 236
    silent: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    async with gateway.stream("/api/projects/p-1/stream") as listener:
        await listener.read()
        for _ in range(400):
            reader, writer = await asyncio.open_connection("127.0.0.1", port(gateway))
            writer.write(said)
            silent.append((reader, writer))
        began = time.monotonic()
        async with gateway.stream("/api/projects/p-1/stream") as newcomer:  # and it gets in
            await newcomer.read()
            for path in ("/healthz", "/readyz", "/metrics", "/operations/nobody"):
                async with gateway.session.get(gateway.admin + path) as response:
                    assert response.status == (404 if path.startswith("/op") else 200)
            id = await worker.publish("started", "op-1")
            for stream in (listener, newcomer):
                assert (await stream.until_id(id))[-1].last_event_id == id
        assert time.monotonic() - began < 15
        async with asyncio.timeout(5):
            gone = [await reader.read() for reader, _ in silent[:100]]  # the oldest went first
        assert gone == [b""] * 100
        assert len(gateway.server._listening[0].sockets) == 1
    for _, writer in silent:
        writer.close()


async def test_who_has_asked_before_stays_longer_than_who_never_has(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.server.resource.setrlimit", lambda *_: None)
    monkeypatch.setattr("gateway.server.resource.getrlimit", lambda *_: (120, 120))
    gateway = await start()
    request = b"GET /api/projects/p/operations HTTP/1.1\r\nHost: x\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port(gateway))
    writer.write(request)
    await reader.readuntil(b"[]}")
    others = [await asyncio.open_connection("127.0.0.1", port(gateway)) for _ in range(200)]
    writer.write(request)
    async with asyncio.timeout(2):
        assert b"200 OK" in await reader.readuntil(b"[]}")
    for _, each in [(reader, writer), *others]:
        each.close()


def test_a_port_in_use_names_its_variable(gateway: Gateway) -> None:
    for variable in ("SSE_LISTEN", "SSE_ADMIN_LISTEN"):
        environment = {"SSE_AUTH": "none", "SSE_LISTEN": "127.0.0.1:0", "SSE_ADMIN_LISTEN": "127.0.0.1:0"}
        taken = gateway.url.removeprefix("http://")
        done = subprocess.run(
            [sys.executable, "-m", "gateway"], env=environment | {variable: taken}, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert f"{variable}={taken}: Address already in use" in done.stderr


KINDS = {
    "stream": b"GET /api/projects/p/stream HTTP/1.1\r\nHost: x\r\n\r\n",
    "stream with an id": b"GET /api/operations/o/stream?lastEventId=1-1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "state": b"GET /api/operations/o HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "not found": b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "method": b"POST /api/operations/o HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    "expectation": b"GET / HTTP/1.1\r\nHost: x\r\nExpect: foo\r\nConnection: close\r\n\r\n",
    "nothing": b"",
    **BAD,
}


@pytest.mark.parametrize("kind", KINDS)
async def test_no_client_leaves_cycles(gateway: Gateway, kind: str) -> None:
    """The collector looks at an object twice and never again: what only it could free would stay for ever.

    aiohttp's own of a refused route live for one turn.
    """

    def visit() -> None:
        with socket.create_connection(("127.0.0.1", port(gateway))) as client:
            client.sendall(KINDS[kind])
            if KINDS[kind]:
                client.recv(4096)

    async def visits(times: int) -> int:
        gc.collect()
        gc.disable()
        try:
            for _ in range(times):
                await asyncio.to_thread(visit)
            await asyncio.sleep(0.1)
            return gc.collect()
        finally:
            gc.enable()

    await visits(3)
    own = {"not found": 8, "method": 8, "expectation": 8}.get(kind, 1)
    assert await visits(50) < 50 * own


STREAMS = {
    "a snapshot": "GET /api/operations/op-1/stream HTTP/1.1",
    "a replay": "GET /api/projects/p-1/stream?lastEventId=earliest HTTP/1.1",
    "a gap": "GET /api/projects/stream?lastEventId=nonsense&operationId=op-1 HTTP/1.1",
    "HTTP/1.0": "GET /api/projects/p-1/stream HTTP/1.0",
    "an encoded id": "GET /api/projects/p%2D1/stream HTTP/1.1",
    "no stream": "GET /api/projects/p-1/streams HTTP/1.1",
    "a bad id": "GET /api/projects/p%0A/stream HTTP/1.1",
    "a refusal": "GET /api/operations/op-1/stream?ended=1000 HTTP/1.1",
}


@pytest.mark.parametrize("name", STREAMS)
async def test_a_request_is_answered_alike_however_it_comes(start: Start, worker: Worker, name: str) -> None:
    """Whole, it is answered in one turn (door.Caller); in pieces, or behind another, by aiohttp's protocol."""
    gateway = await start(SSE_CORS_ORIGINS="https://a.example")
    await gateway.read(await worker.publish("started", "op-1"))
    request = f"{STREAMS[name]}\r\nHost: x\r\nOrigin: https://a.example\r\nX-Request-ID: mine\r\n\r\n".encode()
    earlier = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
    answers = []
    for pieces in ([request], [request[:30], request[30:]], [earlier, request]):
        reader, writer = await asyncio.open_connection("127.0.0.1", port(gateway))
        answer = b""
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.2)
            if piece in (earlier, request, pieces[-1]):
                answer = await reader.read(65536)
        answers.append(re.sub(rb'"time":"[^"]*"|retry: \d+|Date: [^\r]*|\r\n[0-9a-f]{2,3}(?=\r\n)', b"", answer))
        writer.close()
    assert answers[0].count(b"HTTP/1.") == 1
    assert answers[0].count(b"Access-Control-Allow-Origin: https://a.example\r\n") == 1
    assert answers[0].count(b"X-Request-ID: mine\r\n") == 1
    assert answers[1] == answers[2] == answers[0]


async def test_a_stream_begins_in_one_piece(start: Start, worker: Worker) -> None:
    """The head, the first block, the replay and that it is complete: a crowd that returns costs one send a client."""
    gateway = await start(SSE_THROTTLE="off")
    for percent in range(50):
        id = await worker.publish("progress", "op-1", percent=percent)
    await gateway.read(id)
    reader, writer = await asyncio.open_connection("127.0.0.1", port(gateway))
    writer.write(b"GET /api/operations/op-1/stream?lastEventId=earliest HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await reader.read(65536)
    assert answer.count(b"event: heartbeat") == 2
    assert answer.endswith(b"\n\n\r\n")
    assert answer.rindex(f"id: {id}".encode()) > answer.index(f"id: {id}".encode())
    writer.close()


@pytest.mark.parametrize("said", [b"", b"GET /api/projects/p/stream HTTP/1.1\r\nHost: x\r\n"], ids=["silent", "half"])
async def test_who_never_asks_is_shown_out(start: Start, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr("gateway.door.KEEPALIVE", 0.5)
    gateway = await start()
    async with gateway.stream("/api/projects/p-1/stream") as listener:
        for _ in range(2):  # and the next, after there was nobody
            came = time.monotonic()
            early, early_writer = await asyncio.open_connection("127.0.0.1", port(gateway))
            await asyncio.sleep(0.2)
            reader, writer = await asyncio.open_connection("127.0.0.1", port(gateway))
            writer.write(said)
            async with asyncio.timeout(5):
                assert await early.read() == b""
                assert time.monotonic() - came > 0.4
                assert await reader.read() == b""
                assert 0.6 < time.monotonic() - came < 2
            writer.close()
            early_writer.close()
        await listener.read()


async def test_a_bug_met_by_a_stream_is_told_and_leaves_nothing_open(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a secret of the code")

    request = b"GET /api/projects/p/stream HTTP/1.1\r\nHost: x\r\n\r\n"
    with monkeypatch.context() as patch:
        patch.setattr("gateway.api.head", broken)
        head, problem = told(await exchange(gateway, request))
        assert head.startswith("HTTP/1.1 500 ")
        assert "secret" not in str(problem)
    with monkeypatch.context() as patch:
        patch.setattr("gateway.connection.Connection._vouch", broken)
        assert await exchange(gateway, request) == b""
    assert len([each for each in caplog.records if each.exc_info]) == 2
    assert await gateway.metric("connections", scope="project") == 0
    assert await gateway.metric("connections_closed_total", reason="error") == 1
    assert (await exchange(gateway, request, half_close=True)).startswith(b"HTTP/1.1 200 ")
