"""What the gateway remembers of the stream, within one bound of bytes: events, operations, verdicts.

Owns what is kept and for how long. Plain methods for one thread; never awaits, never reads a clock (times come as
parameters), knows nothing of who listens. The cost of reading never depends on how much is held.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from heapq import merge
from itertools import chain, islice
from operator import attrgetter
from typing import Any, Final

from gateway import frame, schema
from gateway.event import ZERO, EntryId, Event
from gateway.log import Log, Verdicts
from gateway.operations import ENDED_MOST, Operation, Operations
from gateway.scope import Scope, Sees
from gateway.shaping import RAISED, STALE, THROTTLED, shape

EVENT: Final = 300
"""Bytes that an event costs beside its frame: the object, its id, its places in the indexes (tests/bench measures)."""
KINDS: Final = tuple((type, outcome) for type in (*schema.TYPES, "other") for outcome in (THROTTLED, STALE, RAISED))
"""What a verdict says of an entry that is an event: its type and what became of it, by its `kind`."""
TRIM: Final = 2000
"""Events and operations let go in one turn at most."""
_KIND: Final = {kind: number for number, kind in enumerate(KINDS)}
AFTER_MOST: Final = 24 * 3600
"""Seconds that a `retryAfter` puts silence off at most."""


class History:
    """The log, and each operation's attempt a while longer; ended ones go first.

    `floor` is the least id that the log can resume from; `newest` the greatest that the stream gave, as far as was
    read. `whole` says that nothing of the stream was trimmed before it was read. `deleted` is the greatest id that was
    deleted by hand, as Redis last told it (None where it doesn't tell).
    """

    def __init__(
        self, max_events: int, max_bytes: int, max_age: float, *, stalled_after: float = 0, throttle: bool = True
    ) -> None:
        self._bounds = max_events, max_bytes, max_age
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._max_age_ms = int(max_age * 1000)
        self.throttle = throttle
        self.stalled_after = stalled_after
        self.begin(ZERO, whole=True)

    def begin(self, floor: EntryId, *, whole: bool) -> None:
        """Empties everything, for a stream that begins after `floor`."""
        self.floor = self.newest = self._begun = floor
        self.whole = whole
        self.deleted: EntryId | None = None
        self.operations = Operations()
        self.verdicts = Verdicts(floor)
        self.taken: tuple[Any, ...] = (None,)  # what a cursor took last, for the next one to whom the same is due
        self._log = Log()
        self._log_bytes = self._pinned = 0  # the second: of events that only their operation's attempt holds
        self._evicted = self._forgotten = ZERO  # the last event, and the newest of an operation, that was let go
        # Those without events in the log: ended, and not. A dict that only loses its first items finds the next slowly.
        self._quiet: tuple[OrderedDict[Operation, None], ...] = (OrderedDict(), OrderedDict())

    def fresh(self) -> "History":
        """An empty one with the same bounds."""
        return History(*self._bounds, stalled_after=self.stalled_after, throttle=self.throttle)

    def __len__(self) -> int:
        return len(self._log)

    @property
    def complete(self) -> bool:
        """Whether all that was ever read is still in the log."""
        return self.floor == self._begun

    @property
    def bytes(self) -> int:
        """Bytes held, overhead included."""
        return self._log_bytes + self._pinned + self.operations.bytes + len(self.verdicts) * Verdicts.BYTES

    def take(self, event: Event, heard: float) -> str:
        """Shapes the event of the next entry, and keeps it unless it is dropped. Returns what became of it.

        Its operation was heard of at `heard` (seconds, the caller's clock).
        """
        operations = self.operations
        operation = operations.of(event.key)
        outcome, percent = shape(operation.track, event, throttle=self.throttle, whole=self.whole)
        if "run" in event.data:
            operations.weigh(operation)
        if outcome is not STALE and (not operation.ended or event.type == schema.STARTED):
            heard = heard if event.type != schema.FAILED else _put_off(event, heard)
            operations.silence.hear(operation, heard, self.stalled_after)
        if outcome is STALE or outcome is THROTTLED:
            self.verdicts.append(event.id, math.nan, operation.number, _kind(event.type, outcome))
            if not operation.events:
                self._quiet[not operation.ended].setdefault(operation)
            return outcome
        if percent is not None:
            self.verdicts.append(event.id, percent, operation.number, _kind(event.type, outcome))
        event.key = operation.key  # one pair of strings for all
        frame.seal(event, percent)
        self._append(operation, event)
        return outcome

    def drop(self, id: EntryId) -> None:
        """The next entry is no event."""
        self.verdicts.append(id)

    def trim(self, wall: float) -> None:
        """Forgets what is beyond the bounds; `wall` is the time of day in seconds.

        Age is that of the stream, so that a quiet one keeps its last events, but no id is newer than now: an entry
        whose id lies in the future makes nothing old.
        """
        horizon = min(self.newest >> 64, int(wall * 1000)) - self._max_age_ms
        for _ in range(TRIM):
            if not self._trim_one(horizon):
                break

    def cut(self, floor: EntryId) -> None:
        """Entries up to `floor` are missing after the newest that was read: the log can't be resumed from before it."""
        self.whole = False
        self.floor = self.newest = self._begun = self.verdicts.floor = floor  # `trim` drops what is older
        self.operations.restart()

    def oldest(self) -> EntryId | None:
        """The id of the oldest event in the log."""
        first = next(self._log.follow(self.floor), None)
        return None if first is None else first.id

    def agrees(self, other: "History") -> EntryId | None:
        """The id up to which both were read from the same entries, None where they have none in common.

        What became of an entry may differ: one of them has read more of what came before.
        """
        last, start, everything = None, max(self.floor, other.floor), Scope("multi")
        mine, theirs = self.after(start, everything), other.after(start, everything)
        one, two = next(mine, None), next(theirs, None)
        while one is not None and two is not None:
            if one.id == two.id and frame.same(one.frame, two.frame):
                last, one, two = one.id, next(mine, None), next(theirs, None)
            elif one.id < two.id and other.dropped(one.id):
                one = next(mine, None)
            elif two.id < one.id and self.dropped(two.id):
                two = next(theirs, None)
            else:
                break
        return last

    def dropped(self, id: EntryId) -> bool:
        """Whether this entry was read and is no event, or not one that is delivered."""
        verdict = self.verdicts.get(id)
        return verdict is not None and math.isnan(verdict)

    def knows(self, id: EntryId) -> bool:
        """Whether an id within what memory holds is that of an entry that was read."""
        return id in (self.floor, self.newest) or self._log.has(id) or self.verdicts.get(id) is not None

    def place(self, id: EntryId) -> EntryId:
        """The last id up to `id` that it knows."""
        return id if self.knows(id) else max(self.floor, self._log.before(id) or ZERO)

    def holds(self, cursor: EntryId, scope: Scope) -> bool:
        """Whether everything in scope that came after `cursor` is in the log."""
        if cursor >= self.floor:
            return True
        if not scope.size or cursor < self._begun or (scope.operations and cursor < self._forgotten):
            return False  # a bare id may be that of an operation that is forgotten
        newest = [operation.newest for name in scope.named() for operation in self.operations.called(name)]
        known = [self.operations.project(id) for id in scope.projects]
        return (
            bool(newest or known)
            and all(map(self.operations.called, scope.named()))
            and all(each is not None and each.newest <= cursor for each in known)
            and max(newest, default=ZERO) <= cursor
        )

    def after(self, cursor: EntryId, scope: Scope) -> Iterator[Event]:
        """The events in scope later than `cursor`, in stream order, one by one: the cost is that of what is taken."""
        logs = [log for log in self._logs(scope) if log.newer(cursor)]
        if len(logs) == 1:
            return logs[0].follow(cursor)
        return _distinct(merge(*(log.follow(cursor) for log in logs), key=attrgetter("id")))

    def newer(self, cursor: EntryId, scope: Scope) -> bool:
        """Whether there are events in scope later than `cursor`."""
        return any(log.newer(cursor) for log in self._logs(scope))

    def since(self, scope: Scope, sees: Sees | None, ended: int, after: EntryId | None) -> EntryId | None:
        """After whose end a snapshot tells of ended operations: the last `ended`, and those later than `after`; None:
        of none.
        """
        since: EntryId | None = None
        ends = self.operations.ends(scope) if ended or after is not None else ()
        shown = (each for each in ends if sees is None or sees(each.key))
        for number, operation in enumerate(islice(shown, ENDED_MOST)):
            if number >= ended and (after is None or operation.end <= after):
                break
            since = EntryId(operation.end - 1)
        return since

    def _logs(self, scope: Scope) -> Iterator[Log]:
        if not scope.size:
            yield self._log
        for operation in chain.from_iterable(map(self.operations.called, scope.named())):
            yield operation.events
        for project in filter(None, map(self.operations.project, scope.projects)):
            yield project.events

    def _append(self, operation: Operation, event: Event) -> None:
        if not operation.events:
            for quiet in self._quiet:
                quiet.pop(operation, None)
        self._log.append(event)
        operation.events.append(event)
        operation.project.events.append(event)
        self._log_bytes += len(event.frame) + EVENT
        for left in self.operations.note(operation, event):
            self._unpin(left)

    def _unpin(self, event: Event) -> None:
        if event.id <= self._evicted:
            self._pinned -= len(event.frame) + EVENT
            event.frame = b""  # an index may hold the event until it is swept

    def _trim_one(self, horizon: int) -> bool:
        total = self.bytes
        beside = total - self._log_bytes
        for quiet in self._quiet:
            if quiet and (
                len(quiet) > self._max_events
                or beside > self._max_bytes // 2
                or next(iter(quiet)).newest >> 64 < horizon
            ):
                operation = next(iter(quiet))
                del quiet[operation]
                for event in operation.attempt():
                    self._unpin(event)
                self._forgotten = max(self._forgotten, operation.newest)
                self.operations.forget(operation)
                return True
        if len(self.verdicts) * Verdicts.BYTES > self._max_bytes // 8:
            self.verdicts.drop_first()
            while self._log and self._log.first().id < self.verdicts.floor:
                self._evict()
            self.floor = max(self.floor, self.verdicts.floor)
            return True
        log = self._log
        if log and (
            total > self._max_bytes
            or len(log) > self._max_events
            or log.first().id >> 64 < horizon
            or log.first().id <= self._begun
        ):
            self._evict()
            return True
        return False

    def _evict(self) -> None:
        event = self._log.first()
        operation = self.operations.of(event.key)
        for log in (self._log, operation.events, operation.project.events):
            log.drop_first()
        cost = len(event.frame) + EVENT
        self._log_bytes -= cost
        self._evicted = event.id
        self.floor = max(self.floor, event.id)
        if event in (operation.started, operation.progress, operation.conflict, operation.outcome):
            self._pinned += cost
        else:
            event.frame = b""
        if not operation.events:
            self._quiet[not operation.ended][operation] = None


def _kind(type: str, outcome: str) -> int:
    return _KIND.get((type, outcome), _KIND["other", outcome])


def _put_off(event: Event, heard: float) -> float:
    """From when silence counts after a `failed`: from `heard`, or when the `retryAfter` that it announces is over.

    One of ten minutes or more in whole minutes, so that those times are few.
    """
    seconds = None if event.terminal else event.data.get("retryAfter")
    if not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        return heard
    until = heard + min(float(seconds), AFTER_MOST)
    return until if seconds < 600 else math.ceil(until / 60) * 60.0


def _distinct(events: Iterator[Event]) -> Iterator[Event]:
    last = ZERO
    for event in events:
        if event.id != last:
            last = event.id
            yield event
