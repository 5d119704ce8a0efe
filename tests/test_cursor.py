"""Replay by property: for every cut of a recorded stream, before the cut + resumed after it = the whole."""

import itertools
import sys
import time

import orjson
from hypothesis import given
from hypothesis import strategies as st

from gateway.cursor import Cursor, Mode, Slice
from gateway.event import ZERO, EntryId, Event, decode
from gateway.history import EVENT, History
from gateway.log import Verdicts
from gateway.operations import Operation, Project, _text
from gateway.scope import Scope, Sees
from gateway.silence import Silence
from tests.strategies import SCOPES, Entry, entries, fields, take

EVERYTHING = Scope("multi")


def history(stream: list[Entry], batches: int = 1, **limits: int) -> tuple[History, list[Event]]:
    kept = History(limits.get("events", 10_000), limits.get("bytes", 1 << 30), 1e9, throttle=False)
    size = max(1, len(stream) // batches)
    passed = [event for start in range(0, len(stream), size) for event in take(kept, stream[start : start + size])]
    return kept, passed


def read(cursor: Cursor) -> list[Event]:
    found: list[Event] = []
    while cursor.behind():
        taken = cursor.take()
        found += taken.events
        assert not taken.skipped
    return found


@given(entries(), SCOPES)
def test_replay_from_every_cut_is_exactly_what_follows(stream: list[Entry], scope: Scope) -> None:
    kept, whole = history(stream)
    whole = [event for event in whole if event in scope]
    for id, _ in stream:
        cursor = Cursor(kept, scope, follow=True)
        cursor.replay(id)
        assert cursor.covered()
        assert read(cursor) == [event for event in whole if event.id > id]


@given(entries(), SCOPES, st.lists(st.integers(0, 40), max_size=5))
def test_live_reading_in_any_batches_is_the_whole(stream: list[Entry], scope: Scope, cuts: list[int]) -> None:
    kept = History(10_000, 1 << 30, 1e9, throttle=False)
    cursor = Cursor(kept, scope, follow=True)
    cursor.replay(kept.floor)
    seen, whole = [], []
    edges = sorted({0, *(cut for cut in cuts if cut < len(stream)), len(stream)})
    for start, end in itertools.pairwise(edges):
        whole += take(kept, stream[start:end])
        seen += read(cursor)
    assert seen == [event for event in whole if event in scope]


@given(entries(), st.lists(SCOPES, min_size=1, max_size=2), st.data())
def test_what_one_cursor_took_is_given_to_another_only_where_the_same_is_due(
    stream: list[Entry], scopes: list[Scope], data: st.DataObject
) -> None:
    kept = History(8, 1 << 30, 1e9, throttle=False)
    grants: list[Sees | None] = [None, lambda key: key[1] != "o1", lambda key: key[0] != "p1"]
    for start in range(0, len(stream), 3):
        take(kept, stream[start : start + 3])
        for _ in range(4):
            scope, follow = data.draw(st.sampled_from(scopes)), data.draw(st.booleans())
            sees, mode = data.draw(st.sampled_from(grants)), data.draw(st.sampled_from(Mode))
            place = data.draw(st.sampled_from([kept.floor, stream[start][0]]))
            one, alone = (Cursor(kept, scope, sees, follow=follow) for _ in range(2))
            for cursor in (one, alone):
                cursor.replay(place)
                cursor.mode = mode
            found, before = one.take(), kept.taken
            kept.taken = (None,)
            assert found == alone.take()
            assert (one.at, one.told, one._final) == (alone.at, alone.told, alone._final)
            assert found.joined == b"".join(event.frame for event in found.events)
            kept.taken = before


def test_a_crowd_that_comes_back_to_one_place_is_given_the_same_bytes() -> None:
    kept = History(1000, 1 << 30, 1e9, throttle=False)
    mine, others = Scope("project", projects=frozenset({"p0"})), Scope("project", projects=frozenset({"p1"}))
    take(kept, [(EntryId(ms << 64), fields("progress", project=f"p{ms % 2}", percent=ms)) for ms in range(1, 21)])

    def taken(scope: Scope, sees: Sees | None = None) -> Slice:
        cursor = Cursor(kept, Scope(scope.kind, projects=scope.projects), sees)
        cursor.replay(EntryId(10 << 64))
        return cursor.take()

    first, *crowd = [taken(mine) for _ in range(3)]
    assert len(first.events) == 5
    assert all(each.joined is first.joined for each in crowd)
    assert not taken(mine, lambda key: False).events
    assert {event.key[0] for event in taken(others).events} == {"p1"}
    take(kept, [(EntryId(21 << 64), fields("progress", percent=21))])
    assert len(taken(mine).events) == 6


def test_who_follows_is_given_what_comes_after_an_end_and_who_does_not_is_not() -> None:
    kept, scope = History(1000, 1 << 30, 1e9, throttle=False), Scope("operation", operations=frozenset({"o0"}))
    take(kept, [(EntryId(at << 64), fields(kind)) for at, kind in enumerate(("started", "completed", "conflict"), 1)])
    for follow, told in ((True, 3), (False, 2), (True, 3)):
        cursor = Cursor(kept, scope, follow=follow)
        cursor.replay(ZERO)
        assert len(cursor.take().events) == told


@given(entries(), SCOPES, st.integers(0, 39), st.integers(0, 3))
def test_a_snapshot_then_what_follows_leads_to_the_same_state(
    stream: list[Entry], scope: Scope, cut: int, ended: int
) -> None:
    kept, _ = history(stream[:cut])
    cursor = Cursor(kept, scope, follow=True)
    cursor.snapshot(ended=ended)
    seen = read(cursor)
    assert [event.id for event in seen] == sorted({event.id for event in seen})
    seen += take_in(kept, stream[cut:], cursor)
    told: dict[tuple[str, str], dict[str, Event]] = {}
    for event in seen:
        if event.type.endswith("started"):
            told.pop(event.key, None)
        told.setdefault(event.key, {})[event.type] = event
    for operation in kept.operations.running.values():
        for event in operation.attempt():
            if event in scope:
                assert told[event.key].get(event.type, event).id >= event.id


def take_in(kept: History, stream: list[Entry], cursor: Cursor) -> list[Event]:
    take(kept, stream)
    return read(cursor)


@given(entries(), SCOPES, st.integers(0, 6), st.integers(0, 40))
def test_a_snapshot_tells_of_those_that_ended_last_or_later_than_a_place(
    stream: list[Entry], scope: Scope, ended: int, cut: int
) -> None:
    kept, _ = history(stream)
    after = stream[cut][0] if cut < len(stream) else None
    cursor = Cursor(kept, scope, follow=True)
    cursor.snapshot(ended=ended, after=after)
    shown = {event.key for event in read(cursor)}
    operations = [each for each in kept.operations._table.values() if any(map(scope.__contains__, each.attempt()))]
    ends = sorted((each for each in operations if each.ended), key=lambda each: -each.end)
    wanted = {each.key for each in operations if not each.ended or scope.kind == "operation"}
    wanted |= {each.key for each in ends[:ended]}
    wanted |= {each.key for each in ends if after is not None and each.end > after}
    assert shown == wanted


@given(entries(), SCOPES, st.integers(0, 39), st.integers(1, 4))
def test_a_snapshot_walked_while_the_stream_goes_on_misses_nothing(
    stream: list[Entry], scope: Scope, cut: int, step: int
) -> None:
    """A snapshot is no copy: what is superseded or ends meanwhile is told in its new form."""
    kept, _ = history(stream[:cut])
    cursor = Cursor(kept, scope, follow=True)
    cursor.snapshot()
    seen: list[Event] = []
    rest = stream[cut:]
    while cursor.behind() or rest:
        walk = (
            list(kept.operations.snapshot(scope, cursor._snapshot, cursor.at, cursor._since))[:1]
            if (cursor._snapshot is not None)
            else []
        )
        if walk:  # one event at a time, as to a socket that is nearly full
            seen.append(walk[0])
            cursor.gave(walk[0])
        elif cursor.behind():
            seen += cursor.take().events
        take(kept, rest[:step])
        rest = rest[step:]
    assert [event.id for event in seen] == sorted({event.id for event in seen})
    for operation in kept.operations.running.values():
        for event in operation.attempt():
            assert (
                event not in scope
                or event in seen
                or any(later.key == event.key and later.type == event.type and later.id > event.id for later in seen)
            )


@given(entries(), SCOPES, st.integers(0, 39))
def test_a_lagging_client_misses_nothing_but_superseded_progress(stream: list[Entry], scope: Scope, cut: int) -> None:
    kept, whole = history(stream)
    cursor = Cursor(kept, scope, follow=True)
    if not stream[cut:]:
        return
    cursor.replay(stream[cut][0])
    cursor.mode = Mode.LAGGING
    seen: list[Event] = []
    skipped = 0
    while cursor.behind():
        taken = cursor.take()
        seen += taken.events
        skipped += taken.skipped
    due = [event for event in whole if event in scope and event.id > stream[cut][0]]
    missed = [event for event in due if event not in seen]
    assert len(missed) == skipped
    assert [event for event in due if event in seen] == seen
    for event in missed:
        assert event.type == "github_sync_progress"
        assert any(later.type == event.type and later.key == event.key and later.id > event.id for later in seen)


@given(entries(), SCOPES, st.integers(1, 10))
def test_memory_either_covers_a_cursor_exactly_or_says_that_it_does_not(
    stream: list[Entry], scope: Scope, most: int
) -> None:
    kept, whole = history(stream, batches=5, events=most)
    assert len(kept) <= most
    for id, _ in stream:
        cursor = Cursor(kept, scope, follow=True)
        cursor.replay(id)
        if cursor.covered():
            assert read(cursor) == [later for later in whole if later in scope and later.id > id]


@given(entries(runs=True), st.integers(1, 6), st.integers(300, 20_000))
def test_bytes_are_accounted_exactly_and_bounded(stream: list[Entry], most: int, limit: int) -> None:
    kept, _ = history(stream, batches=10, events=most, bytes=limit)
    assert not len(kept) or kept.bytes <= limit
    held = {event.id: event for event in kept.after(ZERO, EVERYTHING)}
    operations = list(kept.operations._table.values())
    held |= {event.id: event for operation in operations for event in operation.attempt()}
    assert kept.operations.bytes == sum(operation.size for operation in operations) + sum(
        1200 + len(project.id) + 49 for project in kept.operations._projects.values()
    )
    rest = kept.operations.bytes + len(kept.verdicts) * Verdicts.BYTES
    assert kept.bytes == sum(len(event.frame) + EVENT for event in held.values()) + rest


def test_what_is_forgotten_counts_for_nothing_whoever_wrote_its_ids_meanwhile() -> None:
    kept = History(1, 1 << 30, 1e9)
    for number in range(100):
        id = f"\N{PILE OF POO}{number}"
        data = orjson.dumps({"operationId": id, "projectId": id})
        event = decode(EntryId((number + 1) << 64), [b"type", b"github_sync_started", b"data", data])
        kept.take(event, 0.0)
        orjson.dumps(event.key)  # as advice and states do: Python keeps the UTF-8 of it
        kept.newest = event.id
        kept.trim(1e9)
    left = kept.operations._table.values()
    assert len(left) == 2
    assert kept.operations.bytes == sum(each.size + 1200 + _text(each.project.id) for each in left)


@given(entries(), st.integers(1, 8))
def test_every_id_that_was_read_is_known_and_no_other(stream: list[Entry], most: int) -> None:
    kept, _ = history(stream, batches=5, events=most)
    ids = {id for id, _ in stream}
    for id in ids:
        assert id < kept.floor or kept.knows(id)
        between = EntryId(id + 1)
        assert between in ids or between < kept.floor or not kept.knows(between)


@given(entries())
def test_a_single_operation_stream_is_over_exactly_when_every_operation_of_its_id_has_ended(
    stream: list[Entry],
) -> None:
    kept, whole = history(stream)
    for scope in (
        Scope("operation", operations=frozenset({"o0"})),
        Scope("operation", pairs=frozenset({("p1", "o0")})),
    ):
        cursor = Cursor(kept, scope)
        cursor.replay(kept.floor)
        own = [event for event in whole if event in scope]
        while cursor.behind() and not cursor.over():
            cursor.take()
        operations = [each for each in kept.operations._table.values() if any(e.key == each.key for e in own)]
        assert cursor.over() == (bool(operations) and all(each.ended for each in operations))
        if cursor.over():
            assert cursor.told == max(each.end for each in operations)


def test_an_id_in_the_future_makes_nothing_old() -> None:
    kept = History(1000, 1 << 30, 24 * 3600, throttle=False)
    now = int(time.time() * 1000)
    take(kept, [(EntryId(now << 64), fields("started"))])
    take(kept, [(EntryId((now + 2 * 24 * 3600 * 1000) << 64), fields("started", "o1"))])
    kept.trim(now / 1000)
    take(kept, [(EntryId((1 << 128) - 1), fields("started", "o2"))])
    kept.trim(now / 1000 + 1)
    assert {key[1] for key in kept.operations.running} == {"o0", "o1", "o2"}
    assert len(kept) == 3


def test_operations_of_one_id_in_two_projects_are_two() -> None:
    kept, _ = history([
        (EntryId(1), fields("started", "1", "mine")),
        (EntryId(2), fields("started", "1", "yours")),
        (EntryId(3), fields("progress", "1", "yours", percent=80)),
        (EntryId(4), fields("progress", "1", "mine", percent=10)),
        (EntryId(5), fields("completed", "1", "yours")),
    ])  # fmt: skip
    mine, yours = kept.operations.get(("mine", "1")), kept.operations.get(("yours", "1"))
    assert (mine.ended, yours.ended) == (False, True)
    assert b'"percent": 10' in mine.progress.frame
    cursor = Cursor(kept, Scope("operation", operations=frozenset({"1"})), lambda key: key[0] == "mine")
    cursor.replay(EntryId(0))
    assert [event.project for event in read(cursor)] == ["mine", "mine"]
    assert not cursor.over()


def test_nothing_of_an_operation_outlives_it() -> None:
    """Of a thousand projects with one short operation each, what is kept is what the bounds let."""
    kept = History(10, 1 << 30, 1e9, throttle=False)
    for number in range(1000):
        entry = EntryId(number + 1), fields("completed", f"o{number}", f"p{number}")
        take(kept, [entry])
    assert len(kept.operations._table) == len(kept.operations._projects) == len(kept.operations._named) <= 21
    assert len(kept.operations.ended) <= 21


def test_a_run_that_took_over_in_a_hole_is_not_refused_for_one_that_was_known_before() -> None:
    kept, _ = history([(EntryId(1), fields("started", run="a", seq=1))])
    kept.cut(EntryId(5))
    passed = take(kept, [
        (EntryId(6), fields("progress", run="b", seq=3, percent=70)),
        (EntryId(7), fields("completed", run="b", seq=4)),
    ])  # fmt: skip
    assert len(passed) == 2
    assert kept.operations.get(("p0", "o0")).ended


def test_silence_that_was_put_off_is_brought_forward_by_the_next_word() -> None:
    kept = History(100, 1 << 20, 1e9, stalled_after=5)
    silence = kept.operations.silence
    for at, entry in enumerate((fields("retryable", retryAfter=3600), fields("started")), 1):
        kept.take(decode(EntryId(at << 64), entry), 100.0)
    assert not silence.find(104.0, 5, 9)
    assert [advice.key for advice in silence.find(106.0, 5, 9)] == [("p0", "o0")]


def test_what_is_let_go_in_one_turn_is_bounded() -> None:
    kept = History(100_000, 1 << 30, 3600)
    now = int(time.time() * 1000)
    for number in range(5000):
        kept.take(decode(EntryId((now - 7_200_000) << 64 | number), fields("completed", f"o{number}")), 0.0)
    kept.newest = EntryId(now << 64)
    kept.trim(now / 1000)
    assert len(kept) >= 3000
    for _ in range(9):
        kept.trim(now / 1000)
    assert len(kept) == len(kept.operations.ended) == 0


def test_what_is_waited_for_no_more_takes_no_room() -> None:
    silence: Silence[Operation] = Silence()
    operations = [Operation((str(number), "o"), Project(str(number)), number) for number in range(10_000)]
    for operation in operations:
        silence.hear(operation, 1.0, 300)
    for operation in operations[:-1]:
        silence.leave(operation)
    assert sum(map(sys.getsizeof, silence._due.values())) < 500
    assert [each.operation for each in silence.find(500.0, 300, 10)] == operations[-1:]
