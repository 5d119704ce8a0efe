"""One SSE response from first byte to last: a protocol on the client's transport; no task, queue or timer of its own.

Takes the client's transport over (handshake.py), so that every frame is one `send` of shared bytes. What the socket
doesn't take waits in the transport, and until that is gone the client is lagging: nothing is added to it. Never decides
who may see what (auth.py gives the grant), never chooses events (cursor.py), never formats a frame.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, cast

from gateway import frame, schema
from gateway.cursor import Cursor, Slice
from gateway.event import ZERO, EntryId, format_id, parse_id
from gateway.hub import TICK, Hub, Topic, stalled_advice
from gateway.pager import Pager
from gateway.scope import Scope
from gateway.topic import Operation
from gateway.wire import Wire, close_reason

EARLIEST: Final = "earliest"


@dataclass(frozen=True, slots=True)
class Terms:
    """What all connections share. Times in seconds."""

    hub: Hub
    pager: Pager
    heartbeat: float
    slow_client_timeout: float


class Connection(asyncio.Protocol):
    """A subscriber that writes to one client.

    `last_event_id` is the request's word, `retry_ms` is told to the browser, `expires` (time.monotonic seconds) ends
    the stream, `chunked` is false for HTTP/1.0. `on_close` is called once, with the reason, when the socket is gone.
    """

    __slots__ = (
        "_chunked", "_cursor", "_expires", "_from", "_live", "_on_close", "_paused", "_reason", "_rested_at",
        "_retry_ms", "_sees", "_task", "_terms", "_topic", "_wire", "_writable", "due", "scope", "send", "shares",
    )  # fmt: skip

    def __init__(
        self,
        terms: Terms,
        scope: Scope,
        sees: Callable[[str, str], bool] | None,
        *,
        last_event_id: str | None,
        follow: bool,
        chunked: bool,
        retry_ms: int,
        expires: float | None,
        on_close: Callable[[str], None],
    ) -> None:
        self.scope = scope
        self.shares = chunked and scope.single and sees is None
        self.due = 0
        self._terms = terms
        self._sees = sees
        self._from = last_event_id
        self._cursor = Cursor(terms.hub.history, scope, sees, follow=follow)
        self._chunked = chunked
        self._retry_ms = retry_ms
        self._expires = expires
        self._on_close = on_close
        self._wire: Wire = cast("Wire", None)  # until connection_made
        self._live = self._paused = False
        self._rested_at = 0.0
        self._topic: Topic | None = None  # while it is live and shares: keeps its place
        self._reason = ""
        self._task: asyncio.Task[None] | None = None  # reads what memory doesn't hold; nothing is written beside it
        self._writable: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        now = time.monotonic()
        self._wire = Wire(cast("asyncio.Transport", transport), self._chunked)
        self.send: Callable[[bytes], int] = self._wire.send
        self._terms.hub.join(self, self._earlier(now + self._terms.heartbeat))
        self._wire.open()
        if self._wire.waiting_since(now) is not None:
            self.pause_writing()  # the transport may have told aiohttp, before an earlier response was flushed
        self._wire.write(frame.retry(self._retry_ms))
        self._open()
        self.pump()

    def data_received(self, data: bytes) -> None:
        """What a client sends after its request means nothing to an event stream."""

    def pause_writing(self) -> None:
        self._paused, now = True, time.monotonic()
        self._wire.waiting_since(now)
        if self._live:
            self._rest()
            self._cursor.lagging = True
        self._terms.hub.schedule(self, self._earlier(now + self._terms.slow_client_timeout))

    def resume_writing(self) -> None:
        self._paused = False
        self._wire.waiting_since(time.monotonic())
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self.pump()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wire.detach()
        self._reason = self._reason or close_reason(exc)
        self._stop()
        self._terms.hub.leave(self)
        self._on_close(self._reason)

    def unsent(self, frames: bytes, taken: int | OSError) -> None:
        if isinstance(taken, OSError):
            self.abort(close_reason(taken))
        else:
            self._wire.write(frames[taken:])

    def wake(self, since: EntryId) -> None:
        self._settle()
        self._cursor.at = max(self._cursor.at, since)  # a quiet scope's own place may have aged out of the log
        self.pump()

    def pump(self) -> None:
        """Writes what is after the cursor, a slice a turn, until the client lags or nothing is left: then is live."""
        if self._paused or self._task is not None or self._reason:
            return
        cursor = self._cursor
        if not cursor.covered():
            self._rest()
            self._begin(self._read_pages())
        elif cursor.behind():
            self._put(cursor.take())
            if not self._paused and not self._reason:
                if cursor.behind():
                    self._rest()
                    asyncio.get_running_loop().call_soon(self.pump)
                else:
                    self._go_live()
        else:
            self._go_live()

    def advise(self, operation: Operation) -> None:
        if self._sees is None or self._sees(operation.id, operation.project.id):
            self._wire.write(stalled_advice(operation, time.monotonic()))

    def restart(self) -> None:
        if not self._reason:
            self._stop()
            self._gap(format_id(self._cursor.told), "reset", self._terms.hub.history.oldest())
            self.pump()

    def timer(self, now: float) -> float:
        self._settle()
        if self._expires is not None and now >= self._expires:
            self.close("expired")
        if (since := self._wire.waiting_since(now)) is not None:
            due = since + self._terms.slow_client_timeout
            if now >= due:
                self.abort("slow")
        else:
            if now - self._wire.sent_at >= self._terms.heartbeat and not self._reason:
                newer = self._live and self._terms.hub.history.newest > self._cursor.told
                self._wire.write(frame.place(self._cursor.catch_up()) if newer else frame.COMMENT)
            due = self._wire.sent_at + self._terms.heartbeat
        return self._earlier(due)

    def close(self, reason: str) -> None:
        if self._reason:
            return
        self._settle()
        cursor = self._cursor
        if self._live or (self._task is None and cursor.covered() and not cursor.behind()):
            cursor.catch_up()
        self._wire.write(frame.place(cursor.told))
        self._reason = reason
        self._stop()
        self._wire.end()

    def abort(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._wire.abort()

    def _open(self) -> None:
        history, cursor = self._terms.hub.history, self._cursor
        if self._from is None:
            cursor.snapshot()
        elif self._from == EARLIEST:
            cursor.replay(history.floor if history.whole else ZERO)
        elif (id := parse_id(self._from)) is None:
            self._gap(self._from, "unknown", history.oldest())
        else:
            cursor.replay(id)
            if id > history.newest:
                self._begin(self._await_id(id))

    def _gap(self, last_event_id: str, reason: str, oldest: EntryId | None) -> None:
        """Tells that the stream can't go on from `last_event_id`, and begins it anew."""
        self._terms.hub.metrics.gaps[reason] += 1
        said = last_event_id[: schema.ID_MAX_LENGTH].encode("utf-8", "replace").decode()
        oldest_id = None if oldest is None else format_id(oldest)
        self._wire.write(frame.advice("replay_gap", lastEventId=said, oldestId=oldest_id, reason=reason))
        self._cursor.snapshot()

    def _put(self, taken: Slice) -> None:
        cursor, hub = self._cursor, self._terms.hub
        events = taken.events
        hub.metrics.skipped += taken.skipped
        if cursor.replaying:
            hub.metrics.replayed += len(events)
        if events:
            self._wire.write(b"".join([event.frame for event in events]))
            hub.count(events, 1, fresh=self._live or cursor.lagging)
        if taken.place:
            self._wire.write(frame.place(cursor.told))
        if taken.over:
            self.close("terminal")

    def _go_live(self) -> None:
        if not self._live:
            hub = self._terms.hub
            self._cursor.replaying = self._cursor.lagging = False
            self._live = True
            self._topic = hub.live(self)
            for operation in hub.history.stalled(self.scope, self._rested_at):
                self.advise(operation)

    def _earlier(self, due: float) -> float:
        return due if self._expires is None else min(due, self._expires)

    def _settle(self) -> None:
        """Takes over the place that the topic kept."""
        if self._topic is not None and self._topic.told > self._cursor.told:
            self._cursor.at = self._cursor.told = self._topic.told
            self._wire.sent_at = max(self._wire.sent_at, self._topic.sent_at)

    def _rest(self) -> None:
        if self._live:
            self._settle()
            self._topic = None
            self._live = False
            self._rested_at = time.monotonic()
            if not self._cursor.behind():
                self._cursor.at = max(self._cursor.at, self._terms.hub.history.newest)
            self._terms.hub.rest(self)

    def _begin(self, reading: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.get_running_loop().create_task(reading)
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if task is self._task:
            self._task = None
            if task.exception() is not None:
                self.abort("error")
                task.result()  # raises into the loop's exception handler, which logs it: a bug
            self.pump()

    def _stop(self) -> None:
        self._rest()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    async def _await_id(self, id: EntryId) -> None:
        """An id that is newer than all that was read: either another replica has read further, or nobody knows it."""
        history = self._terms.hub.history
        if id > await self._terms.pager.end():
            self._gap(format_id(id), "unknown", history.oldest())
        else:
            while id > history.newest:
                await asyncio.sleep(TICK / 5)

    async def _read_pages(self) -> None:
        """Follows the cursor through Redis until memory covers it again."""
        history, cursor = self._terms.hub.history, self._cursor
        while not cursor.covered():
            page = await self._terms.pager.page(cursor.at)
            earliest = self._from == EARLIEST and not cursor.at
            if not earliest and (page.oldest is None or cursor.at < page.oldest):
                known = [id for id in (page.oldest, history.oldest()) if id is not None]
                self._gap(format_id(cursor.at), "trimmed", min(known, default=None))
                return
            events = [event for event in page.events if event in self.scope]
            while events:
                self._put(cursor.accept(events))
                if self._reason:
                    return
                events = [event for event in events if event.id > cursor.at]
                if self._paused:
                    self._writable = asyncio.get_running_loop().create_future()
                    await self._writable
            # At Redis's end memory goes on: from its own oldest event, should that be later than all that Redis holds.
            cursor.at = page.last or max(cursor.at, history.floor)
