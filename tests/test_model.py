"""History, hub and connection against a model of a few lines: whatever happens in whatever order, a listener gets the
stream, or is told. Publishes, subscribes, stalls, drains, trims and resets are drawn by hypothesis.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from gateway.connection import Connection, Terms
from gateway.event import ZERO, EntryId, Event, decode, format_id, parse_id
from gateway.history import History
from gateway.hub import Hub
from gateway.metrics import Metrics
from gateway.pager import Page
from gateway.scope import Scope
from tests.eventsource import Message, Parser
from tests.strategies import events, framed
from tests.test_cursor import SCOPES

KEPT = 12
"""Events in memory, as many as are published at once at most: few, so that cursors fall off its tail."""
ROOM = 300
"""Bytes that a client's socket takes while nobody reads: a frame fits, or two."""


def snapshot(stream: list[Event], scope: Scope) -> list[Event]:
    """The model: what a newcomer has to be told of a stream that it missed."""
    attempts: dict[str, dict[str, Event]] = {}
    for event in stream:
        attempt = attempts.setdefault(event.operation, {})
        if event.type.endswith("started"):
            attempt.clear()
        if not ("end" in attempt and attempt["end"].terminal):
            attempt["end" if event.type.endswith(("completed", "failed")) else event.type] = event
    shown = [event for attempt in attempts.values() for event in attempt.values() if event in scope]
    ended = {event.operation for event in shown if event is attempts[event.operation].get("end") and event.terminal}
    return sorted((e for e in shown if scope.kind == "operation" or e.operation not in ended), key=lambda e: e.id)


class Client(asyncio.Transport):
    """The far end of one connection: its socket, whose client may stop reading, the transport above it, and the
    EventSource behind it.
    """

    def __init__(self, machine: "Gateway", scope: Scope, last_event_id: str | None) -> None:
        super().__init__()
        self.scope = scope
        # The place after which everything is owed. What memory holds beyond Redis may come as well.
        self.begin = format_id(machine.before_held()) if last_event_id == "earliest" else last_event_id
        self.epoch = len(machine.streams) - 1
        self.parser = Parser()
        self.told: list[Message | str] = []  # messages, and the ids of blocks without one
        self.unread = b""  # in the socket
        self.waiting = b""  # in the transport
        self.stalled = self.ever_stalled = self.closed = self.lost = self.detached = False
        self.connection = Connection(
            machine.terms, scope, None, last_event_id=last_event_id, follow=False, chunked=True, retry_ms=3000,
            expires=None, on_close=lambda reason: None,
        )  # fmt: skip
        self.connection.connection_made(self)

    def send(self, data: bytes) -> int:
        """As that of a non-blocking socket."""
        assert not self.waiting, "overtakes what waits"
        assert not self.closed, "written to after its end"
        taken = min(len(data), ROOM - len(self.unread)) if self.stalled else len(data)
        if not taken:
            raise BlockingIOError
        self.unread += data[:taken]
        if not self.stalled:
            self._read()
        return taken

    def detach(self) -> None:
        self.detached = True

    def write(self, data: Any) -> None:
        with suppress(BlockingIOError):
            data = data[0 if self.waiting else self.send(data) :]
        self.waiting += data
        if self.waiting and not self.connection._paused:
            self.connection.pause_writing()

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True
        if not self.stalled:
            self.lose()

    def abort(self) -> None:
        self.closed = True
        self.waiting = b""
        self.lose()

    def stall(self) -> None:
        self.stalled = self.ever_stalled = True

    def go_on(self) -> None:
        self.stalled = False
        self.unread += self.waiting
        self.waiting = b""
        self._read()
        if self.closed:
            self.lose()
        elif self.connection._paused:
            self.connection.resume_writing()

    def lose(self) -> None:
        if not self.lost:
            self.closed = self.lost = True
            self.connection.connection_lost(None)
            assert self.detached, "the descriptor would be closed twice"

    def _read(self) -> None:
        data, self.unread = self.unread, b""
        while data:  # RFC 9112 section 7.1
            size, _, data = data.partition(b"\r\n")
            block, data = data[: int(size, 16)], data[int(size, 16) + 2 :]
            before = len(self.parser.ids)
            messages = self.parser.feed(block)
            self.told += messages or self.parser.ids[before:]


