"""What Redis holds or knows and memory does not: pages for cursors that fell off the log's tail, and ids to vouch for.

One task, one link opened at need, one page at a time; whoever waits longest is next, and whoever can use the page gets
it too. A client that doesn't read holds no page. Never counts or logs what the reader has seen before.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Sequence
from typing import Final, Protocol

from gateway import frame
from gateway.cursor import Cursor
from gateway.event import ZERO, EntryId, Event, Key, Rejected, decode
from gateway.history import History
from gateway.hub import Hub
from gateway.link import UNAVAILABLE, Link, Moved
from gateway.logs import Limited
from gateway.pages import Entry, Fate, Info, Pages, Place, entry_id
from gateway.reader import BACKOFF, WATCH
from gateway.scope import Scope
from gateway.shaping import STALE, THROTTLED, Track, shape
from gateway.source import Source

PATIENCE: Final = 0.02
"""Seconds between two looks whether the reader has come as far as another replica has."""
TRACKS: Final = 20_000
"""Operations whose shaping is remembered while the stream is walked."""

_log = logging.getLogger(__name__)


class Visitor(Protocol):
    """Who asks. None of these may await; each may make it leave."""

    scope: Scope
    cursor: Cursor

    def bring(self, events: Sequence[Event], upto: EntryId) -> None:
        """Events after its cursor, of any scope; there is nothing after them up to `upto`."""

    def found(self) -> None:
        """Memory goes on from its cursor."""

    def refuse(self, reason: str, oldest: EntryId | None) -> None:
        """Nothing goes on from its cursor; `oldest` is the oldest entry that Redis holds."""


class Archive:
    """Serves visitors until they leave. Waits out Redis's absence."""

    def __init__(self, source: Source, stream: str, hub: Hub) -> None:
        self._source = source
        self._stream = stream
        self._pages = Pages(stream)
        self._hub = hub
        self._visitors: dict[Visitor, bool] = {}  # and whether its id was found to be one of this stream
        self._wanted = asyncio.Event()
        self._limited = Limited(_log)

    def visit(self, visitor: Visitor) -> None:
        """From now on it is served, until it is told something or leaves."""
        self._visitors[visitor] = False
        self._wanted.set()

    def leave(self, visitor: Visitor) -> None:
        """It wants nothing any more."""
        self._visitors.pop(visitor, None)

    async def run(self) -> None:
        """Serves until cancelled."""
        delay = BACKOFF[0]
        while True:
            self._wanted.clear()
            if not self._visitors:
                await self._wanted.wait()
            try:
                link = await self._source.connect()
                try:
                    checked = time.monotonic()
                    while self._visitors:
                        if time.monotonic() > checked + WATCH:
                            checked = time.monotonic()
                            if await self._source.has_moved(link):
                                raise Moved("the node is no longer the master")
                        await self._serve(link)
                        delay = BACKOFF[0]
                finally:
                    await link.close()
            except UNAVAILABLE as error:
                if not self._source.sent_on(error):
                    message = f"a page of the stream can't be read, trying again: {type(error).__name__}: {error}"
                    self._limited.warning("pages", message, stream=self._stream)
                    await asyncio.sleep(delay * random.uniform(0.5, 1.5))
                    delay = min(delay * 2, BACKOFF[1])

    async def _serve(self, link: Link) -> None:
        """Vouches for the ids that memory should know, then reads one page for whoever waits longest."""
        if any(each.cursor.at >= self._hub.history.floor for each in self._visitors):
            info = await self._pages.info(link)
            strange = [each for each in list(self._visitors) if not self._vouch(each, info)]
            # What Redis has and the history has not, the reader will find.
            await self._refuse(link, [each for each in strange if not await self._has(link, each.cursor.at)], info)
        older = [each for each in self._visitors if each.cursor.at < self._hub.history.floor]
        if not older:
            if self._visitors:
                await asyncio.sleep(PATIENCE)
        elif older[0].cursor.at >= self._hub.history.verdicts.floor:
            await self._page(link, older[0])
        else:
            await self._walk(link)

    def _vouch(self, visitor: Visitor, info: Info | None) -> bool:
        """An id that memory doesn't know: another replica may have read further, or it was deleted by hand. False where
        neither can be.
        """
        history, id = self._hub.history, visitor.cursor.at
        if id < history.floor or visitor not in self._visitors:
            return True
        if history.knows(id) or (info is not None and id <= history.newest and id <= (info.deleted or ZERO)):
            visitor.found()
        elif info is not None and info.first is not None and id < info.first:
            visitor.refuse("trimmed", info.first)
        else:
            return info is not None and history.newest < id <= info.newest
        return True

    async def _has(self, link: Link, id: EntryId) -> bool:
        entries, _ = await self._pages.since(link, id)
        return bool(entries) and entry_id(entries[0][0]) == id

    async def _refuse(self, link: Link, strange: Sequence[Visitor], info: Info | None) -> None:
        """Refuses those whose id this stream never had; unless this is the stream of a master that is one no more."""
        if strange and await self._source.has_moved(link):
            raise Moved("the node is no longer the master")
        for visitor in strange:
            if visitor in self._visitors:
                visitor.refuse("unknown", info and info.first)

    async def _page(self, link: Link, visitor: Visitor) -> None:
        """One page after the cursor of `visitor`, whose verdicts are remembered."""
        start, history = visitor.cursor.at, self._hub.history
        self._visitors[visitor] = self._visitors.pop(visitor)  # the last of those who wait
        entries, info = await self._pages.since(link, start)
        read = self._read(entries)
        events = [event for id, fields in read if id > start and (event := _recalled(id, fields, history)) is not None]
        await self._refuse(link, self._give(events, start, [id for id, _ in read], info), info)

    async def _walk(self, link: Link) -> None:
        """Pages from the stream's start, shaped anew, up to where verdicts are remembered: for cursors before that."""
        tracks: dict[Key, Track] = {}
        history, start = self._hub.history, ZERO
        page = await self._pages.read(link, Place(), look=True)
        whole = page.info is not None and page.info.whole
        while True:
            read = self._read(page.entries)
            ids = [id for id, _ in read]
            events = []
            for id, fields in read:
                event = _shaped(id, fields, tracks, whole=whole, throttle=history.throttle)
                if event is not None:
                    events.append(event)
            await self._refuse(link, self._give(events, start, [start, *ids], page.info), page.info)
            start = page.place.id
            if not ids or not any(start <= each.cursor.at < history.verdicts.floor for each in self._visitors):
                return
            page = await self._pages.read(link, page.place, look=True)
            if page.fate is not Fate.WHOLE:
                return

    def _read(self, entries: Sequence[Entry]) -> list[tuple[EntryId, Sequence[bytes]]]:
        """Ids and fields, without those that the reader has not come to: they are its own to shape and to hand out."""
        newest = self._hub.history.newest
        return [(id, fields) for raw, fields in entries if (id := entry_id(raw)) <= newest]

    def _give(
        self, events: Sequence[Event], start: EntryId, ids: Sequence[EntryId], info: Info | None
    ) -> list[Visitor]:
        """Hands the events of a page that begins after `start` to every visitor whose cursor is in it; `ids` are those
        of its entries. At Redis's end memory goes on: from its floor, should that be later than all that Redis holds.
        Returns those whose id is none of this stream.
        """
        strange = []
        last = ids[-1] if ids and ids[-1] > start else max(start, self._hub.history.floor)
        oldest = last if info is None or info.first is None else info.first
        for visitor, vouched in list(self._visitors.items()):
            cursor = visitor.cursor
            at = cursor.at
            if visitor not in self._visitors or at >= self._hub.history.floor:
                continue
            if info is None or (at < oldest and (at or not (cursor.earliest or info.whole))):
                visitor.refuse("trimmed", info and info.first)
            elif start <= at < last:
                if at and not vouched and at not in ids and (info.deleted is None or at > info.deleted):
                    strange.append(visitor)
                else:
                    self._visitors[visitor] = True
                    visitor.bring([event for event in events if event.id > at and event in visitor.scope], last)
        return strange


def _decoded(id: EntryId, fields: Sequence[bytes]) -> Event | None:
    try:
        return decode(id, fields)
    except Rejected:  # counted and logged when it was first read
        return None


def _recalled(id: EntryId, fields: Sequence[bytes], history: History) -> Event | None:
    """The event as it was first read, None where it was dropped."""
    verdict = history.verdicts.get(id)
    if verdict is not None and math.isnan(verdict):
        return None
    event = _decoded(id, fields)
    return event and frame.seal(event, verdict)


def _shaped(
    id: EntryId, fields: Sequence[bytes], tracks: dict[Key, Track], *, whole: bool, throttle: bool
) -> Event | None:
    event = _decoded(id, fields)
    if event is None:
        return None
    track = tracks.pop(event.key, None) or Track()
    tracks[event.key] = track  # the last of those that are forgotten
    if len(tracks) > TRACKS:
        del tracks[next(iter(tracks))]
    outcome, percent = shape(track, event, throttle=throttle, whole=whole)
    return None if outcome in (STALE, THROTTLED) else frame.seal(event, percent)
