"""Two gateways over one stream against a model of a few lines: whatever happens to it in whatever order, a listener
gets the stream, or is told, and is told nothing that is not so. Drawn by hypothesis.

Everything between the socket and Redis is real: reader, pages, archive, history, hub, connection. Redis is the few
commands that they use, over a list; what it does in trims, deletions and failovers is drawn, also between two reads.
"""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from gateway import frame
from gateway.archive import Archive
from gateway.connection import Connection
from gateway.event import ZERO, EntryId, Event, decode, format_id, parse_id
from gateway.history import History
from gateway.hub import Hub
from gateway.link import Refused
from gateway.metrics import Metrics
from gateway.reader import Reader
from gateway.scope import Scope, Wish
from gateway.shaping import STALE, Track, shape
from gateway.terms import State, Terms
from tests.eventsource import Message, Parser
from tests.strategies import SCOPES, Entry, entries, fields

KEPT = 12
"""Events in memory, as many as are published at once at most: few, so that cursors fall off its tail."""
ROOM = 400
"""Bytes that a client's socket takes while nobody reads: a frame fits, or two."""
UNKNOWN = "99999999999999-0"


@dataclass
class Redis:
    """A stream as Redis 7 keeps it, and a source and link to it."""

    entries: list[Entry] = field(default_factory=list)
    newest: EntryId = ZERO
    added: int = 0
    deleted: EntryId = ZERO
    exists: bool = False
    rings: list[asyncio.Future[None]] = field(default_factory=list)
    between: list[Any] = field(default_factory=list)  # what happens before the next commands, one after the other
    address = None
    size = 0

    async def connect(self) -> "Redis":
        return self

    def sent_on(self, error: Exception) -> bool:
        return False

    async def has_moved(self, link: Any) -> bool:
        return False

    async def close(self) -> None:
        pass

    async def exchange(self, command: tuple[Any, ...], **_: Any) -> list[Any]:
        await asyncio.sleep(0)
        if self.between:
            self.between.pop(0)()
        if command[0] == "XINFO":
            return [self._info()]
        if command[0] == "XREAD":
            after = parse_id(command[-1])
            if not any(id > after for id, _ in self.entries):
                ring = asyncio.get_running_loop().create_future()
                self.rings.append(ring)
                await ring
            return [[b"something"] if any(id > after for id, _ in self.entries) else None]
        start = ZERO if command[2] == "-" else parse_id(command[2])
        found = [(format_id(id).encode(), each) for id, each in self.entries if id >= start]
        return [found[: command[5]]]

    def _info(self) -> list[Any]:
        if not self.exists:
            raise Refused("ERR no such key")
        first, last = ([format_id(self.entries[at][0]).encode(), []] if self.entries else None for at in (0, -1))
        return [
            b"length", len(self.entries), b"last-generated-id", format_id(self.newest).encode(),
            b"max-deleted-entry-id", format_id(self.deleted).encode(), b"entries-added", self.added,
            b"first-entry", first, b"last-entry", last,
        ]  # fmt: skip

    def add(self, batch: list[Entry]) -> None:
        self.exists = self.exists or bool(batch)
        for id, each in batch:
            assert id > self.newest
            self.entries.append((id, each))
            self.newest, self.added = id, self.added + 1

    def ring(self) -> None:
        rings, self.rings = self.rings, []
        for each in rings:
            if not each.done():
                each.set_result(None)


