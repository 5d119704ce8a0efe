"""One connection to one Redis node, and one exchange over it: commands in one write, every reply read.

redis-py connects (TLS, password, database); the exchanges are read by hiredis out of a protocol of our own, since each
event's way goes through here. Never knows the stream, never opens by itself.
"""

import asyncio
from typing import Any, Final

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, DefaultParser
from redis.exceptions import ConnectionError, InvalidResponse, RedisError, ResponseError

TIMEOUT: Final = 4.0
"""Seconds without a byte after which a link counts as dead; above the reader's BLOCK_MS."""

UNAVAILABLE: Final = (RedisError, OSError)
"""What a Redis that can't be read raises."""

Refused = ResponseError
"""What Redis itself answers where it refuses a command."""
Command = tuple[str | int, ...]
_OPTIONS: Final[dict[str, Any]] = {
    "protocol": 2,
    "socket_timeout": None,  # `open` has its own: redis-py's may lose a cancellation
    "socket_connect_timeout": TIMEOUT,
    "driver_info": None,  # no CLIENT SETINFO: an ACL user that may only read the key can't run it
}


class TooLarge(RedisError):
    """A reply is larger than was agreed; it was not read to its end."""


class Moved(RedisError):
    """The node that a link leads to is no longer the one to read."""


class Link(asyncio.Protocol):
    """`asking`: the node is taking the stream's slot over, and answers only who asks. `size` is how many bytes the last
    replies had.

    After an error it must be closed: what a half-read reply leaves behind is never trusted.
    """

    def __init__(self, options: dict[str, Any], *, asking: bool = False) -> None:
        kind: type[AbstractConnection] = options.pop("connection_class", Connection)
        self._connection = kind(**(options | _OPTIONS))
        self.asking = asking
        self.address = (options.get("host", "localhost"), options.get("port", 6379))
        self._retired = False
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[list[Any]] | None = None  # while an exchange is under way
        self._replies: list[Any] = []
        self._wanted = self.size = 0
        self._heard_at = self._seconds = 0.0
        self._watchdog: asyncio.TimerHandle | None = None  # one for many exchanges: a timer costs more than a look
        self._limit: int | None = None

    async def open(self, seconds: float = TIMEOUT) -> "Link":
        """Connects; itself. Raises UNAVAILABLE."""
        if self._retired:
            raise Moved("the node is no longer the master")
        try:
            async with asyncio.timeout(seconds):
                await self._connection.connect()  # type: ignore[no-untyped-call]
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError  # lost on the way here: asyncio.wait_for does that before Python 3.12
        except RuntimeError as error:  # uvloop's, of a connection that Redis closed between two of redis-py's writes
            await self.close()
            raise ConnectionError(f"Redis closed the connection: {error}") from None
        except BaseException:
            await self.close()
            raise
        # Of the connection no more than its socket is wanted; its parser is a cycle that holds buffers.
        transport: Any = self._connection._writer.transport  # type: ignore[union-attr]  # noqa: SLF001
        vars(self._connection._parser).clear()  # noqa: SLF001
        self._parser = hiredis.Reader(protocolError=InvalidResponse, replyError=DefaultParser.parse_error)
        transport.set_protocol(self)
        self._transport = transport
        return self

    async def close(self) -> None:
        self._transport = None
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        self._fail(ConnectionError("the link was closed"))
        await self._connection.disconnect(nowait=True)

    async def retire(self) -> None:
        """Closes it for good: whoever uses it has to connect anew."""
        self._retired = True
        await self.close()

    async def reopen(self) -> None:
        """The same anew."""
        await self.close()
        await self.open()

    async def exchange(
        self, *commands: Command, limit: int | None = None, seconds: float = TIMEOUT, later: float = 0
    ) -> list[Any]:
        """Sends commands in one write, `later` seconds from now, and reads every reply. Raises the first error reply,
        TimeoutError after so many seconds without a byte, TooLarge as soon as there are more than `limit` bytes.
        """
        transport = self._transport
        if self._retired or transport is None or transport.is_closing():
            raise Moved("the link is closed")
        loop = asyncio.get_running_loop()
        asking = self.asking
        sent = [each for command in commands for each in (("ASKING",), command)] if asking else commands
        self._replies, self._wanted, self.size, self._limit = [], len(sent), 0, limit
        self._heard_at = loop.time()
        self._answer = loop.create_future()
        self._seconds = seconds
        if self._watchdog is None:
            self._watchdog = loop.call_later(seconds, self._look, loop)
        packed = b"".join(map(_packed, sent))
        # The timer writes by itself: a task that slept first would be woken twice.
        timer = loop.call_later(later, self._write, packed) if later else None
        try:
            if timer is None:
                self._write(packed)
            replies = await self._answer
        finally:
            if timer is not None:
                timer.cancel()
            self._answer, self._replies = None, []
        error = next((reply for reply in replies if isinstance(reply, RedisError)), None)
        if error is not None:
            try:
                raise error
            finally:
                del error, replies  # they would be a cycle with the error's own traceback
        return replies[1::2] if asking else replies

    def _write(self, packed: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():  # else who waits is told so
            self._transport.write(packed)

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            return  # late: whoever asked is gone, and closes
        self.size += len(data)
        self._heard_at = asyncio.get_running_loop().time()
        try:
            self._parser.feed(data)
            while len(self._replies) < self._wanted and (reply := self._parser.gets()) is not False:
                self._replies.append(reply)
        except RedisError as error:
            self._fail(error)
            return
        if len(self._replies) == self._wanted:
            self._answer.set_result(self._replies)
        elif self._limit is not None and self.size > self._limit:
            self._fail(TooLarge(f"more than {self._limit} bytes in a reply"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionError("Redis closed the connection"))

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Fails the exchange that is under way where no byte came for too long, and looks again when that may be so."""
        self._watchdog = None
        if self._answer is None:
            return
        left = self._heard_at + self._seconds - loop.time()
        if left > 0:
            self._watchdog = loop.call_later(left, self._look, loop)
        else:
            self._fail(TimeoutError(f"no reply within {self._seconds:g} s"))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


def _packed(command: Command) -> bytes:
    """RESP: an array of bulk strings."""
    words = [str(word).encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])
