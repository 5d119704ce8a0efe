"""Throttle and monotonic percent: a pure function of the entries, never of a clock.

Every replica and every restart that reads the same entries shapes them alike. Only progress events with a percent of
0-100 are shaped; all else passes as it is.
"""

from collections import OrderedDict
from typing import Final

from gateway import schema
from gateway.event import EntryId, Event

MIN_POINTS: Final = 5
MIN_MS: Final = 1000
FORGET_MS: Final = 24 * 3600 * 1000
VERDICTS: Final = 100_000
"""Verdicts remembered: as many as the stream holds entries by the contract's MAXLEN."""


class _Attempt:
    """What shaping remembers of an operation: the last percent that passed, when, and the highest seen."""

    __slots__ = ("highest", "ms", "passed", "passed_ms")

    def __init__(self) -> None:
        self.passed: float | None = None
        self.passed_ms = 0
        self.highest: float = 0
        self.ms = 0


class Shaper:
    """Shapes events in stream order, and can tell later what it did to one (for pages that are read again).

    An operation is forgotten at its terminal event, and after a day of stream time without progress. A verdict that is
    older than VERDICTS others is forgotten too: then the event passes, which costs a listener an extra frame, no more.
    """

    def __init__(self) -> None:
        self._attempts: OrderedDict[str, _Attempt] = OrderedDict()
        self._verdicts: OrderedDict[EntryId, float | None] = OrderedDict()

    def shape(self, event: Event) -> bool:
        """Whether the event passes; its percent may have been raised. Call once an event, in stream order."""
        if event.percent is None:
            if event.terminal:
                self._attempts.pop(event.operation, None)
            elif event.type == schema.STARTED and (attempt := self._attempts.get(event.operation)):
                attempt.highest = 0
            return True
        ms, percent = event.id >> 64, event.percent
        attempt = self._attempt(event.operation, ms)
        raised = max(percent, attempt.highest)
        attempt.highest = raised
        if (
            attempt.passed is not None
            and percent != 100
            and abs(percent - attempt.passed) < MIN_POINTS
            and ms - attempt.passed_ms < MIN_MS
        ):
            self._remember(event.id, None)
            return False
        attempt.passed, attempt.passed_ms = percent, ms
        if raised != percent:
            self._remember(event.id, raised)
            _raise(event, raised)
        return True

    def recall(self, event: Event) -> bool:
        """Does again to an event that was shaped before, decoded anew, what `shape` did to it."""
        verdict = self._verdicts.get(event.id, event.percent)
        if verdict is None:
            return event.percent is None
        if verdict != event.percent:
            _raise(event, verdict)
        return True

    def reset(self) -> None:
        """Forgets all: the stream began anew."""
        self._attempts.clear()
        self._verdicts.clear()

    def _attempt(self, operation: str, ms: int) -> _Attempt:
        attempts = self._attempts
        while attempts and next(iter(attempts.values())).ms < ms - FORGET_MS:
            attempts.popitem(last=False)
        attempt = attempts.get(operation)
        if attempt is None:
            attempt = attempts[operation] = _Attempt()
        else:
            attempts.move_to_end(operation)
        attempt.ms = ms
        return attempt

    def _remember(self, id: EntryId, verdict: float | None) -> None:
        self._verdicts[id] = verdict
        if len(self._verdicts) > VERDICTS:
            self._verdicts.popitem(last=False)


def _raise(event: Event, percent: float) -> None:
    event.percent = percent
    event.data["percent"] = percent
