"""Pages of the stream straight from Redis, for cursors that fell off the log's tail.

Owns one connection, used by one page at a time, opened at need. Never counts or logs what the reader has seen before.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from gateway import frame
from gateway.event import ZERO, EntryId, Event, Rejected, decode, format_id
from gateway.logs import Limited
from gateway.reader import BACKOFF, COUNT, entry_id
from gateway.shaping import Shaper
from gateway.source import UNAVAILABLE, Link, Source, exchange

_log = logging.getLogger(__name__)


class Page(NamedTuple):
    """Some events after a cursor, straight from Redis: `last` is the id of the last entry looked at, None at the end;
    `oldest` the id of the oldest entry that Redis holds, None where it holds none.
    """

    oldest: EntryId | None
    events: list[Event]
    last: EntryId | None


class Pager:
    """Reads pages of the stream for cursors that memory no longer covers, one at a time. Waits out Redis's absence."""

    def __init__(self, source: Source, stream: str, shaper: Shaper | None) -> None:
        self._source = source
        self._stream = stream
        self._shaper = shaper
        self._connection: Link | None = None
        self._turn = asyncio.Lock()
        self._limited = Limited(_log)

    async def page(self, cursor: EntryId) -> Page:
        """The next events after `cursor`, shaped as they were when they were first read."""
        oldest, entries = await self._ask(
            ("XRANGE", self._stream, "-", "+", "COUNT", 1),
            ("XRANGE", self._stream, f"({format_id(cursor)}" if cursor else "-", "+", "COUNT", COUNT),
        )
        events = [event for raw_id, fields in entries if (event := self._event(entry_id(raw_id), fields)) is not None]
        return Page(entry_id(oldest[0][0]) if oldest else None, events, entry_id(entries[-1][0]) if entries else None)

    async def end(self) -> EntryId:
        """The id of the newest entry of the stream, ZERO when it has none."""
        [newest] = await self._ask(("XREVRANGE", self._stream, "+", "-", "COUNT", 1))
        return entry_id(newest[0][0]) if newest else ZERO

    async def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)
            self._connection = None

    def _event(self, id: EntryId, fields: Sequence[bytes]) -> Event | None:
        try:
            event = decode(id, fields)
            return frame.seal(event) if self._shaper is None or self._shaper.recall(event) else None
        except Rejected:  # counted and logged when it was first read
            return None

    async def _ask(self, *commands: tuple[str | int, ...]) -> list[Any]:
        delay = BACKOFF[0]
        while True:
            async with self._turn:
                try:
                    if self._connection is None:
                        self._connection = await self._source.connect()
                    return await exchange(self._connection, *commands)
                except UNAVAILABLE as error:
                    await self.close()
                    self._limited.warning(
                        "pages", f"a page of the stream can't be read, trying again: {error}", stream=self._stream
                    )
                except BaseException:  # cancelled half-way through a reply
                    await self.close()
                    raise
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))
            delay = min(delay * 2, BACKOFF[1])
