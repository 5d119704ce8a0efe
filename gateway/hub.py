"""Who listens to what: fan-out, heartbeats, deadlines, stalled advice, drain.

Owns the sets of subscribers and the one task that serves their timers. Never awaits while it publishes, never formats a
frame, never touches a socket: a subscriber writes for itself. A subscriber is in the topic tables only while it is live
(caught up and taking what it is given); one that replays or lags reads the history by itself and comes back.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from gateway import metrics as figures
from gateway.event import ZERO, EntryId, Event, format_id
from gateway.frame import advice
from gateway.history import History
from gateway.metrics import Metrics
from gateway.scope import Scope
from gateway.topic import Operation

TICK: Final = 0.1
"""Seconds between two looks at the timers."""
PER_TICK: Final = 500
"""Timers served in one turn, so that a crowd that connected at once can't hold the loop."""

_log = logging.getLogger(__name__)


class Subscriber(Protocol):
    """What the hub asks of a connection. None of these may await, or raise for a client that went away."""

    scope: Scope
    shares: bool  # gets every event of its single topic, so that it can be given shared bytes
    send: Callable[[bytes], int]  # socket.send of its non-blocking socket; wanted of one that shares, while it is live
    due: int  # the tick at which `timer` is wanted; the hub's own

    def unsent(self, frames: bytes, taken: int | OSError) -> None:
        """Its `send` took only so many bytes of `frames`, or failed: it sees to the rest."""

    def wake(self, since: EntryId) -> None:
        """There is something in scope after `since`: it reads that from the history and writes it."""

    def advise(self, operation: Operation) -> None:
        """Takes the advice that `operation` is stalled."""

    def timer(self, now: float) -> float:
        """Does what is due at `now` (seconds, time.monotonic); returns when it wants to be called next."""

    def restart(self) -> None:
        """Tells its client that the stream began anew, and takes a fresh snapshot."""

    def close(self, reason: str) -> None:
        """Ends the stream after what was written, with its last id told."""

    def abort(self, reason: str) -> None:
        """Ends it at once."""


class Topic:
    """The live subscribers of one topic: those that share bytes, and those that choose for themselves.

    Of those that share, the topic keeps the place, so that a delivery costs one `send` and nothing else: `told` is
    the id of the newest event that they were given, `sent_at` the time of that (seconds, time.monotonic).
    """

    __slots__ = ("choosing", "sent_at", "sharing", "told")

    def __init__(self) -> None:
        self.sharing: dict[Subscriber, Callable[[bytes], int]] = {}  # with its `send`
        self.choosing: dict[Subscriber, None] = {}
        self.told = ZERO
        self.sent_at = 0.0

    def __bool__(self) -> bool:
        return bool(self.sharing or self.choosing)


