"""The one way to read the stream: a page begins at the entry it goes on from, and its first entry must be that entry.

Where that witness is missing or different, XINFO STREAM tells what became of it. Every read is such a page: at the
start, live, and for who comes back with an old id. Never keeps a link, never decodes.
"""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from gateway.event import ZERO, EntryId, format_id
from gateway.link import Command, Link, Refused, TooLarge

COUNT: Final = 512
"""Entries asked for at once, at most."""
BYTES: Final = 256 * 1024
"""Bytes that a page is meant to have."""
LIMIT: Final = 4 * 1024 * 1024
"""Bytes at which the reading of a page is given up, to be tried again with fewer entries."""

Entry = tuple[bytes, Sequence[bytes]]


class Place(NamedTuple):
    """Where reading goes on: after the entry `id` with these `fields`. Without them there is no such entry (the stream
    has none, or it was deleted), and `added` alone vouches. `added` is Redis's own count of the entries that were ever
    added up to here, where it is known (Redis 7).
    """

    id: EntryId = ZERO
    fields: Sequence[bytes] | None = None
    added: int | None = None


class Info(NamedTuple):
    """What XINFO STREAM tells. `added` and `deleted` (the greatest id deleted by hand) are None before Redis 7; `first`
    and `last` are those of entries that are there, `newest` is the greatest id ever given.
    """

    length: int
    newest: EntryId
    first: EntryId | None
    last: EntryId | None
    added: int | None
    deleted: EntryId | None

    @property
    def whole(self) -> bool:
        """Whether the stream holds all that was ever added to it."""
        return self.added == self.length if self.added is not None else not self.newest


class Fate(Enum):
    """What became of what follows a place."""

    WHOLE = auto()
    """All of it is there."""
    TRIMMED = auto()
    """Entries after it are gone."""
    RESET = auto()
    """The stream was emptied, replaced, or went backwards."""


class Page(NamedTuple):
    """Entries after a place, in order, and where to go on after them. `full`: there may be more at once."""

    entries: Sequence[Entry]
    place: Place
    full: bool
    fate: Fate
    info: Info | None

    @property
    def newest(self) -> EntryId:
        """The id up to which all was read: one that was given last counts, though its entry may be gone."""
        info, id = self.info, self.place.id
        return id if info is None or (info.last is not None and info.last > id) else max(id, info.newest)


def entry_id(raw: bytes) -> EntryId:
    ms, _, seq = raw.partition(b"-")
    return EntryId(int(ms) << 64 | int(seq))


class Pages:
    """Reads pages of one stream, and learns from them how many entries make one."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self._count = 16

    async def read(self, link: Link, place: Place, *, look: bool = False, later: float = 0) -> Page:
        """The page after `place`, asked for `later` seconds from now; with `look`, `info` is there in any case.

        Raises UNAVAILABLE.
        """
        entries, full = await self._range(link, format_id(place.id) if place.id else "-", later)
        if entries and entry_id(entries[0][0]) == place.id:
            (_, fields), *entries = entries
            info = await self.info(link) if look or fields != place.fields else None
            if fields != place.fields:
                return Page((), place, False, Fate.RESET, info)
            return Page(entries, _after(place, entries, info), full, Fate.WHOLE, info)
        info = await self.info(link)
        # What was trimmed since it was read is not lost.
        read = sum(info is None or info.first is None or entry_id(raw) < info.first for raw, _ in entries)
        fate = judge(place, info, read)
        if info is not None and info.added is not None:
            before = info.added - info.length - read  # whatever is held or was read follows the place
            if info.first is None or info.first > place.id:
                place = place._replace(added=before)
            elif place.added is not None and info.added - place.added < len(entries):
                fate = Fate.RESET
        return Page(entries, _after(place, entries, info), full, fate, info)

    async def since(self, link: Link, id: EntryId) -> tuple[Sequence[Entry], Info | None]:
        """A page that begins with the entry `id`, where there is one, for who knows nothing of it but that."""
        entries, _ = await self._range(link, format_id(id) if id else "-")
        return entries, await self.info(link)

    async def doorbell(self, link: Link, place: Place, milliseconds: int) -> bool:
        """Waits until there is an entry after `place`, so many milliseconds at most. Whether there is."""
        command: Command = ("XREAD", "COUNT", 1, "BLOCK", milliseconds, "STREAMS", self.stream, format_id(place.id))
        [reply] = await link.exchange(command)
        return bool(reply)

    async def info(self, link: Link) -> Info | None:
        """What Redis tells of the stream, None where the key doesn't exist."""
        try:
            [raw] = await link.exchange(("XINFO", "STREAM", self.stream))
        except Refused as error:
            if "no such key" in str(error):
                return None
            raise
        told: dict[bytes, Any] = dict(zip(raw[::2], raw[1::2], strict=True))
        first, last, deleted = told[b"first-entry"], told[b"last-entry"], told.get(b"max-deleted-entry-id")
        return Info(
            told[b"length"],
            entry_id(told[b"last-generated-id"]),
            entry_id(first[0]) if first else None,
            entry_id(last[0]) if last else None,
            told.get(b"entries-added"),
            None if deleted is None else entry_id(deleted),
        )

    async def _range(self, link: Link, start: str, later: float = 0) -> tuple[Sequence[Entry], bool]:
        while True:
            count = self._count + 1  # the first is only the witness
            try:
                limit = LIMIT if self._count > 1 else None
                command: Command = ("XRANGE", self.stream, start, "+", "COUNT", count)
                [entries] = await link.exchange(command, limit=limit, later=later)
            except TimeoutError:
                self._count = max(1, self._count // 2)
                raise
            except TooLarge:
                self._count = max(1, self._count // 4)
                await link.reopen()  # what is left of the reply belongs to nobody
                continue
            self._learn(entries, link.size)
            return entries, len(entries) == count

    def _learn(self, entries: Sequence[Entry], size: int) -> None:
        if size > BYTES:
            self._count = max(1, min(self._count, len(entries) * BYTES // size))
        elif len(entries) >= self._count and size < BYTES // 2:
            self._count = min(COUNT, self._count * 2)


def judge(place: Place, info: Info | None, read: int = 0) -> Fate:
    """What became of the stream after a place whose entry is not there; `read` entries after it are gone, but were read
    before.
    """
    if info is None:
        return Fate.RESET if place.id else Fate.WHOLE
    if info.newest < place.id:
        return Fate.RESET
    if info.first is not None and info.first < place.id:
        # Trimming hasn't come as far: the entry was deleted by hand, or never was. Before Redis 7 nobody can tell.
        return Fate.WHOLE if info.deleted is not None and info.deleted >= place.id else Fate.RESET
    if info.added is not None and place.added is not None:
        # All that is held follows the place. Is it all that was added since?
        lost = info.added - place.added - info.length - read
        return Fate.TRIMMED if lost > 0 else Fate.WHOLE if lost == 0 else Fate.RESET
    if info.newest == place.id:
        return Fate.WHOLE
    if info.added is not None:
        return Fate.TRIMMED
    return Fate.RESET if place.id else Fate.WHOLE


def _after(place: Place, entries: Sequence[Entry], info: Info | None) -> Place:
    """The place after these entries."""
    if entries:
        added = None if place.added is None else place.added + len(entries)
        place = Place(entry_id(entries[-1][0]), entries[-1][1], added)
    if info is not None and (info.last is None or info.last <= place.id):
        # Nothing follows: the count is exact, and a place without an entry may move up to what was given last.
        gone = info.last != place.id
        return Place(max(place.id, info.newest), None, info.added) if gone else place._replace(added=info.added)
    return place
