"""From aiohttp's request to a bare transport: the response headers of a stream, and the taking over.

aiohttp parses the request and writes the headers; then its part is over (as with Go's http.Hijacker), so that nothing
of a request's machinery stays in memory while the stream is open. Of the body it writes the first block alone.
"""

import asyncio

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp_sse import EventSourceResponse


class EventStream(EventSourceResponse):
    """aiohttp-sse's handshake with the contract's headers and without its ping task; the body is the connection's."""

    _send_headers_immediately = False  # they leave in one piece with the first block

    def __init__(self) -> None:
        super().__init__(allow_all_methods=True, send_timeout=None)  # the listening socket has it: Server._listen
        self.headers["Content-Type"] = "text/event-stream; charset=utf-8"
        self.headers["Cache-Control"] = "no-store, no-transform"
        self.headers["Connection"] = "close"

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Without aiohttp-sse's ping task: the hub heartbeats instead."""
        return await web.StreamResponse.prepare(self, request)

    async def write_eof(self, data: bytes = b"") -> None:
        """The connection ends the body."""


def is_half_closed(request: web.Request) -> bool:
    """Whether the client has closed its side: it sends nothing more, and may be gone."""
    return getattr(request.protocol, "half_closed", False)


async def take_over(request: web.Request, response: EventStream, first: bytes, protocol: asyncio.Protocol) -> bool:
    """Writes the headers and the first block, and moves the client's transport from aiohttp to `protocol`; False if the
    client is gone.
    """
    handler = request.protocol
    transport = handler.transport
    if transport is None or transport.is_closing():
        return False
    await response.prepare(request)
    await response.write(first)
    if handler.transport is None or is_half_closed(request):
        return False
    handler.transport = None
    transport.set_protocol(protocol)
    handler.connection_lost(None)  # for aiohttp the connection ends here
    protocol.connection_made(transport)
    return True
