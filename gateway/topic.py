"""What is kept of one topic: its events in the log; of an operation its attempt, of a project who is running.

Plain records and one container. Never decides what is kept (history.py).
"""

from bisect import bisect_right
from operator import attrgetter

from gateway.event import ZERO, EntryId, Event

_id = attrgetter("id")


class Log:
    """Events in stream order, appended at the end, dropped from the front."""

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

    def after(self, cursor: EntryId, limit: int) -> list[Event]:
        """The first `limit` events later than `cursor`."""
        if not self or self._events[-1].id <= cursor:
            return []
        start = bisect_right(self._events, cursor, lo=self._head, key=_id)
        return self._events[start : start + limit]


class Operation:
    """One operation: its events in the log, and what its current attempt came to.

    `newest` is its last event's id, `heard` the time of that (seconds, the caller's clock), `stalled_at` the time when
    it was found silent, or None.
    """

    __slots__ = (
        "conflict",
        "ended",
        "events",
        "heard",
        "id",
        "newest",
        "outcome",
        "progress",
        "project",
        "stalled_at",
        "started",
    )

    def __init__(self, id: str, project: "Project") -> None:
        self.id = id
        self.project = project
        self.events = Log()
        self.started: Event | None = None
        self.progress: Event | None = None
        self.conflict: Event | None = None
        self.outcome: Event | None = None
        self.ended = False
        self.newest = ZERO
        self.heard = 0.0
        self.stalled_at: float | None = None

    def attempt(self) -> list[Event]:
        """The `started`, newest `progress`, newest `conflict` and outcome of the current attempt, in stream order."""
        kept = (self.started, self.progress, self.conflict, self.outcome)
        return sorted((event for event in kept if event is not None), key=_id)


class Project:
    """One project: its events in the log, and its operations that have not ended."""

    __slots__ = ("events", "id", "running")

    def __init__(self, id: str) -> None:
        self.id = id
        self.events = Log()
        self.running: dict[str, Operation] = {}
