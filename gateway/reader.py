"""One reader: loads the stream, follows it, backs off, and finds out what was lost.

It only reads, over one link, in pages (pages.py). Never knows who listens.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

from gateway import schema
from gateway.event import ZERO, EntryId, Event, Rejected, decode, format_id
from gateway.history import History
from gateway.hub import Hub
from gateway.link import UNAVAILABLE, Link, Moved
from gateway.logs import Limited
from gateway.metrics import Metrics, type_label
from gateway.pages import Entry, Fate, Info, Page, Pages, Place, entry_id
from gateway.shaping import STALE, THROTTLED
from gateway.source import Source

BLOCK_MS: Final = 1000
"""How long the doorbell waits; also how soon a reset of an idle stream is noticed."""
PACE: Final = 0.012
"""Seconds between two pages while events keep coming: then no doorbell is needed, and a page has many of them."""
BATCH_BYTES: Final = 256 * 1024
"""Bytes of frames published at once: no subscriber is ever given more in one piece."""
BACKOFF: Final = (0.1, 3.0)
"""Seconds waited after the first failure, and at the most; doubled each time, spread by half."""
WATCH: Final = 2.0
"""Seconds between two questions whether the node is still the master."""

_log = logging.getLogger(__name__)


class NotAStream(Exception):
    """The stream's key holds something else, which no waiting mends."""


