"""From a request to a bare transport: the head of the response that is a stream, and the taking over.

aiohttp parses the request; then its part is over (as with Go's http.Hijacker), so that nothing of a request's machinery
stays in memory while the stream is open. The head leaves in one piece with the first of the body (wire.py).
"""

import asyncio
import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from typing import Final

from aiohttp import web
from aiohttp_sse import EventSourceResponse
from multidict import CIMultiDict

HEADERS: Final = CIMultiDict(EventSourceResponse().headers)
"""aiohttp-sse's headers of a stream, as the contract has them."""
HEADERS["Content-Type"] = "text/event-stream; charset=utf-8"
HEADERS["Cache-Control"] = "no-store, no-transform"
HEADERS["Connection"] = "close"
_LINES: Final = "".join([f"{name}: {value}\r\n" for name, value in HEADERS.items()])


def head(request: web.Request, more: Mapping[str, str]) -> bytes:
    """The head of the response that is a stream (RFC 9112), with `more` headers."""
    major, minor = request.version
    chunked = "Transfer-Encoding: chunked\r\n" if (major, minor) >= (1, 1) else ""
    lines = "".join([f"{name}: {value}\r\n" for name, value in more.items()])
    date = _date(int(time.time()))
    return f"HTTP/{major}.{minor} 200 OK\r\n{_LINES}{chunked}Date: {date}\r\n{lines}\r\n".encode()


@lru_cache(maxsize=1)
def _date(now: int) -> str:
    return formatdate(now, usegmt=True)


def is_half_closed(request: web.Request) -> bool:
    """Whether the client has closed its side: it sends nothing more, and may be gone."""
    return getattr(request.protocol, "half_closed", False)


def take_over(request: web.Request, protocol: asyncio.Protocol) -> bool:
    """Moves the client's transport from who read its request to `protocol`; False if the client is gone."""
    reader = request.protocol
    transport = reader.transport
    if transport is None or transport.is_closing():
        return False
    reader.transport = None
    transport.set_protocol(protocol)
    reader.connection_lost(None)  # for them the connection ends here
    protocol.connection_made(transport)
    return True
