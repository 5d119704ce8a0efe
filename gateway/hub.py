"""Who listens to what: fan-out, heartbeats, deadlines, stalled advice, resets, drain.

Owns the sets of subscribers and the one task that serves their timers. Never awaits while it publishes, never formats a
frame, never touches a socket: a subscriber writes for itself. A subscriber is in the topic tables only while it is live
(caught up and taking what it is given); one that replays or lags reads the history by itself and comes back.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from gateway import frame
from gateway.cursor import Cursor
from gateway.event import EntryId, Event, format_id
from gateway.history import History
from gateway.metrics import Metrics, type_label
from gateway.operations import Advice
from gateway.scope import Wish
from gateway.silence import TICK
from gateway.topics import Live, Topic, Topics

PER_TURN: Final = 500
"""Timers, resets or advice served in one turn, so that a crowd can't hold the loop."""

WAKES: Final = 200
WAIT: Final = 0.002
"""Of those who choose for themselves, so many are woken at once, the next so many seconds later."""

_log = logging.getLogger(__name__)
Item = Event | Advice
"""What a subscriber is handed: a frame is made of it, and it moves the cursor."""


class Subscriber(Live, Protocol):
    """What the hub asks of a connection. None of these may await, or raise for a client that went away."""

    cursor: Cursor
    wish: Wish
    due: int  # the tick at which `timer` is wanted; the hub's own

    def unsent(self, items: Sequence[Item], frames: Sequence[bytes], taken: int | OSError) -> None:
        """Its `send` took only so many bytes of `frames`, or failed: it sees to the rest."""

    def wake(self, since: EntryId, later: float) -> None:
        """There is something in scope after `since`: it reads that from the history and writes it, now or that many
        seconds `later`.
        """

    def settle(self) -> None:
        """Brings its cursor to where it is: while it shares, its topic keeps its place."""

    def timer(self, now: float) -> float:
        """Does what is due at `now` (seconds, time.monotonic); returns when it wants to be called next."""

    def restart(self, history: History, agreed: EntryId | None) -> None:
        """The stream began anew, and `history` is what there is of it, the same as before up to `agreed`: goes on from
        there, or tells its client.
        """

    def missed(self, floor: EntryId) -> None:
        """Entries up to `floor` will never be read: tells its client where it is not beyond them."""

    def close(self, reason: str) -> None:
        """Ends the stream after what was written, with its last id told."""

    def abort(self, reason: str) -> None:
        """Ends it at once."""


