"""Replay by property: for every cut of a recorded stream, before the cut + resumed after it = the whole."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gateway.cursor import Cursor
from gateway.event import Event
from gateway.history import History
from gateway.scope import Scope
from tests.strategies import events, framed

SCOPES = st.sampled_from(
    [
        Scope("operation", operations=frozenset({"o0"})),
        Scope("project", projects=frozenset({"p1"})),
        Scope("multi"),
        Scope("multi", frozenset({"o0", "o3"}), frozenset({"p0"})),
        Scope("multi", frozenset({"o1", "o2", "o9"}), frozenset({"p9"})),
    ]
)


def history(stream: list[Event], batches: int = 1, **limits: int) -> History:
    kept = History(limits.get("events", 10_000), limits.get("bytes", 1 << 30), 1e9)
    size = max(1, len(stream) // batches)
    for start in range(0, len(stream), size):
        batch = stream[start : start + size]
        kept.extend(batch, batch[0].id, batch[-1].id, 0.0, None)
    return kept


def read(cursor: Cursor) -> list[Event]:
    found: list[Event] = []
    while cursor.behind():
        taken = cursor.take()
        found += taken.events
        assert not taken.skipped
    return found


@given(events(), SCOPES)
def test_replay_from_every_cut_is_exactly_what_follows(stream: list[Event], scope: Scope) -> None:
    kept = history(framed(stream))
    whole = [event for event in stream if event in scope]
    for cut in range(len(stream)):
        cursor = Cursor(kept, scope, follow=True)
        cursor.replay(stream[cut].id)
        assert cursor.covered()
        assert read(cursor) == [event for event in whole if event.id > stream[cut].id]


@given(events(), SCOPES, st.lists(st.integers(0, 40), max_size=5))
def test_live_reading_in_any_batches_is_the_whole(stream: list[Event], scope: Scope, cuts: list[int]) -> None:
    framed(stream)
    kept = History(10_000, 1 << 30, 1e9)
    cursor = Cursor(kept, scope, follow=True)
    cursor.replay(kept.floor)
    seen = []
    edges = sorted({0, *(cut for cut in cuts if cut < len(stream)), len(stream)})
    for start, end in itertools.pairwise(edges):
        batch = stream[start:end]
        kept.extend(batch, batch[0].id, batch[-1].id, 0.0, None)
        seen += read(cursor)
    assert seen == [event for event in stream if event in scope]


@given(events(), st.integers(0, 39))
def test_a_snapshot_then_what_follows_leads_to_the_same_state(stream: list[Event], cut: int) -> None:
    framed(stream)
    before, after = stream[:cut], stream[cut:]
    kept = history(before)
    cursor = Cursor(kept, Scope("multi"), follow=True)
    cursor.snapshot()
    seen = read(cursor)
    assert [event.id for event in seen] == sorted(event.id for event in seen)
    assert len(seen) == len({event.id for event in seen})
    if after:
        kept.extend(after, after[0].id, after[-1].id, 0.0, None)
    seen += read(cursor)
    full = History(10_000, 1 << 30, 1e9)
    if stream:
        full.extend(stream, stream[0].id, stream[-1].id, 0.0, None)
    again = History(10_000, 1 << 30, 1e9)
    if seen:
        again.extend(sorted(seen, key=lambda event: event.id), seen[0].id, seen[-1].id, 0.0, None)
    wanted = {event.id for event in full.snapshot(Scope("multi"))}
    assert {event.id for event in again.snapshot(Scope("multi"))} >= wanted


@given(events(), SCOPES, st.integers(0, 39))
def test_a_lagging_client_misses_nothing_but_superseded_progress(stream: list[Event], scope: Scope, cut: int) -> None:
    kept = history(framed(stream))
    cursor = Cursor(kept, scope, follow=True)
    if not stream[cut:]:
        return
    cursor.replay(stream[cut].id)
    cursor.lagging = True
    seen: list[Event] = []
    skipped = 0
    while cursor.behind():
        taken = cursor.take()
        seen += taken.events
        skipped += taken.skipped
    due = [event for event in stream[cut + 1 :] if event in scope]
    missed = [event for event in due if event not in seen]
    assert len(missed) == skipped
    assert [event for event in due if event in seen] == seen
    for event in missed:
        assert event.type == "github_sync_progress"
        assert any(
            later.type == event.type and later.operation == event.operation and later.id > event.id for later in seen
        )


@given(events(), st.integers(1, 10))
def test_memory_either_covers_a_cursor_exactly_or_says_that_it_does_not(stream: list[Event], most: int) -> None:
    kept = history(framed(stream), batches=5, events=most)
    assert len(kept) <= most
    for cut, event in enumerate(stream):
        for scope in (Scope("multi"), Scope("operation", operations=frozenset({"o1"}))):
            cursor = Cursor(kept, scope, follow=True)
            cursor.replay(event.id)
            if cursor.covered():
                assert read(cursor) == [later for later in stream[cut + 1 :] if later in scope]


@given(events(), st.integers(1, 6), st.integers(300, 5000))
def test_bytes_are_accounted_exactly_and_bounded(stream: list[Event], most: int, limit: int) -> None:
    from gateway.history import OVERHEAD

    kept = history(framed(stream), batches=10, events=most, bytes=limit)
    assert kept.bytes <= limit
    held = {event.id: event for event in kept.after(kept.floor, Scope("multi"), 1000)}
    for number in range(5):
        operation = kept.operation(f"o{number}")
        if operation is not None:
            held |= {event.id: event for event in operation.attempt()}
    assert kept.bytes == sum(len(event.frame) + OVERHEAD for event in held.values())


@given(events())
def test_a_single_operation_stream_is_over_exactly_at_its_last_attempts_end(stream: list[Event]) -> None:
    kept = history(framed(stream))
    scope = Scope("operation", operations=frozenset({"o0"}))
    cursor = Cursor(kept, scope)
    cursor.replay(kept.floor)
    own, over = [event for event in stream if event in scope], False
    while cursor.behind() and not over:
        over = cursor.take().over
    operation = kept.operation("o0")
    assert over == (operation is not None and operation.ended)
    if over:
        assert cursor.told == operation.outcome.id
        assert not any(event.type == "github_sync_started" and event.id > cursor.told for event in own)
