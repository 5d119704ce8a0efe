"""Events on their way to Redis: in order, bounded, the least missed dropped first. Plain containers, one thread's."""

import logging
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from gateway import schema

BATCH: Final = 200
"""Events sent at once at most."""

log = logging.getLogger("gateway.producer")


class Entry(NamedTuple):
    """One event: the operation's attempt it belongs to, its type, and XADD's fields."""

    attempt: int
    type: str
    terminal: bool
    fields: tuple[str, ...]


class Outbox:
    """At most `limit` events. Superseded progress goes first, then other progress, then conflicts, then `started`; a
    terminal event never. `dropped` counts what went.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: dict[int, Entry] = {}  # in order, by number
        self._number = 0
        self._sending = 0  # up to this number they may be on the wire
        self._noted = 0  # since what is gone was forgotten
        self._newest: dict[int, int] = {}  # the last progress of each attempt
        self._victims: tuple[deque[int], ...] = (deque(), deque(), deque(), deque())
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, number: int) -> bool:
        return number in self._entries

    def add(self, entry: Entry) -> int:
        """Takes an event; its number."""
        self._number = number = self._number + 1
        self._entries[number] = entry
        superseded, progress, others, started = self._victims
        if entry.type == schema.PROGRESS:
            if (before := self._newest.get(entry.attempt)) in self._entries:
                superseded.append(before)
            self._newest[entry.attempt] = number
            progress.append(number)
        elif entry.terminal:
            self._newest.pop(entry.attempt, None)
        else:
            (started if entry.type == schema.STARTED else others).append(number)
        if len(self._entries) > self._limit:
            self._drop_one()
        self._noted += 1
        if self._noted > 4 * self._limit:
            self._forget()
        return number

    def batch(self) -> list[tuple[int, Entry]]:
        """The first events, with their numbers; they are not dropped any more."""
        found = list(islice(self._entries.items(), BATCH))
        if found:
            self._sending = max(self._sending, found[-1][0])
        return found

    def remove(self, number: int) -> None:
        """It was sent, or can't be."""
        self._entries.pop(number, None)

    def give_up(self) -> int:
        """Drops all; how many that were."""
        lost = len(self._entries)
        self.dropped += lost
        for number in list(self._entries):
            self.remove(number)
        return lost

    def _forget(self) -> None:
        """Those that were sent are no victims any more; an outbox that is never empty would keep them for ever."""
        self._victims = tuple(deque(number for number in each if number in self._entries) for each in self._victims)
        self._noted = 0

    def _drop_one(self) -> None:
        number = next(self._droppable(), None)
        if number is not None:
            del self._entries[number]
            self.dropped += 1
            if self.dropped & (self.dropped - 1) == 0:  # at 1, 2, 4, 8…
                log.warning("the outbox is full: %d events dropped so far", self.dropped)

    def _droppable(self) -> Iterator[int]:
        for victims in self._victims:
            while victims:
                number = victims.popleft()
                if number in self._entries and number > self._sending:
                    yield number
