"""The bounded log of events, its indexes, and the newest state of every operation.

Owns what is kept and for how long. Plain methods for one thread; never awaits, never reads a clock (time comes as a
parameter), knows nothing of who listens. The cost of reading never depends on how much is held: places are found by
bisection, running operations are indexed by project.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Final

from gateway import schema
from gateway.event import ZERO, EntryId, Event
from gateway.scope import Scope
from gateway.topic import Log, Operation, Project

OVERHEAD: Final = 256
"""Bytes that an event costs beside its frame: the object, its id, its places in the indexes (tests/bench measures)."""


class History:
    """What the gateway remembers: the log within its limits, and each operation's attempt a while longer.

    `newest` is the id of the newest entry read (whether or not it became an event). `floor` is the least id that the
    log can resume from. An operation outlives its events in the log, within the same limits, ended ones going first.
    """

    def __init__(self, max_events: int, max_bytes: int, max_age: float) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._max_age_ms = int(max_age * 1000)
        self.begin(ZERO)

    def begin(self, first: EntryId) -> None:
        """Empties everything for a stream whose oldest entry is `first`, or that is empty when `first` is ZERO."""
        self._log = Log()
        self._bytes = 0
        self._pinned = 0  # bytes of events that are out of the log but still in their operation's attempt
        self._evicted = ZERO
        self._from_zero = not first  # the stream was seen from its birth: even id 0-0 can be resumed from
        self.floor = EntryId(first - 1) if first else ZERO
        self.newest = ZERO
        self._operations: dict[str, Operation] = {}
        self._projects: dict[str, Project] = {}
        self._running: OrderedDict[str, Operation] = OrderedDict()  # longest silent first
        self._stalled: dict[str, Operation] = {}
        self._quiet: tuple[OrderedDict[str, Operation], ...] = (OrderedDict(), OrderedDict())  # ended, not ended

    def __len__(self) -> int:
        return len(self._log)

    @property
    def whole(self) -> bool:
        """Whether all that was ever read of the stream is still in the log."""
        return not self._evicted

    @property
    def bytes(self) -> int:
        """Bytes held, overhead included."""
        return self._bytes + self._pinned

    def extend(self, events: Iterable[Event], first: EntryId, newest: EntryId, now: float, wall: float | None) -> None:
        """Appends the events of a batch of entries whose ids reach from `first` to `newest`.

        Their operations were heard of `now` (seconds), or, where `wall` gives the time of day in seconds (at the start,
        when old entries are loaded), as long before as their ids say.
        """
        if not self.floor:
            self.floor = EntryId(first - 1)
        for event in events:
            self._append(event, now if wall is None else now - max(wall - (event.id >> 64) / 1000, 0.0))
        self.newest = newest
        self._trim()

    def operation(self, id: str) -> Operation | None:
        return self._operations.get(id)

    def oldest(self) -> EntryId | None:
        """The id of the oldest event in the log."""
        return self._log.first().id if self._log else None

    def holds(self, cursor: EntryId, scope: Scope) -> bool:
        """Whether everything in scope that came after `cursor` is in the log."""
        if cursor >= self.floor or (not cursor and self._from_zero and self.whole):
            return True
        if scope.kind != "operation":
            return False
        operation = self._operations.get(next(iter(scope.operations)))
        return operation is not None and operation.newest <= cursor

    def after(self, cursor: EntryId, scope: Scope, limit: int) -> list[Event]:
        """The first `limit` events in scope later than `cursor`, in stream order."""
        if scope.everything:
            return self._log.after(cursor, limit)
        found = [log.after(cursor, limit) for log in self._logs(scope)]
        if len(found) < 2:
            return found[0] if found else []
        union = {event.id: event for events in found for event in events}
        return [union[id] for id in sorted(union)[:limit]]

    def snapshot(self, scope: Scope) -> list[Event]:
        """The attempts of the operations in scope that have not ended (of a single operation: even so), in order."""
        if scope.kind == "operation":
            operations = [self._operations[id] for id in scope.operations if id in self._operations]
        else:
            operations = list(self._unended(scope))
        return sorted((event for operation in operations for event in operation.attempt()), key=attrgetter("id"))

    def stall(self, now: float, after: float) -> list[Operation]:
        """The running operations that have been silent for `after` seconds and were not told of before."""
        found = []
        while self._running and (operation := next(iter(self._running.values()))).heard + after <= now:
            operation.stalled_at = now
            self._stalled[operation.id] = self._running.pop(operation.id)
            found.append(operation)
        return found

    def stalled(self, scope: Scope, since: float) -> list[Operation]:
        """The operations in scope that were found stalled at `since` or later, and still are."""
        if not self._stalled:
            return []
        return [op for op in self._unended(scope) if op.stalled_at is not None and op.stalled_at >= since]

    def _logs(self, scope: Scope) -> Iterator[Log]:
        for id in scope.operations:
            if (operation := self._operations.get(id)) is not None:
                yield operation.events
        for id in scope.projects:
            if (project := self._projects.get(id)) is not None:
                yield project.events

    def _unended(self, scope: Scope) -> Iterable[Operation]:
        if scope.everything:
            return (*self._running.values(), *self._stalled.values())
        found: dict[str, Operation] = {}
        for id in scope.operations:
            if (operation := self._operations.get(id)) is not None and not operation.ended:
                found[id] = operation
        for id in scope.projects:
            if (project := self._projects.get(id)) is not None:
                found |= project.running
        return found.values()

    def _append(self, event: Event, heard: float) -> None:
        project = self._projects.get(event.project)
        if project is None:
            project = self._projects[event.project] = Project(event.project)
        operation = self._operations.get(event.operation)
        if operation is None:
            operation = self._operations[event.operation] = Operation(event.operation, project)
        elif not operation.events:
            self._quiet[not operation.ended].pop(operation.id, None)
        event.operation, event.project = operation.id, project.id  # one string for all
        self._log.append(event)
        operation.events.append(event)
        project.events.append(event)
        self._bytes += len(event.frame) + OVERHEAD
        self._note(operation, event)
        operation.newest, operation.heard = event.id, heard
        if operation.project is project and operation.id in self._running and not operation.ended:
            self._running.move_to_end(operation.id)
        else:
            self._file(operation, project)

    def _note(self, operation: Operation, event: Event) -> None:
        type = event.type
        if type == schema.STARTED:
            for kept in operation.attempt():
                self._unpin(kept)
            operation.started, operation.ended = event, False
            operation.progress = operation.conflict = operation.outcome = None
        elif operation.ended:
            pass  # a straggler after the end belongs to no attempt
        elif type == schema.PROGRESS:
            self._unpin(operation.progress)
            operation.progress = event
        elif type == schema.CONFLICT:
            self._unpin(operation.conflict)
            operation.conflict = event
        elif type in (schema.COMPLETED, schema.FAILED):
            self._unpin(operation.outcome)
            operation.outcome, operation.ended = event, event.terminal

    def _file(self, operation: Operation, project: Project) -> None:
        operation.stalled_at = None
        if operation.project is not project:
            operation.project.running.pop(operation.id, None)
            operation.project = project
        self._stalled.pop(operation.id, None)
        if operation.ended:
            self._running.pop(operation.id, None)
            project.running.pop(operation.id, None)
        else:
            self._running[operation.id] = operation
            self._running.move_to_end(operation.id)
            project.running[operation.id] = operation

    def _unpin(self, event: Event | None) -> None:
        if event is not None and event.id <= self._evicted:
            self._pinned -= len(event.frame) + OVERHEAD

    def _trim(self) -> None:
        horizon = (self.newest >> 64) - self._max_age_ms
        while self._forget_one(horizon) or self._evict_one(horizon):
            pass

    def _forget_one(self, horizon: int) -> bool:
        for quiet in self._quiet:
            if quiet and (
                len(quiet) > self._max_events
                or self._pinned > self._max_bytes // 2
                or next(iter(quiet.values())).newest >> 64 < horizon
            ):
                self._forget(quiet.popitem(last=False)[1])
                return True
        return False

    def _evict_one(self, horizon: int) -> bool:
        log = self._log
        over = len(log) > self._max_events or self.bytes > self._max_bytes
        if log and (over or log.first().id >> 64 < horizon):
            self._evict()
            return True
        return False

    def _evict(self) -> None:
        event = self._log.first()
        self._log.drop_first()
        operation, project = self._operations[event.operation], self._projects[event.project]
        operation.events.drop_first()
        project.events.drop_first()
        self._bytes -= len(event.frame) + OVERHEAD
        self._evicted = self.floor = event.id
        if event in (operation.started, operation.progress, operation.conflict, operation.outcome):
            self._pinned += len(event.frame) + OVERHEAD
        if not operation.events:
            self._quiet[not operation.ended][operation.id] = operation
        if not project.events and not project.running:
            del self._projects[project.id]

    def _forget(self, operation: Operation) -> None:
        for kept in operation.attempt():
            self._unpin(kept)
        del self._operations[operation.id]
        self._running.pop(operation.id, None)
        self._stalled.pop(operation.id, None)
        project = operation.project
        project.running.pop(operation.id, None)
        if not project.events and not project.running and self._projects.get(project.id) is project:
            del self._projects[project.id]