class Client(asyncio.Transport):
    """The far end of one connection: its socket, whose client may stop reading, the transport above it, and the
    EventSource behind it. `due` is what it is owed since the place that it was told last of all.
    """

    def __init__(self, machine: "Machine", number: int, scope: Scope, wish: Wish, *, stalled: bool = False) -> None:
        super().__init__()
        self.machine, self.number, self.scope = machine, number, scope
        self.parser = Parser()
        self.told: list[Message] = []
        self.unread = b""  # in the socket
        self.waiting = b""  # in the transport
        self.stalled = self.ever_stalled = stalled
        self.closed = self.lost = self.detached = False
        self.due: list[EntryId] | None = None  # None: a snapshot is owed first
        self.after: EntryId | None = None  # and in that, what ended after this
        self.gaps = 0  # that it should have been told of by now
        self.perhaps = False  # it may have been told of one more
        self.blurred = False  # it was stalled while something was lost: what it is owed can't be told from outside
        self.connection = Connection(
            machine.terms[number], scope, None, wish, frame.first(0.0, 60, 1000), lambda reason: None
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
        if self.waiting and self.connection._state not in (State.STUCK, State.OVER):
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
        elif self.connection._state is State.STUCK:
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
            for message in self.parser.feed(block):
                if message.type == "heartbeat" and len(self.parser.ids) == before:
                    continue  # without an id it tells nothing of the stream
                self.told.append(message)


class Machine(RuleBasedStateMachine):
    clients = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.patches = ExitStack()
        for name, value in {
            "gateway.wire.bare_socket": lambda transport: transport, "gateway.reader.PACE": 0,
            "gateway.archive.PATIENCE": 0,
        }.items():  # fmt: skip
            self.patches.enter_context(mock.patch(name, value))
        self.redis = Redis()
        self.read: list[Entry] = []  # what a gateway can have read of what is there now, in order
        self.runs = 0
        self.unsure = False  # what a gateway has read can't be told from outside
        self.deleted: set[EntryId] = set()  # by hand: memory may have it still, nobody is owed it
        self.hubs: list[Hub] = []
        self.terms: list[Terms] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.readers: list[Reader] = []
        self.all: list[Client] = []
        for _ in range(2):
            hub = Hub(History(KEPT, 1 << 30, 1e9, throttle=False), Metrics())
            archive = Archive(self.redis, "stream", hub)
            reader = Reader(self.redis, "stream", hub, Metrics())
            self.hubs.append(hub)
            self.readers.append(reader)
            self.terms.append(Terms(hub, archive, 1e9, 1e9))
            self.tasks += [self.loop.create_task(run()) for run in (archive.run, reader.run)]
        self._settle()

    def teardown(self) -> None:
        for client in self.all:
            self._do(client.abort)
        self._settle()
        for hub in self.hubs:
            assert not hub.subscribers
            assert not hub._topics
        for task in self.tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*self.tasks, return_exceptions=True))
        self.patches.close()
        self.loop.close()

    def _settle(self) -> None:
        async def turns() -> None:
            for _ in range(4):
                self.redis.ring()
                for _ in range(100):
                    await asyncio.sleep(0)

        self.loop.run_until_complete(turns())
        while self.redis.between:
            self.redis.between.pop(0)()
        for task in self.tasks:
            if task.done():
                task.result()

    def _do(self, action: Any, *given: Any) -> Any:
        async def act() -> Any:
            return action(*given)

        return self.loop.run_until_complete(act())

    def _ahead(self, drawn: list[Entry], *, of: EntryId | None = None) -> list[Entry]:
        """The entries with ids that Redis would give them now."""
        newest = self.redis.newest if of is None else of
        ahead = (newest >> 64) + 1 - (drawn[0][0] >> 64) if drawn and newest else 0
        return [(EntryId(id + (ahead << 64)), each) for id, each in drawn]

    def _owe(self, batch: list[Entry]) -> None:
        self.read += batch
        for client in self.all:
            if client.due is not None:
                client.due += [id for id, each in batch if decode(id, each) in client.scope]

    @rule(drawn=entries(most=KEPT))
    def publish(self, drawn: list[Entry]) -> None:
        batch = self._ahead(drawn)
        self._do(self.redis.add, batch)
        self._owe(batch)

    @rule(operation=st.integers(0, 2), project=st.integers(0, 1))
    def supersede(self, operation: int, project: int) -> None:
        """A worker loses its lock and goes on, another takes over, and an XADD whose reply was lost is sent again."""
        self.runs += 2
        old, new = f"r{self.runs}", f"r{self.runs + 1}"
        told = [
            fields(kind, f"o{operation}", f"p{project}", run=run, seq=seq, percent=5)
            for kind, run, seq in (
                ("started", old, 1), ("started", new, 1), ("completed", old, 2), ("progress", new, 2),
                ("progress", new, 2), ("started", old, 1),
            )
        ]  # fmt: skip
        batch = self._ahead([(EntryId((1_764_000_000_000 + at) << 64), each) for at, each in enumerate(told)])
        self._do(self.redis.add, batch)
        self._owe([batch[0], batch[1], batch[3]])

    @rule(target=clients, scope=SCOPES, where=st.integers(0, 60), how=st.sampled_from("id none earliest bad".split()),
          number=st.integers(0, 1))  # fmt: skip
    def subscribe(self, scope: Scope, where: int, how: str, number: int) -> Client:
        place = self.read[where % len(self.read)][0] if self.read else ZERO
        known = format_id(place)
        wish = Wish({"id": known, "none": None, "earliest": "earliest", "bad": UNKNOWN}[how])
        self.all.append(client := self._do(Client, self, number, scope, wish))
        if how == "id":
            self._resumed(client, place)
        elif how == "earliest":
            client.blurred = True  # memory may hold more than Redis, or the other way round
        elif how == "bad":
            client.gaps, client.after = 1, parse_id(UNKNOWN)
        return client

    def _resumed(self, client: Client, place: EntryId) -> None:
        """It came back with an id of this stream: all after it is owed, unless it is gone."""
        held = self.redis.entries
        history = self.hubs[client.number].history
        if (held and place >= held[0][0]) or place >= history.floor:
            client.due = [id for id, each in self.read if id > place and decode(id, each) in client.scope]
        else:
            client.blurred = True

    @rule(target=clients, client=consumes(clients), number=st.integers(0, 1), stalled=st.booleans())
    def reconnect(self, client: Client, number: int, stalled: bool) -> Client:
        """At the same gateway or the other; it may not read from the first byte on."""
        self._do(client.lose)
        last = client.parser.last_event_id

        def open_again() -> Client:
            return Client(self, number, client.scope, Wish(last or None), stalled=stalled)

        self.all.append(again := self._do(open_again))
        place = parse_id(last)
        if not last:
            pass
        elif place in [id for id, _ in self.read]:
            self._resumed(again, place)
        else:
            again.blurred = True  # of a stream that is no more
        return again

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
        """Of what was read: nobody loses anything."""
        del self.redis.entries[:count]

    @rule(where=st.integers(0, 60))
    def delete(self, where: int) -> None:
        """By hand, of what was read: nobody loses anything."""
        if self.redis.entries:
            id, _ = self.redis.entries.pop(-1 - where % len(self.redis.entries))
            self.redis.deleted = max(self.redis.deleted, id)
            self.deleted.add(id)

    @rule(drawn=entries(most=KEPT), keep=st.integers(0, KEPT))
    def burst(self, drawn: list[Entry], keep: int) -> None:
        """Trimmed before it could be read: everybody is told, unless nothing was missed."""
        batch = self._ahead(drawn)
        self._do(self.redis.add, batch)
        del self.redis.entries[: max(0, len(self.redis.entries) - keep)]
        if lost := batch[: max(0, len(batch) - keep)]:
            self.read = [each for each in self.read if each not in lost]
            for client in self.all:
                self._gap(client, self.hubs[client.number].history.newest)
        self._owe(batch[len(lost) :])

    @rule(drawn=entries(most=KEPT), keep=st.integers(0, KEPT), after=st.integers(0, 8))
    def trim_meanwhile(self, drawn: list[Entry], keep: int, after: int) -> None:
        """While it is being read: nobody misses anything without being told, whichever came first."""
        batch = self._ahead(drawn)
        self._do(self.redis.add, batch)
        self._owe(batch)
        entries = self.redis.entries

        def trim() -> None:
            del entries[: max(0, len(entries) - keep)]

        self.redis.between = [*[lambda: None] * after, trim]
        self.unsure = True
        for client in self.all:
            client.perhaps = True

    @rule(lost=st.integers(0, 4), drawn=entries(most=4), step=st.integers(0, 3), beyond=st.booleans())
    def fail_over(self, lost: int, drawn: list[Entry], step: int, beyond: bool) -> None:
        """To a replica that lacks the newest entries and gives other ones since, some with ids that were read before.

        Who was given one of those that are gone, or should have been given one of the others by now, is told.
        """
        redis = self.redis
        lost = min(lost, len(redis.entries))
        before, common = redis.newest, redis.entries[: len(redis.entries) - lost]
        gone = redis.entries[len(common) :]
        if not gone or not common:
            return
        since = [(EntryId(common[-1][0] + 1 + step + number), each) for number, (_, each) in enumerate(drawn)]
        if beyond and since:  # than all that was read before
            since[-1] = EntryId(before + (1 << 64)), since[-1][1]
        if any(entry in gone for entry in since):
            return
        redis.entries, redis.newest, redis.added = list(common), common[-1][0], redis.added - lost
        if redis.deleted > redis.newest:
            redis.deleted = ZERO
        self._do(redis.add, since)
        had = [entry for entry in self.read if entry in gone]
        moved = [decode(id, each) for id, each in (*had, *since) if id <= before]
        # Where nothing that was delivered is left to compare, everybody is told.
        in_memory = any(entry in self.read for entry in common) and all(
            common[-1][0] > hub.history.floor for hub in self.hubs
        )
        for client in self.all:
            if self.deleted or not in_memory or (client.due is None and not client.gaps) or client.blurred:
                client.blurred = True  # whether the two have something in common depends on what memory holds
            elif any(event in client.scope for event in moved):
                self._gap(client, ZERO)
            else:
                client.due = [id for id in client.due or [] if id not in [id for id, _ in gone]]
        self.read, self.unsure = self._passed(common), False  # what both have read anew
        self._owe(since)

    def _passed(self, stream: list[Entry]) -> list[Entry]:
        """Without what is stale for who reads this and no more."""
        tracks: dict[Any, Track] = {}
        whole = len(stream) == self.redis.added
        made = [decode(*entry) for entry in stream]
        outcomes = [shape(tracks.setdefault(event.key, Track()), event, throttle=False, whole=whole) for event in made]
        return [entry for entry, (outcome, _) in zip(stream, outcomes, strict=True) if outcome is not STALE]

    @rule()
    def empty(self) -> None:
        """DEL, or FLUSHALL."""
        lost = self.redis.exists
        self.redis.entries, self.redis.newest, self.redis.added = [], ZERO, 0
        self.redis.deleted, self.redis.exists = ZERO, False
        self.read, self.unsure = [], False
        for client in self.all:
            if lost and self.hubs[client.number].history.newest:
                self._gap(client, ZERO)

    def _gap(self, client: Client, place: EntryId) -> None:
        client.gaps += 1
        client.due, client.after = None, place
        client.blurred = client.blurred or client.stalled or client.closed

    @invariant()
    def every_listener_was_given_the_stream_or_was_told(self) -> None:
        self._settle()
        for hub in self.hubs:
            for client in self.all:
                assert client.closed or client.connection.cursor.history in [each.history for each in self.hubs]
            assert hub.history.newest >= (self.redis.entries[-1][0] if self.redis.entries else ZERO)
        for client in self.all:
            for run in self._runs(client):
                ids = [told.last_event_id for told in run if told.type not in ("heartbeat", "replay_gap")]
                places = [parse_id(id) for id in ids]
                assert len(ids) == len(set(ids)), "doubled"
                assert places == sorted(places), "out of order"
            self._check(client)

    @staticmethod
    def _runs(client: Client) -> Iterator[list[Message]]:
        run: list[Message] = []
        for told in client.told:
            if told.type == "replay_gap":
                yield run
                run = []
            run.append(told)
        yield run

    def _check(self, client: Client) -> None:
        """What it was told since its last gap is what it is owed since; and it was told of no gap that was none."""
        if client.stalled or client.blurred:
            return
        *before, run = self._runs(client)
        if (client.perhaps or client.ever_stalled) and len(before) > client.gaps:
            client.blurred = True  # one that lagged may have been trimmed past
            return
        client.perhaps = False
        if not client.closed:
            assert len(before) == client.gaps, (
                f"cried wolf, or was silent: {[run[0].data for run in (*before, run)[1:]]}"
            )
        elif len(before) != client.gaps:
            return  # it left before it could be told
        got = [parse_id(told.last_event_id) for told in run if told.type not in ("heartbeat", "replay_gap")]
        if client.due is None:
            places = [told for told in run if told.type == "heartbeat"]
            if not places:
                assert client.closed, "it waits for its snapshot"
                return
            at = run.index(places[0])
            place = parse_id(places[0].last_event_id)
            shown = [parse_id(told.last_event_id) for told in run[:at] if told.type != "replay_gap"]
            assert shown == self._snapshot(client, place) or client.closed or self.unsure
            client.due = [id for id, each in self.read if id > place and decode(id, each) in client.scope]
            client.told = [each for each in client.told if each.type == "replay_gap"] + run[at + 1 :]  # all is owed now
            run = client.told[client.gaps :]
            got = got[len(shown) :]
        client.due = [id for id in client.due if id in got or id not in self.deleted]
        over = client.closed and client.scope.kind == "operation"
        if client.closed:
            assert over or got == client.due[: len(got)] or client.ever_stalled
            return
        if client.ever_stalled:
            owed = {event.id: event for event in map(self._event, client.due) if event is not None}
            for id in set(client.due) - set(got):
                event = owed.get(id)
                assert event is None or event.type.endswith("progress"), f"lost {event}"
            assert [id for id in client.due if id in got] == got
        else:
            assert got == client.due

    def _event(self, id: EntryId) -> Event | None:
        return next((decode(*entry) for entry in self.read if entry[0] == id), None)

    def _snapshot(self, client: Client, place: EntryId) -> list[EntryId]:
        """The model: what a newcomer has to be told of a stream that it missed."""
        attempts: dict[Any, dict[str, Event]] = {}
        for event in (decode(*entry) for entry in self.read if entry[0] <= place):
            attempt = attempts.setdefault(event.key, {})
            if event.type.endswith("started"):
                attempt.clear()
            if not ("end" in attempt and attempt["end"].terminal):
                attempt["end" if event.type.endswith(("completed", "failed")) else event.type] = event
        shown = []
        for attempt in attempts.values():
            end = attempt.get("end")
            ended = end is not None and end.terminal
            late = ended and client.after is not None and end.id > client.after
            if not ended or late or client.scope.kind == "operation":
                shown += [event.id for event in attempt.values() if event in client.scope]
        return sorted(shown)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=30)


def test_who_can_be_sent_only_part_gets_the_rest_though_its_socket_has_room_again_at_once() -> None:
    """Then nothing waits in the transport, and nobody would say that it goes on."""
    machine = Machine()
    client = machine._do(Client, machine, 0, Scope("project", projects=frozenset({"p0"})), Wish())
    machine.all.append(client)
    machine._settle()
    client.connection.cursor.catch_up()
    sent, whole = [], client.connection.send

    def part(data: bytes) -> int:
        sent.append(len(data))
        return client.__class__.send(client, data[: len(data) // 2] if len(sent) == 1 else data)

    topic = client.connection._topic
    assert topic is not None
    topic.sharing[client.connection] = part
    batch = [(EntryId((number + 1) << 64), fields("started", f"o{number}")) for number in range(6)]
    machine.publish(batch)
    machine._settle()
    told = [message.last_event_id for message in client.told if message.type != "heartbeat"]
    assert told == [format_id(id) for id, _ in batch]
    assert whole is not part
    machine.teardown()
