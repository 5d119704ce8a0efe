"""One client's socket: written directly by those who share bytes, else through the transport, which keeps what doesn't
fit and tells when that is gone. Never holds bytes itself, never decides what is written or when.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Sequence

from gateway.frame import LAST_CHUNK, unchunk


def bare_socket(transport: asyncio.BaseTransport) -> socket.SocketType:
    """The transport's own descriptor as a non-blocking socket. The caller has to `detach` it in `connection_lost`.

    Not a duplicate, which would double the descriptors that the process needs. It can't be another client's by the time
    of a `send`: asyncio (`_SelectorTransport._call_connection_lost`) and uvloop (`UVBaseTransport`, the same) close it
    after `connection_lost` has returned.
    """
    known = transport.get_extra_info("socket")
    bare = socket.SocketType(fileno=known.fileno())
    bare.setblocking(False)
    return bare


def close_reason(error: Exception | None) -> str:
    """What a socket's error says of its client: a time-out is that of Server._listen, it acknowledged nothing."""
    return "slow" if isinstance(error, TimeoutError) else "client"


class Wire:
    """What a connection writes to. `chunked` is false for HTTP/1.0. `opening` leaves with what is written first.

    `send` is the socket's own, to be called only while nothing waits in the transport; it takes the frames of a
    `chunked` stream as they are. `sent_at` is the time of the last `write` (seconds, time.monotonic).
    """

    __slots__ = ("_chunked", "_opening", "_socket", "_stuck", "_transport", "send", "sent_at")

    def __init__(self, transport: asyncio.Transport, chunked: bool, opening: bytes = b"") -> None:
        self._transport = transport
        self._opening = opening
        self._chunked = chunked
        self._socket = bare_socket(transport)
        self._stuck: tuple[int, float] | None = None  # bytes that wait, and since when it is not fewer
        self.send: Callable[[bytes], int] = self._socket.send
        self.sent_at = time.monotonic()

    def open(self) -> None:
        """From now on the protocol is told as soon as anything waits (`pause_writing`), at once if something does."""
        self._transport.set_write_buffer_limits(high=0)

    def flush(self) -> None:
        """Sends the opening, if nothing was written yet."""
        if self._opening:
            self.write(b"")

    def write(self, frame: bytes) -> None:
        """Sends what the socket takes; the transport keeps the rest, and calls the protocol's `pause_writing`."""
        self.sent_at = time.monotonic()
        data, self._opening = self._opening + (frame if self._chunked else unchunk(frame)), b""
        if self._stuck is not None:
            self._stuck = self._stuck[0] + len(data), self._stuck[1]
        self._transport.write(data)

    def put(self, frames: Sequence[bytes], joined: bytes = b"", tail: bytes = b"") -> int:
        """Hands over as many frames as the socket takes, while nothing waits; how many that were, the `tail` among
        them, which is one more. `joined` is all of them in one piece, where somebody has that.

        Of one that was cut, the rest waits in the transport, but no frame after it: a client that doesn't read costs
        one. Raises OSError where the connection is broken.
        """
        self.sent_at = time.monotonic()
        opening, self._opening = self._opening, b""
        if not self._chunked:
            frames, joined, tail = [unchunk(each) for each in frames], b"", unchunk(tail)
        data = b"".join((opening, joined or b"".join(frames), tail))
        try:
            taken = self.send(data)
        except BlockingIOError:
            taken = 0
        if taken == len(data):
            return len(frames) + bool(tail)
        return self.rest([opening + frames[0], *frames[1:], *filter(None, [tail])], taken)

    def rest(self, frames: Sequence[bytes], taken: int) -> int:
        """As `put`, where `send` has taken so many bytes of the frames already."""
        for number, each in enumerate(frames, 1):
            if taken < len(each):
                self._transport.write(each[taken:])
                return number
            taken -= len(each)
        return len(frames)

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
            self._transport.write(LAST_CHUNK)
        self._transport.close()

    def abort(self) -> None:
        """Ends the connection at once."""
        self._transport.abort()

    def detach(self) -> None:
        """Lets the descriptor go: it is the transport's to close."""
        self._socket.detach()
