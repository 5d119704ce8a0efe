"""Fencing, throttle and monotonic percent: a pure function of the entries, never of a clock.

What becomes of an event depends on what its operation's `Track` holds, and that on the entries before it alone: of an
attempt whose `started` is read, throttle and percent depend on nothing older. Every replica and every restart therefore
shapes it alike. Fencing is Kafka's: a producer's epoch (`run`) and sequence (`seq`).
"""

from collections.abc import Mapping
from sys import getsizeof
from typing import Any, Final

from gateway import schema
from gateway.event import Event

MIN_POINTS: Final = 5
MIN_MS: Final = 1000
RUNS: Final = 16
"""Runs of an operation that are remembered."""

DELIVERED, RAISED, THROTTLED, STALE = "delivered", "raised", "throttled", "stale"
"""What becomes of an event."""

_NUMBERS: Final = (int, float)


class Track:
    """What shaping remembers of one operation.

    `passed` and `passed_ms` are the last percent that passed in the attempt and its entry id's milliseconds, `highest`
    the highest seen. `runs` holds the greatest `seq` of each run seen, `run` the current one, `attempt` the number that
    it named, until it `ended`.
    """

    __slots__ = ("attempt", "ended", "highest", "passed", "passed_ms", "run", "runs")

    def __init__(self) -> None:
        self.passed: float | None = None
        self.passed_ms = 0
        self.highest: float = 0
        self.run: str | None = None
        self.runs: dict[str, int] | None = None
        self.attempt: int | None = None
        self.ended = False

    @property
    def bytes(self) -> int:
        """Bytes beyond a fixed size."""
        return 0 if self.runs is None else 300 + sum(map(getsizeof, self.runs)) + 40 * len(self.runs)


def shape(track: Track, event: Event, *, throttle: bool = True, whole: bool = True) -> tuple[str, float | None]:
    """What becomes of `event`, and its percent where that is raised. Call once an event, in stream order.

    `whole` says that nothing of the stream was trimmed before reading began.
    """
    data, type = event.data, event.type
    if "run" in data and _is_stale(track, data, whole=whole):
        return STALE, None
    if type == schema.STARTED:
        track.passed, track.highest, track.ended = None, 0, False
    elif type != schema.PROGRESS:
        track.ended = track.ended or type in (schema.COMPLETED, schema.FAILED)
        if event.terminal:
            track.passed, track.highest = None, 0
    elif (percent := percent_of(data)) is not None:
        return _progress(track, percent, event.id >> 64, throttle=throttle)
    return DELIVERED, None


def percent_of(data: Mapping[str, Any]) -> float | None:
    """The percent of a progress event, unless it is none of 0-100: then it is nothing to shape."""
    percent = data.get("percent")
    return percent if percent.__class__ in _NUMBERS and 0 <= percent <= 100 else None


def _progress(track: Track, percent: float, ms: int, *, throttle: bool) -> tuple[str, float | None]:
    raised = track.highest = max(percent, track.highest)
    if (
        throttle
        and track.passed is not None
        and percent != 100
        and abs(percent - track.passed) < MIN_POINTS
        and ms - track.passed_ms < MIN_MS
    ):
        return THROTTLED, None
    track.passed, track.passed_ms = percent, ms
    return (DELIVERED, None) if raised == percent else (RAISED, raised)


def _is_stale(track: Track, data: Mapping[str, Any], *, whole: bool) -> bool:
    """Whether another run than the event's own has taken over, or the event was sent before."""
    run, seq, attempt = data["run"], _number(data.get("seq")), _number(data.get("attempt"))
    if run.__class__ is not str or not 0 < len(run) <= schema.RUN_MAX_LENGTH:
        return False
    if track.runs is None:
        track.runs = {}
    known = track.runs.get(run)
    if known is None:
        stale = _is_refused(track, seq, attempt, whole=whole)
        if not stale:
            track.run, track.attempt, track.ended = run, None, False
        track.runs[run] = seq or 0
        _forget(track)
    else:
        stale = run != track.run or (seq is not None and seq <= known)
        if seq is not None and seq > known:
            track.runs[run] = seq
    if not stale and attempt is not None:
        track.attempt = attempt
    return stale


def _is_refused(track: Track, seq: int | None, attempt: int | None, *, whole: bool) -> bool:
    """Whether a run that is seen for the first time does not become the current one."""
    if track.run is None:
        return False
    if attempt is not None and track.attempt is not None and attempt != track.attempt:
        return attempt < track.attempt and not track.ended
    # A run begins with 1. Where the stream was trimmed, one that comes with more began before all that is held, and so
    # before the current one did: whoever has read its beginning knows it, and both must judge alike.
    return seq is not None and seq > 1 and not whole


def _forget(track: Track) -> None:
    assert track.runs is not None
    if len(track.runs) > RUNS:
        del track.runs[next(run for run in track.runs if run != track.run)]


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and value is not True and value >= 1 else None