class Reader:
    """Follows the stream into the hub, for ever. `ready` once everything that Redis held at the start is loaded."""

    def __init__(self, source: Source, stream: str, hub: Hub, metrics: Metrics) -> None:
        self.ready = asyncio.Event()
        self._source = source
        self._pages = Pages(stream)
        self._hub = hub
        self._metrics = metrics
        self._limited = Limited(_log)
        self._stale = True  # nothing is loaded yet, or what is loaded is of a stream that is no more
        self._place = Place()
        self._quiet = False  # the doorbell was waited for in vain
        self._pause = 0.0  # seconds before the next page is asked for
        self._at_end = time.monotonic()
        metrics.stream_lag = self._lag

    async def run(self) -> None:
        """Reads until cancelled. Any failure of Redis is logged, counted and waited out.

        Raises NotAStream where there is none to begin with.
        """
        delay, first = BACKOFF[0], True
        while True:
            try:
                link = await self._source.connect()
                watch = asyncio.create_task(self._watch(link))
                try:
                    self._metrics.reconnects += not first
                    first = False
                    while True:
                        await (self._load if self._stale else self._follow)(link)
                        self._is_up()
                        delay = BACKOFF[0]
                finally:
                    self._metrics.redis_up = False
                    watch.cancel()
                    await link.close()
            except UNAVAILABLE as error:
                if "WRONGTYPE" in str(error) and not self.ready.is_set():
                    raise NotAStream(f"the key {self._pages.stream} holds no stream: set SSE_STREAM") from None
                if self._source.sent_on(error):
                    continue
                message = f"Redis can't be read, trying again: {type(error).__name__}: {error}"
                self._limited.warning("redis", message, stream=self._pages.stream)
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))
            delay = min(delay * 2, BACKOFF[1])

    def _is_up(self) -> None:
        if not self._metrics.redis_up and self._metrics.reconnects:
            _log.info("Redis is read again", extra={"stream": self._pages.stream})
        self._metrics.redis_up = True

    def _lag(self) -> float:
        silence = time.monotonic() - self._at_end
        return silence if silence > BLOCK_MS / 1000 + 0.5 else 0.0

    async def _watch(self, link: Link) -> None:
        """Closes a link to a node that is no longer the master: it may answer for ever, and have nothing new."""
        while True:
            await asyncio.sleep(WATCH * random.uniform(0.8, 1.2))
            if await self._source.has_moved(link):
                _log.warning("the node is no longer the master, going to the one that is", extra={"node": link.address})
                await link.retire()
                return

    async def _be_sure(self, link: Link) -> None:
        """Before anybody is told of a loss: a master that is one no more is emptied when it follows the new one."""
        if await self._source.has_moved(link):
            raise Moved("the node is no longer the master")

    async def _load(self, link: Link) -> None:
        """Reads the whole stream from its start into a new history; the old one serves until that is whole."""
        history = self._hub.history.fresh()
        page = await self._pages.read(link, Place(), look=True)
        history.begin(_floor(page), whole=page.info is None or page.info.whole)
        while True:
            self._take(page.entries, history, lambda *_: history.trim(time.time()))
            place = page.place
            history.newest = place.id
            if (not page.entries and page.info is not None) or (page.info is None and not place.id):
                break
            page = await self._pages.read(link, place, look=not page.full)
            if page.fate is Fate.RESET:
                return
            if page.fate is Fate.TRIMMED:
                history.cut(_floor(page))
        self._place = place if page.info is not None else Place(added=0)
        history.deleted = page.info and page.info.deleted
        await self._be_sure(link)
        await self._hub.replace(history)
        self._at_end = time.monotonic()
        _log.info("history loaded", extra={"stream": self._pages.stream, "events": len(history)})
        self._stale = False
        self.ready.set()

    async def _follow(self, link: Link) -> None:
        """One page; then, unless the next is to follow by itself, the wait for what it has."""
        page = await self._pages.read(link, self._place, look=self._quiet, later=self._pause)
        self._pause = 0.0
        if page.fate is not Fate.WHOLE:
            await self._be_sure(link)
        if page.fate is Fate.RESET:
            self._stale = True
            message = "the stream was emptied, replaced or went backwards: reading it anew, and telling who lost by it"
            _log.warning(message, extra={"stream": self._pages.stream, "last": format_id(self._place.id)})
            return
        if page.fate is Fate.TRIMMED:
            message = "entries were trimmed before they could be read: telling every listener"
            _log.warning(message, extra={"stream": self._pages.stream, "last": format_id(self._place.id)})
            await self._hub.cut(_floor(page))
        if page.info is not None:
            self._hub.history.deleted = page.info.deleted
        self._take(page.entries, self._hub.history, self._hub.publish)
        self._place = page.place
        self._hub.history.newest = max(self._hub.history.newest, page.newest)
        if page.full:
            return
        before, self._at_end = self._at_end, time.monotonic()
        if page.entries and self._at_end - before < 2 * PACE:
            self._pause = PACE
        else:
            self._quiet = not await self._pages.doorbell(link, self._place, BLOCK_MS)

    def _take(
        self, entries: Sequence[Entry], history: History, publish: Callable[[Sequence[Event], EntryId], None]
    ) -> None:
        """Decodes, shapes and frames entries into the history, and hands them on in batches of bounded size."""
        batch: list[Event] = []
        size, id = 0, ZERO
        heard, wall = time.monotonic(), time.time()
        live = self._hub.history is history
        for raw_id, fields in entries:
            id = entry_id(raw_id)
            # Live, an operation was heard of now; what was loaded, as long ago as its ids say.
            ago = 0.0 if live else max(wall - (id >> 64) / 1000, 0.0)
            if (event := self._accept(id, fields, history, heard - ago)) is not None:
                batch.append(event)
                size += len(event.frame)
                if size > BATCH_BYTES:
                    publish(batch, id)
                    batch, size = [], 0
        if id:
            publish(batch, id)

    def _accept(self, id: EntryId, fields: Sequence[bytes], history: History, heard: float) -> Event | None:
        metrics = self._metrics
        try:
            event = decode(id, fields)
        except Rejected as rejected:
            history.drop(id)
            metrics.rejected[rejected.reason] += 1
            self._limited.warning(
                rejected.reason, "entry rejected", entry=format_id(id), reason=rejected.reason, detail=str(rejected)
            )
            return None
        wrong = schema.violation(event.type, event.data)
        if wrong is not None:
            metrics.nonconforming[type_label(event.type)] += 1
            self._limited.warning(
                "nonconforming", "nonconforming event", entry=format_id(id), type=event.type, detail=wrong
            )
        metrics.consumed[type_label(event.type)] += 1
        outcome = history.take(event, heard)
        if event.frame:
            return event
        metrics.stale += outcome is STALE
        metrics.throttled += outcome is THROTTLED
        return None


def _floor(page: Page) -> EntryId:
    """The id that a stream which begins with this page can be resumed from."""
    info: Info | None = page.info
    if info is None or info.whole:
        return ZERO
    return EntryId(entry_id(page.entries[0][0]) - 1) if page.entries else page.place.id
