"""What every operation came to: its attempt, whether it runs, ended or fell silent; and whose it is.

An operation is the pair of its project and its id. Plain methods for one thread; never decides how much is kept
(history.py), never reads a clock (times come as parameters, in seconds), knows nothing of who listens.
"""

from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import chain, takewhile
from operator import attrgetter
from sys import getsizeof
from typing import Final

from gateway import schema, silence
from gateway.event import ZERO, EntryId, Event, Key
from gateway.log import Log, Swept
from gateway.scope import Scope
from gateway.shaping import Track
from gateway.silence import Heard, Silence

OPERATION: Final = 1600
PROJECT: Final = 1200
"""Bytes that one costs beside its ids and events: objects, indexes (tests/bench measures)."""
ENDED_MOST: Final = 1000
"""Ended operations told of at most."""

FEW: Final = 1000
"""Operations that are looked at one by one, to find who is silent."""

_id = attrgetter("id")


class Operation(Heard):
    """One operation: its events in the log, and what its current attempt came to. `newest` is its last event's id,
    `number` its own from 1.
    """

    __slots__ = (
        "conflict", "ended", "events", "key", "newest", "number", "outcome", "progress", "project", "size", "started",
        "track",
    )  # fmt: skip

    def __init__(self, key: Key, project: "Project", number: int) -> None:
        super().__init__()
        self.key = key
        self.number = number
        self.project = project
        self.events = Log()
        self.track = Track()
        self.started: Event | None = None
        self.progress: Event | None = None
        self.conflict: Event | None = None
        self.outcome: Event | None = None
        self.ended = False
        self.newest = ZERO
        self.size = 0  # bytes counted for it

    def attempt(self) -> list[Event]:
        """The `started`, newest `progress`, newest `conflict` and outcome of the current attempt, in stream order."""
        kept = (self.started, self.progress, self.conflict, self.outcome)
        return sorted((event for event in kept if event is not None), key=_id)

    @property
    def end(self) -> EntryId:
        """The id of the event that ended it, ZERO while it runs."""
        return self.outcome.id if self.ended and self.outcome is not None else ZERO


def _text(id: str) -> int:
    """Bytes of an id. Python keeps its UTF-8 form beside it from when that is first asked for (Include/cpython/
    unicodeobject.h): that counts from the start, or what is taken off were more than was put on.
    """
    return getsizeof("") + len(id) if id.isascii() else 80 + 8 * len(id)


def _currents() -> Swept[Event]:
    return Swept(_id, attrgetter("current"))


Advice = silence.Advice[Operation]


class Project:
    """One project: its events in the log, its operations that run and those that ended, in that order."""

    __slots__ = ("currents", "ended", "events", "id", "newest", "running", "size")

    def __init__(self, id: str) -> None:
        self.id = id
        self.events = Log()
        self.newest = ZERO
        self.size = 0  # operations known
        self.running: dict[Key, Operation] = {}
        self.ended: dict[Key, Operation] = {}
        self.currents = _currents()


