"""Shaping against the contract's words, read literally by a small model, and its purity."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.event import EntryId, decode
from gateway.shaping import DELIVERED, RAISED, STALE, THROTTLED, Track, shape
from tests.strategies import Entry, entries, events, fields

Shaped = list[tuple[EntryId, str, float | None]]


def shaped(stream: list[Entry], **options: bool) -> Shaped:
    tracks: dict[Any, Track] = {}
    return [(event.id, *shape(tracks.setdefault(event.key, Track()), event, **options)) for event in events(stream)]


def model(stream: list[Entry]) -> Shaped:
    """The contract: fencing, throttle against the last that passed in the attempt, never below its highest."""
    kept: Shaped = []
    state: dict[Any, dict[str, Any]] = {}
    for event in events(stream):
        of = state.setdefault(event.key, {"runs": {}, "current": None, "over": False, "passed": None, "highest": 0})
        run, seq, attempt = (event.data.get(name) for name in ("run", "seq", "attempt"))
        if run is not None:
            if run not in of["runs"]:
                lower = attempt is not None and of.get("attempt") is not None and attempt < of["attempt"]
                refused = of["current"] is not None and lower and not of["over"]
                of["runs"][run] = seq
                if not refused:
                    of |= {"current": run, "attempt": None, "over": False}
                stale = refused
            else:
                stale = run != of["current"] or seq <= of["runs"][run]
                of["runs"][run] = max(seq, of["runs"][run])
            if stale:
                kept.append((event.id, STALE, None))
                continue
            if attempt is not None:
                of["attempt"] = attempt
        if event.type.endswith("started"):
            of |= {"over": False}
        if event.terminal or event.type.endswith("started"):
            of |= {"passed": None, "highest": 0}
        if event.type.endswith(("completed", "failed")):
            of["over"] = True
        if not event.type.endswith("progress"):
            kept.append((event.id, DELIVERED, None))
            continue
        ms, percent = event.id >> 64, event.data["percent"]
        of["highest"] = max(percent, of["highest"])
        last = of["passed"]
        if last is None or percent == 100 or abs(percent - last[0]) >= 5 or ms - last[1] >= 1000:
            of["passed"] = percent, ms
            kept.append((event.id, *((RAISED, of["highest"]) if of["highest"] != percent else (DELIVERED, None))))
        else:
            kept.append((event.id, THROTTLED, None))
    return kept


@given(entries(runs=True))
def test_shaping_is_the_contracts(stream: list[Entry]) -> None:
    assert shaped(stream) == model(stream)


@given(entries(gaps_ms=(0, 3000)), st.booleans())
def test_percent_never_falls_within_an_attempt(stream: list[Entry], throttle: bool) -> None:
    highest: dict[Any, float] = {}
    for event, (_, outcome, raised) in zip(events(stream), shaped(stream, throttle=throttle), strict=True):
        assert throttle or outcome is not THROTTLED
        if event.terminal or event.type.endswith("started"):
            highest[event.key] = 0
        elif event.type.endswith("progress") and outcome is not THROTTLED:
            percent = event.data["percent"] if raised is None else raised
            assert percent >= highest.get(event.key, 0)
            highest[event.key] = percent


def workers(draw: st.DrawFn) -> list[Entry]:
    """What runs of one operation publish that keep the contract: `seq` from 1 on; some are superseded and go on."""
    runs: list[tuple[str, int]] = []
    found: list[Entry] = []
    for number in range(draw(st.integers(1, 40))):
        which = draw(st.integers(0, len(runs)))
        if which == len(runs):
            runs.append((f"r{which}", 0))
            kind = "started"
        else:
            kind = draw(st.sampled_from(("progress", "progress", "progress", "conflict", "completed", "retryable")))
        run, seq = runs[which]
        again = draw(st.integers(0, 9)) == 0 and seq > 1  # an XADD whose reply was lost
        runs[which] = run, seq + (not again)
        percent = {"percent": draw(st.integers(0, 100))} if kind == "progress" else {}
        more = {"run": run, "seq": seq if again else seq + 1} | percent
        found.append((EntryId((number + 1) * draw(st.integers(100, 101)) * 7 << 64), fields(kind, **more)))
    return found


@given(st.composite(workers)(), st.integers(0, 40))
def test_two_gateways_shape_every_attempt_alike_whose_started_both_have_read(stream: list[Entry], cut: int) -> None:
    """One has read the whole stream, one what a trim left of it."""
    whole, rest = shaped(stream), shaped(stream[cut:], whole=cut == 0)
    begun = False
    for (_, fields_), before, after in zip(stream[cut:], whole[cut:], rest, strict=True):
        begun = begun or (fields_[1] == b"github_sync_started" and before[1] is not STALE)
        if begun:
            assert before == after


def test_a_client_that_hops_between_the_two_never_sees_its_percent_fall() -> None:
    """As it was seen: 80 % at one, 40 % at the other, for one id, after a trim between two attempts."""
    stream = [
        (EntryId(1 << 64), fields("started")),
        (EntryId(2 << 64), fields("progress", percent=80)),
        (EntryId(3 << 64), fields("started")),
        (EntryId(4 << 64), fields("progress", percent=78)),
        (EntryId(5 << 64), fields("progress", percent=40)),
        (EntryId(2000 << 64), fields("progress", percent=41)),
    ]
    assert shaped(stream)[2:] == shaped(stream[2:], whole=False)


def test_a_worker_that_lost_its_lock_ends_nothing() -> None:
    stream = [
        (EntryId(1), fields("started", run="a", seq=1)),
        (EntryId(2), fields("progress", run="a", seq=2, percent=30)),
        (EntryId(3), fields("started", run="b", seq=1)),
        (EntryId(4), fields("completed", run="a", seq=3)),
        (EntryId(5), fields("progress", run="b", seq=2, percent=10)),
        (EntryId(6), fields("progress", run="b", seq=2, percent=10)),  # sent again
        (EntryId(7), fields("completed", run="b", seq=3)),
    ]
    assert [outcome for _, outcome, _ in shaped(stream)] == [
        DELIVERED, DELIVERED, DELIVERED, STALE, DELIVERED, STALE, DELIVERED
    ]  # fmt: skip


def test_a_lower_attempt_is_refused_while_the_current_run_goes_on() -> None:
    late = (EntryId(3), fields("started", run="a", seq=1, attempt=1))
    current = (EntryId(1), fields("started", run="b", seq=1, attempt=2))
    ended = (EntryId(2), fields("completed", run="b", seq=2))
    assert [outcome for _, outcome, _ in shaped([current, late])] == [DELIVERED, STALE]
    assert [outcome for _, outcome, _ in shaped([current, ended, late])] == [DELIVERED] * 3


def test_events_that_name_no_run_or_none_that_can_be_one_are_never_stale() -> None:
    track = Track()
    for number, run in enumerate((None, 5, "", "x" * 65, ["a"], True), 1):
        for again in (1, 2):
            more = {} if run is None else {"run": run, "seq": 1}
            event = decode(EntryId(number * 2 + again), fields("started", **more))
            assert shape(track, event) == (DELIVERED, None)
    assert not track.runs


def test_the_last_16_runs_are_remembered() -> None:
    stream = [(EntryId(number + 1), fields("started", run=f"r{number}", seq=1)) for number in range(30)]
    late = [(EntryId(100 + number), fields("completed", run=f"r{number}", seq=2)) for number in range(14, 29)]
    assert {outcome for _, outcome, _ in shaped(stream + late)[30:]} == {STALE}
