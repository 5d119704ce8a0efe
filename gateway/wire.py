"""One client's socket: written directly by those who share bytes, else through the transport, which keeps what doesn't
fit and tells when that is gone. Never holds bytes itself, never decides what is written or when.
"""

import asyncio
import socket
import time
from collections.abc import Callable

from gateway import frame


def bare_socket(transport: asyncio.BaseTransport) -> socket.socket:
    """The transport's own descriptor as a non-blocking socket. The caller has to `detach` it in `connection_lost`.

    Not a duplicate, which would double the descriptors that the process needs. It can't be another client's by the time
    of a `send`: asyncio (`_SelectorTransport._call_connection_lost`) and uvloop (`UVBaseTransport`, the same) close it
    after `connection_lost` has returned.
    """
    known = transport.get_extra_info("socket")
    bare = socket.socket(known.family, known.type, known.proto, fileno=known.fileno())
    bare.setblocking(False)
    return bare


def close_reason(error: Exception | None) -> str:
    """What a socket's error says of its client: a time-out is that of Server._listen, it acknowledged nothing."""
    return "slow" if isinstance(error, TimeoutError) else "client"


class Wire:
    """What a connection writes to. `chunked` is false for HTTP/1.0.

    `send` is the socket's own, to be called only while nothing waits in the transport; it takes the frames of a
    `chunked` stream as they are. `sent_at` is the time of the last `write` (seconds, time.monotonic).
    """

    __slots__ = ("_chunked", "_socket", "_stuck", "_transport", "send", "sent_at")

    def __init__(self, transport: asyncio.Transport, chunked: bool) -> None:
        self._transport = transport
        self._chunked = chunked
        self._socket = bare_socket(transport)
        self._stuck: tuple[int, float] | None = None  # bytes that wait, and since when it is not fewer
        self.send: Callable[[bytes], int] = self._socket.send
        self.sent_at = 0.0

    def open(self) -> None:
        """From now on the protocol is told as soon as anything waits (`pause_writing`), at once if something does."""
        self._transport.set_write_buffer_limits(high=0)

    def write(self, frames: bytes) -> None:
        """Sends what the socket takes; the transport keeps the rest, and calls the protocol's `pause_writing`."""
        self.sent_at = time.monotonic()
        self._transport.write(frames if self._chunked else frame.unchunk(frames))

    def waiting_since(self, now: float) -> float | None:
        """Since when the client has taken nothing of what waits for it, as far as was asked; None if nothing waits."""
        waiting = self._transport.get_write_buffer_size()
        if not waiting:
            self._stuck = None
        elif self._stuck is None or waiting < self._stuck[0]:
            self._stuck = waiting, now
        return self._stuck and self._stuck[1]

    def end(self) -> None:
        """Ends the response after what was written, and the connection."""
        if self._chunked:
            self._transport.write(frame.LAST_CHUNK)
        self._transport.close()

    def abort(self) -> None:
        """Ends the connection at once."""
        self._transport.abort()

    def detach(self) -> None:
        """Lets the descriptor go: it is the transport's to close."""
        self._socket.detach()