class Hub:
    """The meeting place of one reader and many subscribers."""

    def __init__(self, history: History, metrics: Metrics) -> None:
        self.history = history
        self.metrics = metrics
        self.subscribers: dict[Subscriber, None] = {}
        self._topics: Topics[Subscriber] = Topics()
        self._timers: dict[int, dict[Subscriber, None]] = {}  # by tick
        self._tick = int(time.monotonic() / TICK)

    def publish(self, events: Sequence[Event], newest: EntryId) -> None:
        """Hands the frames of events that the history has taken to everybody who is live; entries up to `newest` were
        read.
        """
        history, before = self.history, self.history.newest
        history.newest = newest
        if events and self.subscribers:
            self._fan_out(events, [event.frame for event in events], before)
        history.trim(time.time())

    def _fan_out(self, items: Sequence[Item], frames: Sequence[bytes], before: EntryId) -> None:
        groups: dict[Topic[Subscriber], tuple[list[Item], list[bytes]]] = {}
        ended: set[Topic[Subscriber] | None] = set()
        topics = self._topics
        operations, projects = topics.operations, topics.projects
        for item, made in zip(items, frames, strict=True):
            key = item.key
            single = operations.get(key), operations.get(key[1])
            for topic in (*single, projects.get(key[0])):
                if topic is None:
                    continue
                if topic in groups:
                    groups[topic][0].append(item)
                    groups[topic][1].append(made)
                else:
                    groups[topic] = [item], [made]
            if item.terminal:
                ended.update(single)
        if topics.everything:
            groups[topics.everything] = list(items), list(frames)
        choosing: dict[Subscriber, None] = {}
        shared: list[tuple[list[Item], int]] = []
        now = time.monotonic()
        for listened, group in groups.items():
            if listened in ended:
                choosing |= dict.fromkeys(listened.sharing)  # the stream may end here: each sees for itself
            elif listened.sharing:
                shared.append((group[0], len(listened.sharing)))
                self._share(listened, *group, now)
            choosing |= listened.choosing
        if isinstance(items[0], Event):
            self.count(shared, time.time())  # type: ignore[arg-type]  # all are of one kind
        for number, subscriber in enumerate(choosing):
            self.guarded(subscriber, subscriber.wake, before, number // WAKES * WAIT)

    def _share(self, topic: Topic[Subscriber], items: Sequence[Item], frames: Sequence[bytes], now: float) -> None:
        joined = frames[0] if len(frames) == 1 else b"".join(frames)
        last, topic.sent_at = items[-1], now
        if isinstance(last, Event):
            topic.told = last.id
        else:
            topic.advised = last.number
        size = len(joined)
        unsent: dict[Callable[[bytes], int], int | OSError] = {}
        for send in topic.sharing.values():  # nothing else of a subscriber is touched: it isn't in the CPU's cache
            try:
                if (taken := send(joined)) != size:
                    unsent[send] = taken
            except BlockingIOError:
                unsent[send] = 0
            except OSError as error:
                unsent[send] = error
        if unsent:
            for subscriber, send in list(topic.sharing.items()):  # who can't keep up leaves the topic
                if send in unsent:
                    self.guarded(subscriber, subscriber.unsent, items, frames, unsent[send])

    def guarded(self, subscriber: Subscriber, call: Callable[..., None], *given: object) -> None:
        """Calls a method of a subscriber's, which is cut where that fails."""
        try:
            call(*given)
        except Exception:  # a bug, but one client's: it comes back by its Last-Event-ID, and nobody else notices
            _log.exception("a stream failed and is cut")
            subscriber.abort("error")

    def count(self, groups: Iterable[tuple[Iterable[Event], int]], now: float) -> None:
        """Counts frames handed to so many sockets, group by group, and how late they were at `now` (epoch seconds)."""
        delivered, observe = self.metrics.delivered, self.metrics.observe_delivery
        for events, times in groups:
            for event in events:
                delivered[type_label(event.type)] += times
                observe(now - (event.id >> 64) / 1000, times)

    def count_replay(self, types: Mapping[str, int]) -> None:
        """Counts frames handed to one socket, so many of each type, that were not late, but asked for late."""
        for type, times in types.items():
            self.metrics.delivered[type_label(type)] += times

    def join(self, subscriber: Subscriber, due: float) -> None:
        """Takes a new subscriber; it isn't live yet. `due` (seconds, time.monotonic) is its first timer."""
        self.subscribers[subscriber] = None
        self.schedule(subscriber, due)

    def leave(self, subscriber: Subscriber) -> None:
        """Forgets a subscriber wherever it is."""
        self.rest(subscriber)
        self._unschedule(subscriber)
        self.subscribers.pop(subscriber, None)

    def live(self, subscriber: Subscriber) -> Topic[Subscriber] | None:
        """From now on `publish` writes to it. Only for one whose cursor is at the newest entry.

        For one that shares, returns the topic that keeps its place from here on.
        """
        return self._topics.add(subscriber)

    def rest(self, subscriber: Subscriber) -> None:
        """From now on `publish` leaves it alone: it reads the history by itself."""
        self._topics.remove(subscriber)

    def schedule(self, subscriber: Subscriber, due: float) -> None:
        """Calls the subscriber's `timer` at `due` (seconds, time.monotonic), in place of what was scheduled before."""
        self._unschedule(subscriber)
        subscriber.due = max(int(due / TICK) + 1, self._tick + 1)
        self._timers.setdefault(subscriber.due, {})[subscriber] = None

    def _unschedule(self, subscriber: Subscriber) -> None:
        if (bucket := self._timers.get(subscriber.due)) is not None:
            bucket.pop(subscriber, None)  # so that one that has gone is freed now, not when it would have been due

    def tick(self, now: float) -> None:
        """Serves the timers that are due, at most PER_TURN of them, and looks for operations that fell silent."""
        left = PER_TURN
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
        self.history.trim(time.time())  # what one turn left
        if self.history.stalled_after:
            advices = self.history.operations.silence.find(now, self.history.stalled_after, PER_TURN)
            if advices and self.subscribers:
                self._fan_out(advices, [stalled_advice(each, now) for each in advices], self.history.newest)

    async def run(self) -> None:
        """Serves the timers until cancelled."""
        while True:
            await asyncio.sleep(TICK)
            self.tick(time.monotonic())

    async def replace(self, history: History) -> None:
        """The stream began anew, and `history` holds what there is of it: tells everyone who lost something by that."""
        # The places that the topics keep are of the old stream; each subscriber comes back to a new one.
        old, self.history = self.history, history
        self._topics = Topics()
        agreed = old.agrees(history)
        for number, subscriber in enumerate(list(self.subscribers), 1):
            if subscriber in self.subscribers and subscriber.cursor.history is old:
                self.guarded(subscriber, subscriber.restart, history, agreed)
            if number % PER_TURN == 0:
                await asyncio.sleep(0)

    async def cut(self, floor: EntryId) -> None:
        """Entries up to `floor` were trimmed before they could be read: tells everyone."""
        self.history.cut(floor)
        self._topics = Topics()
        for number, subscriber in enumerate(list(self.subscribers), 1):
            if subscriber in self.subscribers:
                self.guarded(subscriber, subscriber.missed, floor)
            if number % PER_TURN == 0:
                await asyncio.sleep(0)

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


def stalled_advice(advice: Advice, now: float) -> bytes:
    """The frame that tells of an operation's silence, `now` in the clock of its `heard`."""
    operation = advice.operation
    return frame.advice(
        "operation_stalled",
        operationId=operation.key[1],
        projectId=operation.key[0],
        lastEventId=format_id(operation.newest),
        silentFor=round(now - operation.heard, 1),
    )
