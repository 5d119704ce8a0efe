"""Below the transport: whose descriptor it is, what is left unsent, and what is over."""

import asyncio
import os
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import uvloop

from gateway import frame
from gateway.archive import Archive
from gateway.connection import Connection
from gateway.event import EntryId, decode
from gateway.history import History
from gateway.hub import Hub
from gateway.metrics import Metrics
from gateway.scope import Scope, Wish
from gateway.terms import State, Terms
from gateway.wire import Wire, close_reason

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
HOLDS = 8 << 20
"""More bytes than the two sockets of a connection hold."""


class Held(asyncio.Protocol):
    """One end; what it knows of its descriptor before and in `connection_lost`."""

    def __init__(self) -> None:
        self.made: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.wire = Wire(cast("asyncio.Transport", transport), chunked=True)
        self.wire.open()
        self.file = transport.get_extra_info("socket").fileno()
        self.inode = os.fstat(self.file).st_ino
        self.made.set_result(None)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.inode_at_last = os.fstat(self.file).st_ino
        self.wire.detach()
        self.lost.set_result(exc)


@asynccontextmanager
async def _served(end: asyncio.Protocol) -> AsyncIterator[socket.socket]:
    """The socket of a client whose server's end is `end`."""
    async with await asyncio.get_running_loop().create_server(lambda: end, "127.0.0.1", 0) as server:
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            client.setblocking(False)
            yield client


def _reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def _reset_and_send(held: Held, client: socket.socket) -> None:
    _reset(client)
    with pytest.raises(ConnectionResetError):
        held.wire.send(b"x")
    held.wire.abort()


def _reset_while_bytes_wait(held: Held, client: socket.socket) -> None:
    held.wire.write(b"x" * HOLDS)
    _reset(client)


ENDS: dict[str, Callable[[Held, socket.socket], None]] = {
    "the client closes": lambda held, client: client.close(),
    "the client resets": lambda held, client: _reset(client),
    "the client resets, and is sent to": _reset_and_send,
    "the client resets while bytes wait": _reset_while_bytes_wait,
    "the response ends": lambda held, client: held.wire.end(),
    "it is aborted": lambda held, client: held.wire.abort(),
}


@pytest.mark.parametrize("end", ENDS)
async def test_the_descriptor_is_the_connections_until_it_is_lost(end: str) -> None:
    """What `bare_socket` stands on: else one client's bytes could go to the next, which has its number by then."""
    held = Held()
    async with asyncio.timeout(10):
        async with _served(held) as client:
            await held.made
            ENDS[end](held, client)
            await held.lost
            assert held.inode_at_last == held.inode
            with pytest.raises(OSError, match="Bad file descriptor"):
                held.wire.send(b"x")
        while True:  # the transport closes it, and nobody had before
            try:
                os.fstat(held.file)
            except OSError:
                return
            await asyncio.sleep(0)


async def test_what_the_socket_does_not_take_waits_and_comes_in_order() -> None:
    held = Held()
    async with asyncio.timeout(10), _served(held) as client:
        await held.made
        wire, given = held.wire, 0
        while wire.waiting_since(1.0) is None:
            frames = b"%07d\n" % given * 1000
            given += 1
            try:
                taken = wire.send(frames)
            except BlockingIOError:
                taken = 0
            assert not held.paused
            if taken < len(frames):
                wire.write(frames[taken:])
        assert held.paused, "told as soon as anything waits"
        assert wire.waiting_since(2.0) == 1.0, "nothing was taken since"
        got = b""
        while len(got) < given * 8000:
            got += await asyncio.get_running_loop().sock_recv(client, 1 << 20)
        assert got == b"".join(b"%07d\n" % number * 1000 for number in range(given))
        assert not held.paused
        assert wire.waiting_since(3.0) is None
        wire.abort()
        await held.lost


