"""One reader: loads the stream, follows it, backs off, and notices a reset.

It only reads. Owns one dedicated connection, discarded after any error: what a half-read reply leaves behind is never
trusted. Never knows who listens.
"""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from typing import Any, Final

from gateway import frame, schema
from gateway.event import ZERO, EntryId, Event, Rejected, decode, format_id
from gateway.hub import Hub
from gateway.logs import Limited
from gateway.metrics import Metrics, type_label
from gateway.shaping import Shaper
from gateway.source import UNAVAILABLE, Command, Link, Refused, Source, exchange

COUNT: Final = 512
"""Entries asked for at once."""
BLOCK_MS: Final = 1000
"""How long XREAD waits; also how soon a reset of an idle stream is noticed."""
BATCH_BYTES: Final = 256 * 1024
"""Bytes of frames published at once: no subscriber is ever given more in one piece."""
BACKOFF: Final = (0.1, 3.0)
"""Seconds waited after the first failure, and at the most; doubled each time, spread by half."""

Entry = tuple[bytes, Sequence[bytes]]
_log = logging.getLogger(__name__)


def entry_id(raw: bytes) -> EntryId:
    ms, _, seq = raw.partition(b"-")
    return EntryId(int(ms) << 64 | int(seq))


async def _info(connection: Link, stream: str, *before: Command) -> tuple[list[Any], dict[bytes, Any] | None]:
    """The replies to `before` and to XINFO STREAM, asked in one write; [] and None where the key doesn't exist."""
    try:
        *replies, raw = await exchange(connection, *before, ("XINFO", "STREAM", stream))
    except Refused as error:
        if "no such key" in str(error):
            return [[] for _ in before], None
        raise
    return replies, dict(zip(raw[::2], raw[1::2], strict=True))


class Reader:
    """Follows the stream into the hub, for ever. `ready` once everything that Redis held at the start is loaded."""

    def __init__(self, source: Source, stream: str, hub: Hub, shaper: Shaper | None, metrics: Metrics) -> None:
        self.ready = asyncio.Event()
        self._source = source
        self._stream = stream
        self._hub = hub
        self._shaper = shaper
        self._metrics = metrics
        self._limited = Limited(_log)
        self._stale = True  # nothing is loaded yet, or what is loaded is of a stream that is no more
        self._cursor = ZERO  # the last entry read
        self._added: int | None = None  # Redis's own count of entries ever added, as of the cursor (Redis 7)
        self._at_end = time.monotonic()
        metrics.stream_lag = self._lag

    async def run(self) -> None:
        """Reads until cancelled. Any failure of Redis is logged, counted and waited out."""
        delay, first = BACKOFF[0], True
        while True:
            try:
                connection = await self._source.connect()
                try:
                    self._metrics.reconnects += not first
                    first = False
                    while True:
                        await (self._load if self._stale else self._follow)(connection)
                        delay = BACKOFF[0]
                finally:
                    self._metrics.redis_up = False
                    await connection.disconnect(nowait=True)
            except UNAVAILABLE as error:
                message = f"Redis can't be read, trying again: {type(error).__name__}: {error}"
                self._limited.warning("redis", message, stream=self._stream)
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))
            delay = min(delay * 2, BACKOFF[1])

    def _lag(self) -> float:
        silence = time.monotonic() - self._at_end
        return silence if silence > BLOCK_MS / 1000 + 0.5 else 0.0

    async def _load(self, connection: Link) -> None:
        """Reads the whole stream from its start."""
        self._cursor, self._added = ZERO, None
        [oldest] = await exchange(connection, ("XRANGE", self._stream, "-", "+", "COUNT", 1))
        if self._shaper is not None:
            self._shaper.reset()
        self._hub.history.begin(entry_id(oldest[0][0]) if oldest else ZERO)
        start = "-"
        while True:
            read = ("XRANGE", self._stream, start, "+", "COUNT", COUNT)
            [entries], info = await _info(connection, self._stream, read)
            self._take(entries, self._hub.load)
            if len(entries) < COUNT:
                break
            start = f"({format_id(self._cursor)}"
        if info is None:
            self._added = 0
        elif not info[b"length"] or entry_id(info[b"last-generated-id"]) == self._cursor:
            self._added = info.get(b"entries-added")
        self._metrics.redis_up = True
        self._at_end = time.monotonic()
        _log.info("history loaded", extra={"stream": self._stream, "events": len(self._hub.history)})
        self._stale = False
        if self.ready.is_set():
            self._hub.restart()
        self.ready.set()

    async def _follow(self, connection: Link) -> None:
        """One blocking read, and a look whether the entry before it is still there: that is how a reset shows."""
        cursor = format_id(self._cursor)
        reply, witness = await exchange(
            connection,
            ("XREAD", "COUNT", COUNT, "BLOCK", BLOCK_MS, "STREAMS", self._stream, cursor),
            ("XRANGE", self._stream, cursor, cursor),
        )
        self._metrics.redis_up = True
        if self._cursor and not witness and await self._was_reset(connection):
            self._stale = True
            message = "the stream was emptied or went backwards: reading it anew, and telling every listener"
            _log.warning(message, extra={"stream": self._stream, "last": cursor})
            return
        entries = reply[0][1] if reply else []
        self._take(entries, self._hub.publish)
        if len(entries) < COUNT:
            self._at_end = time.monotonic()

    async def _was_reset(self, connection: Link) -> bool:
        """Whether the missing of the cursor's entry means more than that trimming has passed it."""
        _, info = await _info(connection, self._stream)
        if info is None:
            return True
        last, length = entry_id(info[b"last-generated-id"]), info[b"length"]
        if last == self._cursor:
            return False  # trimmed or deleted, and nothing came after it
        if last < self._cursor or (length and entry_id(info[b"first-entry"][0]) < self._cursor):
            return True
        # All that is held is newer. Was everything that was ever added after the cursor kept? Redis 7 counts.
        added = info.get(b"entries-added")
        return added is None or self._added is None or added - self._added != length

    def _take(self, entries: Sequence[Entry], into: Any) -> None:
        """Decodes, shapes and frames a reply's entries, and hands them on in batches of bounded size."""
        batch: list[Event] = []
        first, size = ZERO, 0
        for raw_id, fields in entries:
            self._cursor = id = entry_id(raw_id)
            first = first or id
            event = self._accept(id, fields)
            if event is not None:
                batch.append(event)
                size += len(event.frame)
                if size > BATCH_BYTES:
                    into(batch, first, id)
                    batch, first, size = [], ZERO, 0
        if first:
            into(batch, first, self._cursor)
        if self._added is not None:
            self._added += len(entries)

    def _accept(self, id: EntryId, fields: Sequence[bytes]) -> Event | None:
        metrics = self._metrics
        try:
            event = decode(id, fields)
            wrong = schema.violation(event.type, event.data)
            if wrong is not None:
                metrics.nonconforming[type_label(event.type)] += 1
                self._limited.warning(
                    "nonconforming", "nonconforming event", entry=format_id(id), type=event.type, detail=wrong
                )
            metrics.consumed[type_label(event.type)] += 1
            if self._shaper is not None and not self._shaper.shape(event):
                metrics.throttled += 1
                return None
            return frame.seal(event)
        except Rejected as rejected:
            metrics.rejected[rejected.reason] += 1
            self._limited.warning(
                rejected.reason, "entry rejected", entry=format_id(id), reason=rejected.reason, detail=str(rejected)
            )
            return None