class Operations:
    """All operations that are known, by pair, by bare id and by project. `bytes` is what they cost without events."""

    def __init__(self) -> None:
        self.bytes = 0
        self._made = 0
        self.running: dict[Key, Operation] = {}
        self.ended: dict[Key, Operation] = {}
        self._table: dict[Key, Operation] = {}
        self._named: dict[str, dict[Key, Operation]] = {}
        self._projects: dict[str, Project] = {}
        self._currents = _currents()
        self.silence: Silence[Operation] = Silence()

    def get(self, key: Key) -> Operation | None:
        return self._table.get(key)

    def project(self, id: str) -> Project | None:
        return self._projects.get(id)

    def called(self, name: str | Key) -> Iterable[Operation]:
        """The operations of a bare id, or that of a pair."""
        if isinstance(name, str):
            return self._named.get(name, {}).values()
        operation = self._table.get(name)
        return () if operation is None else (operation,)

    def of(self, key: Key) -> Operation:
        """The operation of this pair, made where it is not known yet."""
        operation = self._table.get(key)
        if operation is None:
            project = self._projects.get(key[0])
            if project is None:
                project = self._projects[key[0]] = Project(key[0])
                self.bytes += PROJECT + _text(project.id)
            key = (project.id, key[1])
            self._made += 1
            operation = self._table[key] = Operation(key, project, self._made)
            self._named.setdefault(key[1], {})[key] = operation
            project.size += 1
            self.weigh(operation)
            self._run(operation)
        return operation

    def weigh(self, operation: Operation) -> None:
        """Counts its bytes anew: what shaping remembers of it may have grown."""
        size = OPERATION + _text(operation.key[1]) + operation.track.bytes
        self.bytes += size - operation.size
        operation.size = size

    def restart(self) -> None:
        """Entries are missing: what shaping remembers of before them may be wrong."""
        for operation in self._table.values():
            operation.track = Track()
            self.weigh(operation)

    def note(self, operation: Operation, event: Event) -> list[Event]:
        """Takes an event into the operation's attempt. Returns those that are in no attempt any more."""
        type, left = event.type, []
        operation.newest = operation.project.newest = event.id
        if type == schema.STARTED:
            left = operation.attempt()
            operation.progress = operation.conflict = operation.outcome = None
            operation.started = event
            if operation.ended:
                self._run(operation)
        elif operation.ended:
            return left  # a straggler after the end belongs to no attempt
        elif type == schema.PROGRESS:
            left, operation.progress = [operation.progress], event  # type: ignore[list-item]
        elif type == schema.CONFLICT:
            left, operation.conflict = [operation.conflict], event  # type: ignore[list-item]
        elif type in (schema.COMPLETED, schema.FAILED):
            left, operation.outcome = [operation.outcome], event  # type: ignore[list-item]
        else:
            return left
        event.current = True
        self._currents.append(event)
        operation.project.currents.append(event)
        left = [each for each in left if each is not None]
        for each in left:
            self._unlist(operation, each)
        if event.terminal:
            self._end(operation)
        return left

    def forget(self, operation: Operation) -> None:
        """It was never heard of."""
        key, project = operation.key, operation.project
        for event in operation.attempt():
            self._unlist(operation, event)
        self._rest(operation)
        self.ended.pop(key, None)
        project.ended.pop(key, None)
        self.bytes -= operation.size
        del self._table[key]
        named = self._named[key[1]]
        del named[key]
        if not named:
            del self._named[key[1]]
        project.size -= 1
        if not project.size:
            self.bytes -= PROJECT + _text(project.id)
            del self._projects[project.id]

    def advices(self, scope: Scope, number: int) -> Iterator[Advice]:
        """The advice that still holds and comes after that of this number, on operations in scope, in order."""
        known = self.silence
        if not known.stalled or number >= known.newest:
            return iter(())
        if scope.size:
            running = [self._projects[id].running for id in scope.projects if id in self._projects]
            if sum(map(len, running)) <= FEW:
                named = chain.from_iterable(map(self.called, scope.named()))
                return known.among(chain(named, *(each.values() for each in running)), number)
        return (each for each in known.follow(number) if each in scope)

    def snapshot(self, scope: Scope, place: EntryId, until: EntryId, since: EntryId | None) -> Iterator[Event]:
        """In stream order, after `place` and up to `until`: what the attempts in scope came to of operations that run,
        or that ended after `since` (None: not of those); a single operation's even so.
        """
        if not scope.size:
            sources = [self._currents.follow(place)]
        else:
            projects = (self._projects.get(id) for id in scope.projects)
            sources = [project.currents.follow(place) for project in projects if project is not None]
        more: list[Event] = []
        for operation in chain.from_iterable(map(self.called, scope.named())):
            if not operation.ended or scope.kind == "operation":
                more += operation.attempt()
        if since is not None:
            for operation in takewhile(lambda each: each.end > since, self.ends(scope)):
                more += operation.attempt()
        last = place
        for event in merge(*sources, sorted(more, key=_id), key=_id):
            if event.id > until:
                return
            if event.id > last:  # nor twice what is named twice
                last = event.id
                yield event

    def ends(self, scope: Scope) -> Iterator[Operation]:
        """The operations in scope that ended, the last first."""
        if not scope.size:
            yield from reversed(self.ended.values())
            return
        projects = (self._projects.get(id) for id in scope.projects)
        sources: list[Iterable[Operation]] = [reversed(each.ended.values()) for each in projects if each is not None]
        named = chain.from_iterable(map(self.called, scope.named()))
        sources.append(sorted((each for each in named if each.ended), key=attrgetter("end"), reverse=True))
        last = None
        for operation in merge(*sources, key=attrgetter("end"), reverse=True):
            if operation is not last:  # nor twice what is named twice
                last = operation
                yield operation

    def _run(self, operation: Operation) -> None:
        key, project = operation.key, operation.project
        operation.ended = False
        self.ended.pop(key, None)
        project.ended.pop(key, None)
        self.running[key] = project.running[key] = operation

    def _end(self, operation: Operation) -> None:
        for event in operation.attempt():
            self._unlist(operation, event)
        self._rest(operation)
        operation.ended = True
        self.ended[operation.key] = operation.project.ended[operation.key] = operation

    def _rest(self, operation: Operation) -> None:
        """It runs no more."""
        self.running.pop(operation.key, None)
        operation.project.running.pop(operation.key, None)
        self.silence.leave(operation)

    def _unlist(self, operation: Operation, event: Event) -> None:
        if event.current:
            event.current = False
            self._currents.died()
            operation.project.currents.died()