class Gateway(RuleBasedStateMachine):
    """The three of them, with Redis (`held`) and all that it was ever given (`streams`, a new one after each reset)."""

    clients = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.socket = mock.patch("gateway.wire.bare_socket", lambda transport: transport)
        self.socket.start()
        self.streams: list[list[Event]] = [[]]
        self.held: list[Event] = []
        self.hub = Hub(History(KEPT, 1 << 30, 1e9), Metrics(), 0)
        self.terms = Terms(self.hub, self, 1e9, 1e9)  # type: ignore[arg-type]  # it serves the pages itself
        self.all: list[Client] = []

    def teardown(self) -> None:
        for client in self.all:
            client.abort()
        self._settle()
        assert not self.hub.subscribers
        assert not self.hub._operations
        assert not self.hub._projects
        self.socket.stop()
        self.loop.close()

    async def page(self, cursor: EntryId) -> Page:
        await asyncio.sleep(0)
        following = [event for event in self.held if event.id > cursor][:3]
        return Page(self.held[0].id if self.held else None, following, following[-1].id if following else None)

    async def end(self) -> EntryId:
        await asyncio.sleep(0)
        return self.held[-1].id if self.held else ZERO

    def before_held(self) -> EntryId:
        newest = self.streams[-1][-1].id if self.streams[-1] else ZERO
        return EntryId(self.held[0].id - 1) if self.held else newest

    def _settle(self) -> None:
        async def turns() -> None:
            for _ in range(200):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    def _do(self, action: Any, *given: Any) -> Any:
        async def act() -> Any:
            return action(*given)

        return self.loop.run_until_complete(act())

    @rule(drawn=events(most=KEPT))
    def publish(self, drawn: list[Event]) -> None:
        stream = self.streams[-1]
        ahead = (stream[-1].id >> 64) + 1 - (drawn[0].id >> 64) if stream and drawn else 0
        for event in drawn:
            event.id = EntryId(event.id + (ahead << 64))
        framed(drawn)
        if drawn:
            stream += drawn
            self.held += drawn
            self._do(self.hub.publish, drawn, drawn[0].id, drawn[-1].id)

    @rule(target=clients, scope=SCOPES, where=st.integers(0, 60), how=st.sampled_from("id none earliest bad".split()))
    def subscribe(self, scope: Scope, where: int, how: str) -> Client:
        stream = self.streams[-1]
        known = format_id(stream[where % len(stream)].id) if stream else "0-0"
        last_event_id = {"id": known, "none": None, "earliest": "earliest", "bad": "99999999999999-0"}[how]
        self.all.append(self._do(Client, self, scope, last_event_id))
        return self.all[-1]

    @rule(target=clients, client=consumes(clients))
    def reconnect(self, client: Client) -> Client:
        self._do(client.lose)
        self.all.append(self._do(Client, self, client.scope, client.parser.last_event_id or None))
        return self.all[-1]

    @rule(client=clients)
    def stall(self, client: Client) -> None:
        client.stall()

    @rule(client=clients)
    def go_on(self, client: Client) -> None:
        self._do(client.go_on)

    @rule(client=clients)
    def heartbeat(self, client: Client) -> None:
        if not client.closed:
            self._do(client.connection.timer, 2e9)

    @rule(client=consumes(clients))
    def drain(self, client: Client) -> None:
        self._do(client.connection.close, "drain")

    @rule(count=st.integers(1, 20))
    def trim(self, count: int) -> None:
        del self.held[:count]

    @rule()
    def reset(self) -> None:
        self.streams.append([])
        self.held.clear()
        self.hub.history.begin(ZERO)
        self._do(self.hub.restart)

    @invariant()
    def every_listener_was_given_the_stream_or_was_told(self) -> None:
        self._settle()
        for client in self.all:
            epoch, begin = client.epoch, client.begin
            runs = list(self._runs(client))
            for number, (gap, run) in enumerate(runs, 1):
                if gap is not None:
                    epoch += gap["reason"] == "reset"
                    begin = None
                    if gap["reason"] == "trimmed" and epoch == len(self.streams) - 1:
                        assert not self.held or self.held[0].id > (parse_id(gap["lastEventId"]) or ZERO)
                caught_up = not client.stalled and not client.closed and number == len(runs)
                self._check(client, self.streams[epoch], begin, run, caught_up=caught_up)

    @staticmethod
    def _runs(client: Client) -> Iterator[tuple[dict[str, Any] | None, list[Message | str]]]:
        gap: dict[str, Any] | None = None
        run: list[Message | str] = []
        for told in client.told:
            if isinstance(told, Message) and told.type == "replay_gap":
                yield gap, run
                gap, run = told.json, []
            else:
                run.append(told)
        yield gap, run

    @staticmethod
    def _check(
        client: Client, stream: list[Event], begin: str | None, run: list[Message | str], *, caught_up: bool
    ) -> None:
        got = [told.last_event_id for told in run if isinstance(told, Message)]
        places = [index for index, told in enumerate(run) if isinstance(told, str)]
        ids = {format_id(event.id): event for event in stream}
        assert len(got) == len(set(got)), "doubled"
        if begin is None or begin == "99999999999999-0":
            if not places:
                assert not caught_up, "it waits for its snapshot"
                return
            shown, place = run[: places[0]], parse_id(str(run[places[0]])) or ZERO
            told = [format_id(event.id) for event in snapshot([e for e in stream if e.id <= place], client.scope)]
            # A stream that is cut off before its snapshot tells the place that it had before, and nothing.
            assert [t.last_event_id for t in shown if isinstance(t, Message)] == told or (not shown and client.closed)
            got, start = got[len(shown) :], place
        else:
            start = parse_id(begin) or ZERO
        seen = [ids[id] for id in got]
        assert seen == sorted(seen, key=lambda event: event.id), "out of order"
        over = client.closed and client.scope.kind == "operation" and bool(seen) and seen[-1].terminal
        if over:
            last = seen[-1].id
        else:
            last = max([start, *(e.id for e in seen), *(parse_id(str(run[at])) or ZERO for at in places)])
        owed = [e for e in stream if e in client.scope and e.id > start and (caught_up or e.id <= last)]
        missing = [event for event in owed if event.id not in {event.id for event in seen}]
        for event in missing:
            later = (e for e in owed if e.operation == event.operation and e.id > event.id)
            assert client.ever_stalled, f"lost {event}"
            assert event.type.endswith("progress"), f"lost {event}"
            assert any(e.type == event.type for e in later), f"lost {event}"
        assert all(event in client.scope for event in seen), "out of scope"


