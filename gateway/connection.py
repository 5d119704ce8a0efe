"""One SSE response from first byte to last: a protocol on the client's transport; no task, queue or timer of its own.

Takes the client's transport over (handshake.py), so that every frame is one `send` of shared bytes. Of what the socket
doesn't take, the rest of one frame waits in the transport, and until that is gone the client is lagging: nothing is
added to it. Never decides who may see what (auth.py), never chooses events (cursor.py), never formats a frame.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import cast

from gateway import frame
from gateway.cursor import Cursor, Mode, Slice, slice_of
from gateway.event import ZERO, EntryId, Event
from gateway.history import History
from gateway.hub import Item, Subscriber, stalled_advice
from gateway.scope import Scope, Sees, Wish
from gateway.terms import State, Terms
from gateway.topics import Topic
from gateway.wire import Wire, close_reason


class Connection(asyncio.Protocol):
    """A subscriber that writes to one client, the `opening` first. `on_close` is told why once the socket is gone."""

    __slots__ = (
        "_on_close", "_opening", "_reason", "_state", "_terms", "_topic", "_unconfirmed", "_wire", "cursor", "due",
        "scope", "send", "shares", "wish",
    )  # fmt: skip

    def __init__(
        self, terms: Terms, scope: Scope, sees: Sees | None, wish: Wish, opening: bytes, on_close: Callable[[str], None]
    ) -> None:
        self.scope = scope
        self.shares = wish.chunked and scope.single and sees is None
        self.due = 0
        self.cursor = Cursor(terms.hub.history, scope, sees, follow=wish.follow)
        self._terms = terms
        self.wish = wish
        self._opening = opening
        self._on_close = on_close
        self._wire = cast("Wire", None)  # until connection_made
        self._state = State.READING
        self._unconfirmed = wish.last_event_id is not None  # a replay that was not yet said to be complete
        self._topic: Topic[Subscriber] | None = None  # while it is live and shares: keeps its place
        self._reason = ""
        self.send: Callable[[bytes], int] = bytes.__len__  # until connection_made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        now, terms = time.monotonic(), self._terms
        self._wire = Wire(cast("asyncio.Transport", transport), self.wish.chunked, self._opening)
        self._opening = b""
        self.send = self._wire.send
        terms.hub.join(self, self._earlier(now + terms.heartbeat))
        self._wire.open()
        if self._wire.waiting_since(now) is not None:
            self.pause_writing()  # the transport may have told aiohttp, before an earlier response was flushed
        terms.hub.guarded(self, self._begin)

    def pause_writing(self) -> None:
        now = time.monotonic()
        self._wire.waiting_since(now)
        if self._state is State.LIVE:
            self.cursor.mode = Mode.LAGGING
        self._rest()
        if self._state is not State.OVER:
            self._terms.archive.leave(self)
            self._state = State.STUCK
        self._terms.hub.schedule(self, self._earlier(now + self._terms.slow_client_timeout))

    def resume_writing(self) -> None:
        self._wire.waiting_since(time.monotonic())
        if self._state is State.STUCK:
            self._state = State.READING
            if self._unconfirmed:
                self._vouch()
            self.pump()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wire.detach()
        self._reason = self._reason or close_reason(exc)
        self._stop(State.OVER)
        self._terms.hub.leave(self)
        self._on_close(self._reason)

    def unsent(self, items: Sequence[Item], frames: Sequence[bytes], taken: int | OSError) -> None:
        if isinstance(taken, OSError):
            self.abort(close_reason(taken))
        elif (handed := self._wire.rest(frames, taken)) < len(items):
            self._rest()  # it may have room again by now, and nothing waits: it is behind all the same
            self.cursor.gave(items[handed - 1])
            asyncio.get_running_loop().call_soon(self.pump)

    def wake(self, since: EntryId, later: float) -> None:
        self.settle()
        self.cursor.at = max(self.cursor.at, since)  # a quiet scope's own place may have aged out of the log
        if later:
            self._rest()
            asyncio.get_running_loop().call_later(later, self.pump)
        else:
            self.pump()

    def pump(self) -> None:
        """Writes what is after the cursor, a slice a turn, until the client lags or nothing is left: then is live."""
        cursor, reads = self.cursor, (State.READING, State.LIVE)
        if self._state not in reads:
            return
        if not cursor.covered():
            self._stop(State.AWAY)
            self._terms.archive.visit(self)
            return
        taken = cursor.take()
        last = not cursor.behind()
        whole = self._put(taken, last)
        if self._state not in reads:
            return
        if whole and last:
            self._go_live()
        else:
            self._rest()
            asyncio.get_running_loop().call_soon(self.pump)

    def restart(self, history: History, agreed: EntryId | None) -> None:
        if self._state is State.OVER:
            return
        self.settle()
        cursor, old = self.cursor, self.cursor.history
        until = old.newest if self._state is State.LIVE else cursor.at
        # A place that the old history didn't know is of another, perhaps of this one.
        lost = until <= old.newest and cursor.differs(history, agreed, until)
        if self._state is not State.STUCK:
            self._stop(State.READING)
        cursor.history, cursor.advised = history, 0
        if lost:
            self._gap(cursor.place, "reset", ZERO, history.oldest())
        elif until <= old.newest:
            cursor.at, self._unconfirmed = history.place(min(until, history.newest)), True
        self._vouch()
        self.pump()

    def missed(self, floor: EntryId) -> None:
        self.settle()
        if self._state is not State.OVER and self.cursor.at < floor:
            self.refuse("trimmed", None)

    def bring(self, events: Sequence[Event], upto: EntryId) -> None:
        cursor = self.cursor
        while events:
            self._put(cursor.accept(events))
            if self._state is not State.AWAY:
                return
            events = [event for event in events if event.id > cursor.at]
        cursor.at = upto
        if cursor.covered():
            self.found()

    def found(self) -> None:
        self._stop(State.READING)
        self.pump()

    def refuse(self, reason: str, oldest: EntryId | None) -> None:
        place = self.cursor.place
        known = [id for id in (oldest, self.cursor.history.oldest()) if id is not None]
        if self._state is not State.STUCK:
            self._stop(State.READING)
        self._gap(place, reason, place, min(known, default=None))
        self.pump()

    def timer(self, now: float) -> float:
        self.settle()
        if self.wish.expires is not None and now >= self.wish.expires:
            self.close("expired")
        if (since := self._wire.waiting_since(now)) is not None:
            due = since + self._terms.slow_client_timeout
            if now >= due:
                self.abort("slow")
        else:
            if now - self._wire.sent_at >= self._terms.heartbeat and self._state is not State.OVER:
                if self._state is State.LIVE:
                    self.cursor.catch_up()
                self._beat()
            due = self._wire.sent_at + self._terms.heartbeat
        return self._earlier(due)

    def close(self, reason: str) -> None:
        if self._state is State.OVER:
            return
        self.settle()
        reading = self._state is State.READING and self.cursor.covered() and not self.cursor.behind()
        if self._state is State.LIVE or reading:
            self.cursor.catch_up()
        self._beat()
        self._reason = reason
        self._stop(State.OVER)
        self._wire.end()

    def abort(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._wire.abort()

    def _begin(self) -> None:
        if self.cursor.begin(self.wish):
            self._vouch()
        else:
            self._gap(self.wish.last_event_id or "", "unknown", ZERO, self.cursor.history.oldest())
        self.pump()
        self._wire.flush()

    def _vouch(self) -> None:
        """Has Redis asked for a place that memory should know, and doesn't."""
        cursor, history = self.cursor, self.cursor.history
        if self._state is State.READING and cursor.at >= history.floor and not history.knows(cursor.at):
            self._state = State.AWAY
            self._terms.archive.visit(self)

    def _gap(self, place: EntryId | str, reason: str, after: EntryId, oldest: EntryId | None) -> None:
        """Tells that the stream can't go on from `place`, and begins it anew, with what ended later than `after`."""
        self._terms.hub.metrics.gaps[reason] += 1
        self._wire.write(frame.gap(place, reason, oldest))
        self._unconfirmed = False
        self.cursor.snapshot(ended=self.wish.ended, after=after)

    def _put(self, taken: Slice, last: bool = False) -> bool:
        """Writes a slice; behind the `last`, that the replay is complete. Whether the socket took all of it."""
        cursor, hub, events, tail = self.cursor, self._terms.hub, taken.events, b""
        items, handed = events or taken.advices, 0
        hub.metrics.skipped += taken.skipped
        if items:
            frames = taken.frames or [stalled_advice(each, time.monotonic()) for each in taken.advices]
            if last and self._unconfirmed and cursor.history is hub.history and not cursor.over():
                cursor.catch_up()
                tail = self._heartbeat()
            try:
                handed = self._wire.put(frames, taken.joined, tail)
            except OSError as error:
                self.abort(close_reason(error))
                return False
            if handed < len(items):
                cursor.gave(items[handed - 1])
            elif handed > len(items):
                self._unconfirmed = False
            given = taken if handed >= len(events) else slice_of(events[:handed])
            if cursor.mode is Mode.REPLAY:
                hub.metrics.replayed += len(given.events)
            if self._state is State.LIVE or cursor.mode is Mode.LAGGING:
                hub.count([(given.events, 1)], time.time())
            else:
                hub.count_replay(given.types)
        if taken.complete:
            self._beat()
        if cursor.over():
            self.close("terminal")
        return handed >= len(items)

    def _heartbeat(self) -> bytes:
        return frame.heartbeat(self.cursor.told, time.time(), self._terms.heartbeat)

    def _beat(self) -> None:
        self._wire.write(self._heartbeat())

    def _go_live(self) -> None:
        hub, cursor = self._terms.hub, self.cursor
        if self._state is State.LIVE or cursor.history is not hub.history:
            return  # in the second case `restart` comes
        if self._unconfirmed:
            self._unconfirmed = False
            cursor.catch_up()
            self._beat()
            if self._state is not State.READING:
                return
        cursor.mode, self._state = Mode.LIVE, State.LIVE
        self._topic = hub.live(self)

    def _earlier(self, due: float) -> float:
        return due if self.wish.expires is None else min(due, self.wish.expires)

    def settle(self) -> None:
        topic, cursor = self._topic, self.cursor
        if topic is not None:
            if topic.told > (cursor.told or ZERO):
                cursor.at = cursor.told = topic.told
            cursor.advised = max(cursor.advised, topic.advised)
            self._wire.sent_at = max(self._wire.sent_at, topic.sent_at)

    def _rest(self) -> None:
        if self._state is State.LIVE:
            self.settle()
            self._topic = None
            self._state = State.READING
            if not self.cursor.behind():
                self.cursor.at = max(self.cursor.at, self.cursor.history.newest)
            self._terms.hub.rest(self)

    def _stop(self, state: State) -> None:
        """Leaves whatever it is in for `state`."""
        self._rest()
        self._terms.archive.leave(self)
        self._state = state
