"""HTTP connections until one becomes a stream: who is shown out when room is short, what is told without a route.

aiohttp's own protocol does the work. Never decides what a request gets.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.answers import Answers, Handler
from gateway.logs import Limited

KEEPALIVE: Final = 75.0
"""Seconds that a connection may wait between requests, or for its first."""

_log = logging.getLogger(__name__)


class Door:
    """Makes the protocol of each connection. `room` tells how many may be here now, beside those that are streams.

    Where there are more, one that waits goes for a newcomer: first those that never sent a request, the oldest first.
    """

    def __init__(self, server: web.Server, answers: Answers, room: Callable[[], int]) -> None:
        self._server = server
        self.answers = answers
        self._room = room
        self._silent: dict[Visitor, None] = {}
        self._waiting: dict[Visitor, None] = {}
        self._here = 0
        self._limited = Limited(_log)
        handle: Handler = server.request_handler
        server.request_handler = self._serving(handle)

    def __call__(self) -> "Visitor":
        return Visitor(self, self._server)

    def entered(self, visitor: "Visitor") -> None:
        self._here += 1
        self._silent[visitor] = None
        if self._here > max(self._room(), 1):
            leaving = next(iter(self._silent if len(self._silent) > 1 else self._waiting or self._silent))
            self._limited.warning("room", "connections that wait are closed for new ones", connections=self._here)
            leaving.show_out()

    def left(self, visitor: "Visitor") -> None:
        self._here -= 1
        self._silent.pop(visitor, None)
        self._waiting.pop(visitor, None)

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


class Visitor(RequestHandler):
    """aiohttp's protocol of one connection. `half_closed` says that its client sends nothing more."""

    __slots__ = ("_door", "half_closed")

    def __init__(self, door: Door, server: web.Server) -> None:
        loop = asyncio.get_running_loop()
        no_log: Any = None
        super().__init__(server, loop=loop, access_log=no_log, keepalive_timeout=KEEPALIVE)
        self._door = door
        self.half_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._door.entered(self)

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
