"""Who fell silent: of what runs, when it was last heard of, and advice on those that were not for too long.

Knows nothing of what an operation is. Never reads a clock (times come as parameters, in seconds).
"""

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from operator import attrgetter
from typing import Final, Generic, NamedTuple, TypeVar

from gateway.event import Key
from gateway.log import Swept

TICK: Final = 0.1
"""Seconds between two looks."""


class Heard:
    """What can fall silent. `heard` is when it was last heard of, `due` the tick at which its silence is looked at (0:
    not at all), `stall` the number of the advice that it is stalled, 0 while it is not.
    """

    __slots__ = ("due", "heard", "stall")

    key: Key

    def __init__(self) -> None:
        self.heard = 0.0
        self.due = 0
        self.stall = 0


T = TypeVar("T", bound=Heard)


class Advice(NamedTuple, Generic[T]):
    """That an operation fell silent; numbered in the order in which that was found."""

    number: int
    operation: T

    @property
    def holds(self) -> bool:
        return self.operation.stall == self.number

    @property
    def key(self) -> Key:
        return self.operation.key

    @property
    def terminal(self) -> bool:
        """It is never an end."""
        return False


class Silence(Generic[T]):
    """Who is waited for. `stalled` is how many were waited for in vain, `newest` the number of the last advice."""

    def __init__(self) -> None:
        self.stalled = 0
        self.newest = 0
        self._advices: Swept[Advice[T]] = Swept(attrgetter("number"), attrgetter("holds"))
        self._due: dict[int, dict[T, None]] = {}  # by tick
        self._ticks: list[int] = []  # a heap of those

    def hear(self, operation: T, at: float, patience: float) -> None:
        """It was heard of at `at`; after `patience` seconds it counts as silent (0: never)."""
        operation.heard = at
        if operation.stall:
            self._take_back(operation)
        if operation.due > _tick(at + patience):  # it had been put off
            self._drop(operation)
        if patience and not operation.due:
            self._wait(operation, at + patience)

    def leave(self, operation: T) -> None:
        """It is waited for no more."""
        if operation.due:
            self._drop(operation)
        if operation.stall:
            self._take_back(operation)

    def find(self, now: float, patience: float, limit: int) -> list[Advice[T]]:
        """Advice on those that have been silent for `patience` seconds, `limit` of them at most."""
        found: list[Advice[T]] = []
        looked = 0
        while self._ticks and self._ticks[0] <= now / TICK and looked < limit:
            bucket = self._due[self._ticks[0]]
            while bucket and looked < limit:
                operation, _ = bucket.popitem()
                operation.due = 0
                looked += 1
                if operation.heard + patience > now:
                    self._wait(operation, operation.heard + patience)
                    continue
                self.newest += 1
                self.stalled += 1
                operation.stall = self.newest
                found.append(Advice(operation.stall, operation))
                self._advices.append(found[-1])
            if not bucket:
                del self._due[heappop(self._ticks)]
        return found

    def follow(self, number: int) -> Iterator[Advice[T]]:
        """The advice that holds and comes after that of this number."""
        return self._advices.follow(number)

    def among(self, operations: Iterable[T], number: int) -> Iterator[Advice[T]]:
        """The same, on these operations."""
        stalled = {each.stall: each for each in operations if each.stall > number}
        return (Advice(stall, stalled[stall]) for stall in sorted(stalled))

    def _wait(self, operation: T, due: float) -> None:
        tick = operation.due = _tick(due)
        if tick not in self._due:
            self._due[tick] = {}
            heappush(self._ticks, tick)
        self._due[tick][operation] = None

    def _drop(self, operation: T) -> None:
        bucket = self._due[operation.due]
        bucket.pop(operation, None)
        if not len(bucket) & (len(bucket) - 1):  # a dict that shrinks keeps its room: 3,000 buckets would
            self._due[operation.due] = dict.fromkeys(bucket)
        operation.due = 0

    def _take_back(self, operation: T) -> None:
        operation.stall = 0
        self.stalled -= 1
        self._advices.died()


def _tick(due: float) -> int:
    return max(int(due / TICK) + 1, 1)
