"""HTTP connections until one becomes a stream: who is shown out when room is short, what is told without a route.

Most requests open a stream, and most of those need no more of aiohttp than its parser: they are read and answered in
one turn, without a task. All else is aiohttp's own protocol's. Never decides what a request gets.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, cast

from aiohttp import EMPTY_PAYLOAD, web
from aiohttp.http import HttpRequestParser
from aiohttp.web_protocol import RequestHandler

from gateway.answers import Answers, Handler
from gateway.logs import Limited

KEEPALIVE: Final = 75.0
"""Seconds that a connection may wait between requests, or for its first."""
READ: Final = 1 << 16
"""Bytes of a request's body that aiohttp holds before it reads on; of one that has none, no matter."""

_log = logging.getLogger(__name__)


class Door:
    """Makes the protocol of each connection. `room` tells how many may be here now, beside those that are streams;
    `opens` makes a stream of a connection whose request asks for one, or does nothing and says so.

    Where there are more, one that waits goes for a newcomer: first those that never sent a request, the oldest first.
    """

    def __init__(
        self, server: web.Server, answers: Answers, room: Callable[[], int], opens: Callable[[web.Request], bool]
    ) -> None:
        self.server = server
        self.answers = answers
        self.opens = opens
        self._room = room
        self._silent: dict[Caller | Visitor, float] = {}  # since when (seconds, the loop's clock), the longest first
        self._sweep: asyncio.TimerHandle | None = None  # while somebody is silent
        self._waiting: dict[Visitor, None] = {}
        self._here = 0
        self._limited = Limited(_log)
        handle: Handler = server.request_handler
        server.request_handler = self._serving(handle)

    def __call__(self) -> "Caller":
        return Caller(self)

    def entered(self, caller: "Caller") -> None:
        self._wait_for(caller)
        if self._here > self._room():
            leaving = next(iter(self._silent if len(self._silent) > 1 else self._waiting or self._silent))
            self._limited.warning("room", "connections that wait are closed for new ones", connections=self._here)
            leaving.show_out()

    def stays(self, visitor: "Visitor") -> None:
        """What was a caller is a visitor now, whose request isn't complete yet."""
        self._wait_for(visitor)

    def left(self, who: "Caller | Visitor") -> None:
        self._here -= 1
        self._silent.pop(who, None)
        if isinstance(who, Visitor):
            self._waiting.pop(who, None)

    def close(self) -> None:
        """Shows out who has asked for nothing yet; aiohttp sees to the others."""
        if self._sweep is not None:
            self._sweep.cancel()
        for each in list(self._silent):
            each.show_out()

    def _wait_for(self, who: "Caller | Visitor") -> None:
        self._here += 1
        loop = asyncio.get_running_loop()
        self._silent[who] = loop.time()
        if self._sweep is None:
            self._sweep = loop.call_later(KEEPALIVE, self._show_out_late)

    def _show_out_late(self) -> None:
        loop, self._sweep = asyncio.get_running_loop(), None
        for who, since in list(self._silent.items()):
            if since > loop.time() - KEEPALIVE:
                self._sweep = loop.call_at(since + KEEPALIVE, self._show_out_late)
                break
            who.show_out()

    def _serving(self, handle: Handler) -> Handler:
        async def serve(request: web.BaseRequest) -> web.StreamResponse:
            visitor = request.protocol
            assert isinstance(visitor, Visitor)
            self._silent.pop(visitor, None)
            self._waiting.pop(visitor, None)
            try:
                return await self.answers.outermost(request, handle)
            finally:
                visitor.served()
                if visitor.transport is not None:  # neither a stream by now nor gone
                    self._waiting[visitor] = None

        return serve


class Caller(asyncio.Protocol):
    """A connection that has sent nothing yet. What a request asks of its protocol, it has."""

    __slots__ = ("_door", "transport")

    ssl_context = peername = sockname = None  # who asks, asks the transport

    def __init__(self, door: Door) -> None:
        self._door = door

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport | None = cast("asyncio.Transport", transport)
        self._door.entered(self)

    def data_received(self, data: bytes) -> None:
        try:
            request = self._read(data)
            opened = request is not None and self._door.opens(request)
        except Exception:  # no HTTP, or a bug: a visitor meets it again, and is told so
            opened = False
        if not opened:
            self._stay(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._door.left(self)

    def show_out(self) -> None:
        """Frees the descriptor now."""
        if self.transport is not None:
            self.transport.abort()

    def _read(self, data: bytes) -> web.Request | None:
        """The request, where it is a whole GET and nothing else, that expects nothing. Raises what the parser does."""
        if not data.startswith(b"GET /") or data.find(b"\r\n\r\n") != len(data) - 4:  # one, and whole
            return None
        loop = asyncio.get_running_loop()
        protocol: Any = self
        none: Any = None  # no writer and no task: nothing is answered by them
        messages, upgraded, _ = HttpRequestParser(protocol, loop, READ).feed_data(data)
        if len(messages) != 1 or upgraded:
            return None
        message, payload = messages[0]
        if payload is not EMPTY_PAYLOAD or "Expect" in message.headers:
            return None
        return web.Request(message, payload, protocol, none, none, loop)

    def _stay(self, data: bytes) -> None:
        transport, self.transport = self.transport, None
        assert transport is not None
        self.connection_lost(None)
        visitor = Visitor(self._door)
        transport.set_protocol(visitor)
        visitor.connection_made(transport)
        visitor.data_received(data)


class Visitor(RequestHandler):
    """aiohttp's protocol of one connection. `half_closed` says that its client sends nothing more."""

    __slots__ = ("_door", "half_closed")

    def __init__(self, door: Door) -> None:
        loop = asyncio.get_running_loop()
        no_log: Any = None
        super().__init__(door.server, loop=loop, access_log=no_log, keepalive_timeout=KEEPALIVE)
        self._door = door
        self.half_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._door.stays(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._manager is not None:  # not twice
            self._door.left(self)
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio asks whether to keep the connection
        """One that half-closes behind its requests gets their answers, and is closed then."""
        if self._waiter is not None and not self._waiter.done():
            return False
        self.half_closed = True
        self.served()
        return True

    def served(self) -> None:
        """Closes behind the last answer where the client sends nothing more."""
        if self.half_closed and not self._messages:
            self.close()

    def show_out(self) -> None:
        """Frees the descriptor now."""
        if self.transport is not None:
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("a response has begun already")
        if status == 400:
            if exc is not None:
                exc.__traceback__ = None  # it holds the frame that holds this
            answer = self._door.answers.malformed()
        else:
            _log.error("a request failed", exc_info=exc)
            answer = self._door.answers.failed(request)
        answer.force_close()
        return answer
