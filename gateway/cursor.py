"""Where one subscriber is in the history, and what it is to be given next: snapshot, replay, live, lagging, advice.

Pure state over History: no socket, no clock, no bytes. Replay is nothing but the first turns of the same reading that
goes on when live, so a gap, a duplicate or a live event before a replayed one can't happen. A snapshot is walked the
same way, so that it costs a place and no list.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from itertools import islice, takewhile
from operator import attrgetter
from typing import Final, NamedTuple, cast

from gateway import schema
from gateway.event import ZERO, EntryId, Event, Key, parse_id
from gateway.history import History
from gateway.operations import Advice, Operation
from gateway.scope import MAX_FILTERS, Scope, Sees, Wish

EARLIEST: Final = "earliest"
"""In place of an id: all that is held."""
SLICE_EVENTS: Final = 512
SLICE_BYTES: Final = 128 * 1024
"""What is taken at once at most, so that one long replay never holds the loop."""
SCAN: Final = 4096
"""Events looked at in one turn at most, whether they are in scope or not."""
_type = attrgetter("type")


class Mode(Enum):
    """What a cursor is read for, in this order. While it lags, superseded progress is skipped."""

    SNAPSHOT = "snapshot"
    REPLAY = "replay"
    LIVE = "live"
    LAGGING = "lagging"


class Slice(NamedTuple):
    """What to write now: events, or advice. `frames` are those of the events, `joined` all of them in one piece,
    `types` how many there are of each. `complete`: a snapshot is, so tell the cursor's id. `skipped`: how many
    superseded events were left out.
    """

    events: Sequence[Event] = ()
    frames: Sequence[bytes] = ()
    joined: bytes = b""
    types: Mapping[str, int] = {}
    advices: Sequence[Advice] = ()
    complete: bool = False
    skipped: int = 0


class Cursor:
    """Reads `history` for one scope. `sees` says which operations the grant shows, None that it shows all in scope.

    `at` is the id up to which all was taken, `told` the id that the browser would come back with (None: none yet),
    `advised` the number of the last advice. What is taken counts as given, unless `gave` says that it was less.
    """

    __slots__ = (
        "_final", "_follow", "_reads", "_sees", "_since", "_snapshot", "advised", "at", "earliest", "history",
        "mode", "scope", "told",
    )  # fmt: skip

    def __init__(self, history: History, scope: Scope, sees: Sees | None = None, *, follow: bool = False) -> None:
        self.history = history
        self._sees = sees
        self._follow = follow
        self._final = False  # the last event that was taken is terminal
        self._snapshot: EntryId | None = None  # how far one was told
        self._since: EntryId | None = None  # and after whose end operations are told of, though they ended
        self.scope = scope
        # Hundreds of topics, as a grant may name them, are not merged but looked for in the whole log.
        self._reads = scope if scope.size <= MAX_FILTERS else Scope(scope.kind)
        self.at = ZERO
        self.told: EntryId | None = None
        self.advised = 0
        self.earliest = False  # it asks for all that is held, however much was trimmed before
        self.mode = Mode.SNAPSHOT

    @property
    def place(self) -> EntryId:
        """Where the browser is."""
        return self.at if self.told is None else self.told

    def begin(self, wish: Wish) -> bool:
        """Goes to where a request wants to begin; False where that is no id."""
        if wish.last_event_id is None:
            self.snapshot(ended=wish.ended)
        elif wish.last_event_id == EARLIEST:
            self.replay(self.history.floor if self.history.complete else ZERO)
            self.told, self.earliest = None, True
        elif (id := parse_id(wish.last_event_id)) is not None:
            self.replay(id)
        else:
            return False
        return True

    def snapshot(self, *, ended: int = 0, after: EntryId | None = None) -> None:
        """Begins anew with what runs, with the `ended` operations that ended last, and with those that ended later than
        `after`, to go on from the newest entry.
        """
        self.at = self.history.newest
        self.mode = Mode.SNAPSHOT
        self.advised = 0
        self._snapshot = ZERO
        self._since = self.history.since(self.scope, self._sees, ended, after)

    def replay(self, at: EntryId) -> None:
        """Goes on after `at`."""
        self.at = self.told = at
        self.mode = Mode.REPLAY

    def covered(self) -> bool:
        """Whether memory holds all that comes next."""
        return self._snapshot is not None or self.history.holds(self.at, self.scope)

    def behind(self) -> bool:
        """Whether there is something to take."""
        return (
            self._snapshot is not None
            or self._more()
            or next(self.history.operations.advices(self.scope, self.advised), None) is not None
        )

    def _more(self) -> bool:
        history = self.history
        return self.at < history.newest and history.newer(self.at, self._reads)

    def take(self) -> Slice:
        """The next slice, which may be empty."""
        if self._snapshot is not None:
            return self._take_snapshot(self._snapshot)
        taken = self._take_events()
        if taken.events or taken.skipped or self._more():
            return taken
        pending = self.history.operations.advices(self.scope, self.advised)
        advices = list(islice(pending, SLICE_EVENTS))
        if advices:
            self.advised = advices[-1].number
        return Slice(advices=[each for each in advices if self._shows(each.operation.key)])

    def _take_events(self) -> Slice:
        """Of those that are in memory. A crowd comes back to one topic and one place: what is taken there is chosen,
        joined and counted once, for all whom the same is due.
        """
        history = self.history
        due = self.at, history.newest, self.mode is Mode.LAGGING, self._follow, self._sees, self.scope
        if history.taken[0] == due:
            _, taken, (self.at, self.told, self._final) = history.taken
            return cast("Slice", taken)
        taken = self.accept(history.after(self.at, self._reads))
        if taken.events:
            history.taken = due, taken, (self.at, self.told, self._final)
        return taken

    def accept(self, events: Iterable[Event]) -> Slice:
        """The next slice out of `events`, which follow the cursor; it may end before they do."""
        taken: list[Event] = []
        size = skipped = 0
        scope = None if self._reads is self.scope else self.scope  # to be looked for in all that comes
        lagging, sees, event = self.mode is Mode.LAGGING, self._sees, None
        for event in islice(events, SCAN):
            if scope is not None and event not in scope:
                continue
            if lagging and self._superseded(event):
                skipped += 1
            elif sees is None or sees(event.key):
                taken.append(event)
                size += len(event.frame)
                if size >= SLICE_BYTES or len(taken) >= SLICE_EVENTS or (event.terminal and self._ends_with(event)):
                    break
        if event is not None:
            self.at = event.id
        if taken:
            self.told, self._final = taken[-1].id, taken[-1].terminal
        return slice_of(taken, skipped)

    def gave(self, item: Event | Advice) -> None:
        """Of the last slice, `item` was handed over and nothing after it."""
        if not isinstance(item, Event):
            self.advised = item.number
        elif self._snapshot is not None:
            self._snapshot = self.told = item.id
        else:
            self.at = self.told = item.id

    def catch_up(self) -> EntryId:
        """The id to tell when nothing is left to take: the newest entry's."""
        self.at = self.told = max(self.at, self.history.newest)
        return self.at

    def differs(self, history: History, agreed: EntryId | None, until: EntryId) -> bool:
        """Whether what it was given up to `until` is not what `history` holds up to there, which is the same as its own
        up to `agreed` (None: nowhere).
        """
        if agreed is None:
            return until > ZERO
        both = (each.after(agreed, self._reads) for each in (self.history, history))
        return any(
            event in self.scope and self._shows(event.key)
            for events in both
            for event in takewhile(lambda event: event.id <= until, events)
        )

    def follows(self, key: Key) -> bool:
        """Whether it is given the events of this operation."""
        return self.scope.covers(key) and self._shows(key)

    def over(self) -> bool:
        """Whether a single-operation stream has told the end of every operation that it shows, known or forgotten."""
        if self.scope.kind != "operation" or self._follow or self._snapshot is not None:
            return False
        shown = self.operations()
        return all(0 < operation.end <= self.place for operation in shown) if shown else self._final

    def operations(self) -> list[Operation]:
        """Those that a single-operation stream shows."""
        called = self.history.operations.called
        return [each for name in self.scope.named() for each in called(name) if self._shows(each.key)]

    def _ends_with(self, event: Event) -> bool:
        # Not when a later attempt has begun: its events follow.
        if self.scope.kind != "operation" or self._follow:
            return False
        return all(0 < operation.end <= event.id for operation in self.operations())

    def _take_snapshot(self, place: EntryId) -> Slice:
        taken: list[Event] = []
        size = 0
        walk = self.history.operations.snapshot(self.scope, place, self.at, self._since)
        for number, event in enumerate(walk, 1):
            self._snapshot = event.id
            if self._shows(event.key):
                taken.append(event)
                size += len(event.frame)
            if size >= SLICE_BYTES or number >= SLICE_EVENTS:
                break
        else:
            if not taken:
                self._snapshot, self.told = None, self.at
                return Slice(complete=True)
        if taken:
            self.told = taken[-1].id
        return slice_of(taken)

    def _shows(self, key: Key) -> bool:
        return self._sees is None or self._sees(key)

    def _superseded(self, event: Event) -> bool:
        if event.type != schema.PROGRESS or (operation := self.history.operations.get(event.key)) is None:
            return False
        newest = operation.progress
        return newest is not None and newest.id > event.id


def slice_of(events: Sequence[Event], skipped: int = 0) -> Slice:
    """The slice that holds these."""
    frames = [event.frame for event in events]
    return Slice(events, frames, b"".join(frames), Counter(map(_type, events)), skipped=skipped)