@pytest.mark.parametrize("waiting", [1, 100_000])  # below and above where aiohttp would have been told
async def test_a_stream_waits_for_what_an_earlier_response_left_in_the_transport(waiting: int) -> None:
    loop, errors = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    hub = Hub(History(10, 1 << 20, 1e9), Metrics())
    closed: list[str] = []
    left = 0

    class Earlier(asyncio.Protocol):
        def connection_made(self, base: asyncio.BaseTransport) -> None:
            nonlocal left
            transport = cast("asyncio.Transport", base)
            while transport.get_write_buffer_size() < waiting:
                transport.write(b"x" * 50_000)
                left += 50_000
            connection = Connection(
                Terms(hub, Archive(None, "", hub), 60, 60),  # type: ignore[arg-type]  # Redis is not needed
                Scope("project", projects=frozenset({"p-1"})), None, Wish(), frame.first(0, 60, 1000), closed.append,
            )  # fmt: skip
            transport.set_protocol(connection)
            connection.connection_made(transport)

    async with asyncio.timeout(10):
        async with _served(Earlier()) as client:
            while not hub.subscribers:
                await asyncio.sleep(0)
            data = b'{"operationId":"op-1","projectId":"p-1"}'
            event = decode(EntryId(1 << 64), [b"type", b"github_sync_started", b"data", data])
            hub.history.take(event, 0.0)
            hub.publish([event], event.id)
            got = b""
            while not got.endswith(event.frame):
                got += await loop.sock_recv(client, 1 << 20)
            begin = b"x" * left + rb"\w+\r\nretry: 1000\nevent: heartbeat\ndata: .*\n\n\r\n"
            place = rb"\w+\r\nid: 0-0\nevent: heartbeat\ndata: .*\n\n\r\n"
            assert re.fullmatch(begin + place + re.escape(event.frame), got)
            client.close()
            while not closed:
                await asyncio.sleep(0)
    assert not errors


class Narrow(asyncio.Transport):
    """A socket whose first send takes `first` bytes only; of the rest the transport gets rid at once, or, where it
    `waits`, once the connection was told so.
    """

    def __init__(self, first: int, waits: bool) -> None:
        super().__init__()
        self.first, self.waits, self.got, self.waiting = first, waits, b"", b""
        self.connection: Connection | None = None

    def send(self, data: bytes) -> int:
        assert not self.waiting, "overtakes what waits"
        taken, self.first = min(self.first, len(data)), 1 << 30
        self.got += data[:taken]
        if not taken:
            raise BlockingIOError
        return taken

    def write(self, data: Any) -> None:
        if not self.waits and not self.waiting:
            self.got += data
            return
        self.waiting += data
        assert self.connection is not None
        self.connection.pause_writing()

    def resume(self) -> None:
        self.waits, self.got, self.waiting = False, self.got + self.waiting, b""
        if self.connection is not None and self.connection._state is State.STUCK:
            self.connection.resume_writing()

    def detach(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


@pytest.mark.parametrize("waits", [False, True], ids=["it has room again", "it waits"])
@pytest.mark.parametrize("chunked", [True, False])
async def test_a_first_send_that_is_cut_anywhere_loses_and_doubles_nothing(
    monkeypatch: pytest.MonkeyPatch, chunked: bool, waits: bool
) -> None:
    monkeypatch.setattr("gateway.wire.bare_socket", lambda transport: transport)
    hub = Hub(History(10, 1 << 20, 1e9), Metrics())
    data = b'{"operationId":"op-1","projectId":"p-1"}'
    for ms in range(1, 6):
        event = decode(EntryId(ms << 64), [b"type", b"github_sync_started", b"data", data])
        hub.history.take(event, 0.0)
        hub.publish([event], event.id)
    terms = Terms(hub, Archive(None, "", hub), 60, 60)  # type: ignore[arg-type]  # Redis is not needed
    scope, first = Scope("project", projects=frozenset({"p-1"})), frame.first(0, 60, 1000)
    opening = b"HTTP/1.1 200 OK\r\n\r\n" + (first if chunked else frame.unchunk(first))

    async def got(cut: int) -> bytes:
        transport = Narrow(cut, waits)
        wish = Wish("1-0", chunked=chunked)
        connection = transport.connection = Connection(terms, scope, None, wish, opening, lambda reason: None)
        connection.connection_made(transport)
        for _ in range(8):
            await asyncio.sleep(0)
            transport.resume()
        assert connection._state is State.LIVE
        connection.connection_lost(None)
        return re.sub(rb'"time":"[^"]*"', b'"time":""', transport.got)

    whole = await got(1 << 30)
    assert [int(ms) for ms in re.findall(rb"id: (\d+)-0", whole)] == [2, 3, 4, 5, 5]
    assert whole.endswith(b"\n\n\r\n" if chunked else b"\n\n")
    for cut in range(len(whole) + 40):
        assert await got(cut) == whole, cut


def test_the_reason_of_an_end() -> None:
    assert close_reason(None) == close_reason(ConnectionResetError()) == close_reason(BrokenPipeError()) == "client"
    assert close_reason(TimeoutError()) == "slow"
