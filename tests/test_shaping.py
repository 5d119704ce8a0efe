"""Shaping against the contract's words, read literally by a ten-line model, and its purity."""

import copy

from hypothesis import given
from hypothesis import strategies as st

from gateway.event import Event
from gateway.shaping import Shaper
from tests.strategies import events


def model(stream: list[Event]) -> list[tuple[int, float | None]]:
    """The contract: throttle against the last that passed, then never below the highest seen of the attempt."""
    passed: dict[str, tuple[float, int]] = {}
    highest: dict[str, float] = {}
    kept = []
    for event in stream:
        operation, ms, percent = event.operation, event.id >> 64, event.percent
        if percent is None:
            if event.terminal:
                passed.pop(operation, None)
            if event.terminal or event.type == "github_sync_started":
                highest[operation] = 0
            kept.append((event.id, None))
            continue
        highest[operation] = max(percent, highest.get(operation, 0))
        last = passed.get(operation)
        if last is None or percent == 100 or abs(percent - last[0]) >= 5 or ms - last[1] >= 1000:
            passed[operation] = percent, ms
            kept.append((event.id, highest[operation]))
    return kept


@given(events())
def test_shaping_is_the_contracts(stream: list[Event]) -> None:
    wanted = model(stream)
    shaper = Shaper()
    assert [(event.id, event.percent) for event in stream if shaper.shape(event)] == wanted


@given(events(), st.integers(0, 40))
def test_what_was_done_to_an_event_can_be_done_again_to_any_part(stream: list[Event], cut: int) -> None:
    again = copy.deepcopy(stream[cut:])
    shaper = Shaper()
    shaped = [(event.id, event.percent, event.data) for event in stream if shaper.shape(event)]
    recalled = [(event.id, event.percent, event.data) for event in again if shaper.recall(event)]
    assert recalled == [row for row in shaped if not stream[cut:] or row[0] >= stream[cut].id][: len(recalled)]
    assert len(recalled) == sum(1 for row in shaped if stream[cut:] and row[0] >= stream[cut].id)


@given(events(gaps_ms=(0, 3000)))
def test_percent_never_falls_within_an_attempt(stream: list[Event]) -> None:
    shaper = Shaper()
    highest: dict[str, float] = {}
    for event in stream:
        if not shaper.shape(event):
            continue
        if event.percent is None:
            if event.terminal or event.type == "github_sync_started":
                highest[event.operation] = 0
        else:
            assert event.percent >= highest.get(event.operation, 0)
            highest[event.operation] = event.percent


def test_operations_that_died_are_forgotten_after_a_day_of_stream_time() -> None:
    shaper = Shaper()
    day = 24 * 3600 * 1000
    for number in range(1000):
        shaper.shape(progress(number * day // 100, f"o{number}", 50))
    assert len(shaper._attempts) <= 102


def progress(ms: int, operation: str, percent: float) -> Event:
    from gateway.event import EntryId

    return Event(EntryId(ms << 64), "github_sync_progress", operation, "p", {"percent": percent})