class Hub:
    """The meeting place of one reader and many subscribers."""

    def __init__(self, history: History, metrics: Metrics, stalled_after: float) -> None:
        self.history = history
        self.metrics = metrics
        self.subscribers: dict[Subscriber, None] = {}
        self._stalled_after = stalled_after
        self._everything = Topic()
        self._operations: dict[str, Topic] = {}
        self._projects: dict[str, Topic] = {}
        self._timers: dict[int, dict[Subscriber, None]] = {}  # by tick
        self._tick = int(time.monotonic() / TICK)

    def load(self, events: Sequence[Event], first: EntryId, newest: EntryId) -> None:
        """Appends a batch of what the stream held before anybody listened."""
        self.history.extend(events, first, newest, time.monotonic(), time.time())

    def publish(self, events: Sequence[Event], first: EntryId, newest: EntryId) -> None:
        """Appends a batch to the history and hands its frames to everybody who is live."""
        now, before = time.monotonic(), self.history.newest
        self.history.extend(events, first, newest, now, None)
        if not events or not self.subscribers:
            return
        groups: dict[Topic, list[Event]] = {}
        operations, projects, everything = self._operations, self._projects, self._everything
        for event in events:
            if (topic := operations.get(event.operation)) is not None:
                groups.setdefault(topic, []).append(event)
            if (topic := projects.get(event.project)) is not None:
                groups.setdefault(topic, []).append(event)
        if everything:
            groups[everything] = list(events)
        choosing: dict[Subscriber, None] = {}
        for listened, group in groups.items():
            if listened is operations.get(group[0].operation) and any(event.terminal for event in group):
                choosing |= dict.fromkeys(listened.sharing)  # the stream may end here: each sees for itself
            elif listened.sharing:
                self._share(listened, group, now)
            choosing |= listened.choosing
        for subscriber in choosing:
            self._guarded(subscriber, subscriber.wake, before)

    def _share(self, topic: Topic, events: list[Event], now: float) -> None:
        frames = events[0].frame if len(events) == 1 else b"".join([event.frame for event in events])
        topic.told, topic.sent_at = events[-1].id, now
        size, sends = len(frames), topic.sharing.values()
        unsent: dict[Callable[[bytes], int], int | OSError] = {}
        for send in sends:  # nothing else of a subscriber is touched: what isn't in the CPU's cache costs most here
            try:
                if (taken := send(frames)) != size:
                    unsent[send] = taken
            except BlockingIOError:
                unsent[send] = 0
            except OSError as error:
                unsent[send] = error
        self.count(events, len(sends), fresh=True)
        if unsent:
            for subscriber, send in list(topic.sharing.items()):  # who can't keep up leaves the topic
                if send in unsent:
                    self._guarded(subscriber, subscriber.unsent, frames, unsent[send])

    def _guarded(self, subscriber: Subscriber, call: Callable[..., None], *given: object) -> None:
        try:
            call(*given)
        except Exception:  # a bug, but one client's: it comes back by its Last-Event-ID, and nobody else notices
            _log.exception("a stream failed and is cut")
            subscriber.abort("error")

    def count(self, events: Iterable[Event], times: int, *, fresh: bool) -> None:
        """Counts frames handed to `times` sockets, and how late they were unless they are a replay's."""
        now_ms = time.time() * 1000
        for event in events:
            self.metrics.delivered[figures.type_label(event.type)] += times
            if fresh:
                self.metrics.observe_delivery((now_ms - (event.id >> 64)) / 1000, times)

    def join(self, subscriber: Subscriber, due: float) -> None:
        """Takes a new subscriber; it isn't live yet. `due` (seconds, time.monotonic) is its first timer."""
        self.subscribers[subscriber] = None
        self.schedule(subscriber, due)

    def leave(self, subscriber: Subscriber) -> None:
        """Forgets a subscriber wherever it is."""
        self.rest(subscriber)
        self._unschedule(subscriber)
        self.subscribers.pop(subscriber, None)

    def live(self, subscriber: Subscriber) -> Topic | None:
        """From now on `publish` writes to it. Only for one whose cursor is at the newest entry.

        For one that shares, returns the topic that keeps its place from here on.
        """
        topics = self._topics(subscriber.scope, create=True)
        if subscriber.shares:
            topics[0].sharing[subscriber] = subscriber.send
            return topics[0]
        for topic in topics:
            topic.choosing[subscriber] = None
        return None

    def rest(self, subscriber: Subscriber) -> None:
        """From now on `publish` leaves it alone: it reads the history by itself."""
        for topic in self._topics(subscriber.scope, create=False):
            topic.sharing.pop(subscriber, None)
            topic.choosing.pop(subscriber, None)
        for table, ids in (
            (self._operations, subscriber.scope.operations),
            (self._projects, subscriber.scope.projects),
        ):
            for id in ids:
                if id in table and not table[id]:
                    del table[id]

    def _topics(self, scope: Scope, *, create: bool) -> list[Topic]:
        if scope.everything:
            return [self._everything]
        found = []
        for table, ids in ((self._operations, scope.operations), (self._projects, scope.projects)):
            for id in ids:
                if create:
                    found.append(table.setdefault(id, Topic()))
                elif id in table:
                    found.append(table[id])
        return found

    def schedule(self, subscriber: Subscriber, due: float) -> None:
        """Calls the subscriber's `timer` at `due` (seconds, time.monotonic), in place of what was scheduled before."""
        self._unschedule(subscriber)
        subscriber.due = max(int(due / TICK) + 1, self._tick + 1)
        self._timers.setdefault(subscriber.due, {})[subscriber] = None

    def _unschedule(self, subscriber: Subscriber) -> None:
        if (bucket := self._timers.get(subscriber.due)) is not None:
            bucket.pop(subscriber, None)  # so that one that has gone is freed now, not when it would have been due

    def tick(self, now: float) -> None:
        """Serves the timers that are due, at most PER_TICK of them, and looks for operations that fell silent."""
        left = PER_TICK
        while self._tick < int(now / TICK) and left > 0:
            bucket = self._timers.pop(self._tick + 1, {})
            while bucket and left > 0:
                subscriber, _ = bucket.popitem()
                if subscriber in self.subscribers:
                    left -= 1
                    self.schedule(subscriber, max(subscriber.timer(now), now))
            if bucket:
                self._timers[self._tick + 1] = bucket
                break
            self._tick += 1
        if self._stalled_after:
            for operation in self.history.stall(now, self._stalled_after):
                self._advise(operation)

    def _advise(self, operation: Operation) -> None:
        topics = (self._operations.get(operation.id), self._projects.get(operation.project.id), self._everything)
        told: dict[Subscriber, None] = {}
        for topic in topics:
            if topic is not None:
                told |= dict.fromkeys(topic.sharing)
                told |= topic.choosing
        for subscriber in told:
            subscriber.advise(operation)

    async def run(self) -> None:
        """Serves the timers until cancelled."""
        while True:
            await asyncio.sleep(TICK)
            self.tick(time.monotonic())

    def restart(self) -> None:
        """The stream began anew, and the history holds what there is of it: tells everyone."""
        # The places that the topics keep are of the old stream; each subscriber comes back to a new one.
        self._everything, self._operations, self._projects = Topic(), {}, {}
        for subscriber in list(self.subscribers):
            subscriber.restart()

    async def drain(self, seconds: float) -> None:
        """Closes every stream, spread evenly over `seconds`; what hasn't flushed by then is cut."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        waiting = list(self.subscribers)
        random.shuffle(waiting)
        for number, subscriber in enumerate(waiting):
            await asyncio.sleep(began + seconds * number / len(waiting) - loop.time())
            if subscriber in self.subscribers:
                subscriber.close("drain")
        while self.subscribers and loop.time() < began + max(seconds, 1.0):
            await asyncio.sleep(TICK)
        for subscriber in list(self.subscribers):
            subscriber.abort("drain")


def stalled_advice(operation: Operation, now: float) -> bytes:
    """The frame that tells of an operation's silence, `now` in the clock of its `heard`."""
    return advice(
        "operation_stalled",
        operationId=operation.id,
        projectId=operation.project.id,
        lastEventId=format_id(operation.newest),
        silentFor=round(now - operation.heard, 1),
    )