TestGateway = Gateway.TestCase
TestGateway.settings = settings(max_examples=100, stateful_step_count=30)


def test_neighbours_of_a_topic_lose_nothing_when_ids_go_backwards() -> None:
    """Found by the model: the place that a topic kept for one listener was of the stream before the reset."""

    def recorded(*kinds: str) -> list[Event]:
        data = b'{"operationId":"o0","projectId":"p0"}'
        fields = ([b"type", f"github_sync_{kind}".encode(), b"data", data] for kind in kinds)
        return [decode(EntryId(1 << 64 | number), each) for number, each in enumerate(fields, 1)]

    machine = Gateway()
    scope = Scope("operation", operations=frozenset({"o0"}))
    clients = [machine.subscribe(scope, 0, "none") for _ in range(2)]
    machine.publish(recorded("started", "conflict", "progress"))
    machine.reset()
    machine.publish(recorded("started", "conflict", "progress", "completed"))
    machine.every_listener_was_given_the_stream_or_was_told()
    for client in clients:
        told = [message.last_event_id for message in client.told if isinstance(message, Message)]
        assert told[-4:] == ["1-1", "1-2", "1-3", "1-4"]
    machine.teardown()


def test_a_bug_in_one_stream_is_not_its_neighbours(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub(History(KEPT, 1 << 30, 1e9), Metrics(), 0)
    scope = Scope("project", projects=frozenset({"p0"}))
    broken, whole = mock.Mock(scope=scope, shares=True), mock.Mock(scope=scope, shares=True)
    broken.send.side_effect = whole.send.side_effect = BlockingIOError
    broken.unsent.side_effect = broken.wake.side_effect = RuntimeError("a bug")
    for subscriber in (broken, whole):
        hub.join(subscriber, 1e9)
        hub.live(subscriber)
    data = b'{"operationId":"o0","projectId":"p0"}'
    event = framed([decode(EntryId(1), [b"type", b"github_sync_started", b"data", data])])[0]
    hub.publish([event], event.id, event.id)
    broken.abort.assert_called_once_with("error")
    whole.unsent.assert_called_once_with(event.frame, 0)
    whole.abort.assert_not_called()
    assert "a stream failed and is cut" in caplog.text
