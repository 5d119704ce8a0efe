"""Where one subscriber is in the history, and what it is to be given next: snapshot, replay, live, lagging.

Pure state over History: no socket, no clock, no bytes. Replay is nothing but the first turns of the same reading that
goes on when live, so a gap, a duplicate or a live event before a replayed one can't happen.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from gateway import schema
from gateway.event import ZERO, EntryId, Event
from gateway.history import History
from gateway.scope import Scope
from gateway.topic import Operation

SLICE_EVENTS: Final = 512
SLICE_BYTES: Final = 128 * 1024
"""What is taken at once at most, so that one long replay never holds the loop."""


class Slice(NamedTuple):
    """Events to write now. `place`: then tell the cursor's id, for a snapshot is complete. `over`: then end the stream.
    `skipped`: how many superseded events were left out.
    """

    events: Sequence[Event]
    place: bool = False
    over: bool = False
    skipped: int = 0


class Cursor:
    """Reads the history for one scope. `sees` says which events the grant shows, None that it shows the whole scope.

    `at` is the id up to which all was taken (or is in the snapshot's rest); `told` the id that the browser would come
    back with. While `replaying`, nothing is skipped; while `lagging`, superseded progress is.
    """

    __slots__ = ("_follow", "_history", "_sees", "_snapshot", "at", "lagging", "replaying", "scope", "told")

    def __init__(
        self, history: History, scope: Scope, sees: Callable[[str, str], bool] | None = None, *, follow: bool = False
    ) -> None:
        self._history = history
        self._sees = sees
        self._follow = follow
        self._snapshot: list[Event] | None = None  # the rest of one, last event first
        self.scope = scope
        self.at = ZERO
        self.told = ZERO
        self.replaying = False
        self.lagging = False

    def snapshot(self) -> None:
        """Begins anew with the running operations, to go on from the newest entry."""
        self.at = self._history.newest
        self.replaying = False
        self._snapshot = [event for event in reversed(self._history.snapshot(self.scope)) if self._shows(event)]

    def replay(self, at: EntryId) -> None:
        """Goes on after `at`."""
        self.at = self.told = at
        self.replaying = True

    def covered(self) -> bool:
        """Whether memory holds all that comes next."""
        return self._snapshot is not None or self._history.holds(self.at, self.scope)

    def behind(self) -> bool:
        """Whether there is something to take."""
        return self._snapshot is not None or bool(self._history.after(self.at, self.scope, 1))

    def take(self) -> Slice:
        """The next slice, which may be empty."""
        if self._snapshot is not None:
            return self._take_snapshot(self._snapshot)
        return self.accept(self._history.after(self.at, self.scope, SLICE_EVENTS))

    def accept(self, events: Iterable[Event]) -> Slice:
        """The next slice out of `events`, which are in scope and follow the cursor; it may end before they do."""
        taken: list[Event] = []
        size = skipped = 0
        over = False
        for event in events:
            if size >= SLICE_BYTES or over:
                break
            self.at = event.id
            if self.lagging and self._superseded(event):
                skipped += 1
            elif self._shows(event):
                taken.append(event)
                size += len(event.frame)
                over = event.terminal and self._ends_with(event)
        if taken:
            self.told = taken[-1].id
        return Slice(taken, over=over, skipped=skipped)

    def catch_up(self) -> EntryId:
        """The id to tell when nothing is left to take: the newest entry's."""
        self.at = self.told = max(self.at, self._history.newest)
        return self.told

    def operation(self) -> Operation | None:
        """The operation of a single-operation stream, where it is known."""
        return self._history.operation(next(iter(self.scope.operations))) if self.scope.kind == "operation" else None

    def _take_snapshot(self, rest: list[Event]) -> Slice:
        taken: list[Event] = []
        size = 0
        while rest and size < SLICE_BYTES:
            event = rest.pop()
            taken.append(event)
            size += len(event.frame)
        if taken:
            self.told = taken[-1].id
        if rest:
            return Slice(taken)
        self._snapshot = None
        operation = self.operation()
        if taken and operation is not None and operation.ended and not self._follow:
            return Slice(taken, over=True)
        self.told = self.at
        return Slice(taken, place=True)

    def _shows(self, event: Event) -> bool:
        return self._sees is None or self._sees(event.operation, event.project)

    def _ends_with(self, event: Event) -> bool:
        # Not when a later attempt has begun: its events follow.
        operation = self.operation()
        if operation is None or self._follow or not operation.ended or operation.outcome is None:
            return False
        return operation.outcome.id == event.id

    def _superseded(self, event: Event) -> bool:
        if event.type != schema.PROGRESS or (operation := self._history.operation(event.operation)) is None:
            return False
        newest = operation.progress
        return newest is not None and newest.id > event.id and newest.project == event.project
