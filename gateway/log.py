"""Things in stream order, appended at the end: events, what became of the entries that are none, and lists with holes.

Plain containers. Never decides what is kept or for how long (history.py), never knows an operation.
"""

import math
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Final, Generic, TypeVar

from gateway.event import SEQUENCE, EntryId, Event

T = TypeVar("T")
_id = attrgetter("id")


class Log:
    """Events, dropped from the front."""

    __slots__ = ("_events", "_head")

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._head = 0

    def __len__(self) -> int:
        return len(self._events) - self._head

    def append(self, event: Event) -> None:
        self._events.append(event)

    def first(self) -> Event:
        return self._events[self._head]

    def drop_first(self) -> None:
        self._events[self._head] = None  # type: ignore[call-overload]  # frees the event; the slot goes in bulk below
        self._head += 1
        if self._head * 2 > len(self._events):
            del self._events[: self._head]
            self._head = 0

    def newer(self, cursor: EntryId) -> bool:
        """Whether there are events later than `cursor`."""
        return self._head < len(self._events) and self._events[-1].id > cursor

    def follow(self, cursor: EntryId) -> Iterator[Event]:
        """The events later than `cursor`, one by one."""
        if self.newer(cursor):
            for at in range(bisect_right(self._events, cursor, lo=self._head, key=_id), len(self._events)):
                yield self._events[at]

    def before(self, id: EntryId) -> EntryId | None:
        """The id of the last event up to `id`."""
        at = bisect_right(self._events, id, lo=self._head, key=_id) - 1
        return self._events[at].id if at >= self._head else None

    def has(self, id: EntryId) -> bool:
        """Whether an event has this id."""
        return self.before(id) == id


class Verdicts:
    """What became of the entries that were not delivered as they came: dropped, or their percent raised.

    Four numbers an entry, so that a verdict outlives its event by far: a page that is read again from Redis must look
    as it did the first time. Together with the log it knows every entry id that was read.
    """

    BYTES: Final = 32

    __slots__ = ("_head", "_ms", "_percent", "_seq", "_tag", "floor")

    def __init__(self, floor: EntryId) -> None:
        self.floor = floor  # what is known reaches back to here
        self._ms, self._seq, self._percent, self._tag = array("Q"), array("Q"), array("d"), array("Q")
        self._head = 0

    def __len__(self) -> int:
        return len(self._ms) - self._head

    def append(self, id: EntryId, percent: float = math.nan, owner: int = 0, kind: int = 0) -> None:
        """The entry was dropped, or its percent raised to `percent`. `owner` and `kind` (below 256) are for `of`."""
        self._ms.append(id >> 64)
        self._seq.append(id & SEQUENCE)
        self._percent.append(percent)
        self._tag.append(owner << 8 | kind)

    def drop_first(self) -> None:
        self.floor = max(self.floor, self._at(self._head))
        self._head += 1
        if self._head * 2 > len(self._ms):
            for column in (self._ms, self._seq, self._percent, self._tag):
                del column[: self._head]
            self._head = 0

    def get(self, id: EntryId) -> float | None:
        """NaN where the entry was dropped, the percent that it was raised to, None where it passed as it came."""
        low = self._find(id)
        return self._percent[low] if low < len(self._ms) and self._at(low) == id else None

    def of(self, owner: int, after: EntryId, most: int) -> tuple[dict[EntryId, int], EntryId | None]:
        """The ids and kinds of an owner's entries among the `most` that come after an id, and the id of the last that
        was looked at, None where there are no more.
        """
        first = self._find(EntryId(after + 1))
        last = min(first + most, len(self._tag))
        found = {self._at(at): self._tag[at] & 255 for at in range(first, last) if self._tag[at] >> 8 == owner}
        return found, self._at(last - 1) if last < len(self._tag) else None

    def _find(self, id: EntryId) -> int:
        low, high = self._head, len(self._ms)
        while low < high:
            middle = (low + high) // 2
            if self._at(middle) < id:
                low = middle + 1
            else:
                high = middle
        return low

    def _at(self, index: int) -> EntryId:
        return EntryId(self._ms[index] << 64 | self._seq[index])


class Swept(Generic[T]):
    """A list whose items die: those are passed over, and swept out once they are the most.

    `alive` tells whether an item still counts, `place` where in the order it is.
    """

    __slots__ = ("_alive", "_dead", "_items", "_place")

    def __init__(self, place: Callable[[T], int], alive: Callable[[T], bool]) -> None:
        self._place = place
        self._alive = alive
        self._items: list[T] = []
        self._dead = 0

    def append(self, item: T) -> None:
        self._items.append(item)

    def died(self) -> None:
        """One of them no longer counts."""
        self._dead += 1
        if self._dead * 2 > len(self._items) + 8:
            self._items = list(filter(self._alive, self._items))
            self._dead = 0

    def follow(self, place: int) -> Iterator[T]:
        """Those that count and come after `place`, one by one. The list must not change meanwhile."""
        if self._items and self._place(self._items[-1]) > place:
            for at in range(bisect_right(self._items, place, key=self._place), len(self._items)):
                if self._alive(self._items[at]):
                    yield self._items[at]
