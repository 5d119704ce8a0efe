"""What both forms of the kit share: one attempt's events in order, throttled, and ended exactly once.

Pure: no I/O, no clock of its own (times are parameters, in seconds), no Redis. Nothing here raises into a sync.
"""

import json
import math
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final, NamedTuple

from gateway import schema
from gateway.producer.outbox import Entry, log
from gateway.producer.text import LIST_MAX, clean, identifier, plain

MIN_POINTS: Final = 5
MIN_SECONDS: Final = 1.0
ROOM: Final = schema.ENTRY_MAX_BYTES - 2048
"""Bytes of `data` that leave room for the entry's other fields."""
SIZES: Final = ((2000, 200), (500, 50), (100, 10))
"""Lengths of texts and of lists, tried until an event has room."""

LAST_SEQ: Final = 2**31 - 1
"""The `seq` of every end: nothing of its run counts behind it, a second end neither."""

STOPPED: Final = {"error": "The sync was stopped before its end", "error_code": "UNKNOWN", "retryable": False}
"""The standard error of a sync that was cancelled, interrupted or exited: none of GitHub's."""

Classify = Callable[[BaseException], Mapping[str, Any]]
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Trim:
    """How XADD trims the stream: `MAXLEN ~ maxlen`, or `MINID ~` of entries older than `max_age` seconds."""

    maxlen: int | None = 100_000
    max_age: float | None = None

    def words(self, now: float) -> tuple[str | int, ...]:
        if self.max_age is not None:
            return "MINID", "~", f"{int((now - self.max_age) * 1000)}-0"
        return ("MAXLEN", "~", self.maxlen) if self.maxlen is not None else ()


class Sync(NamedTuple):
    """What a sync is: whose, which way, and which attempt of how many, where its queue knows."""

    operation: str
    project: str
    direction: str
    sync_mode: str | None = None
    attempt: int | None = None
    attempts: int | None = None


def whole(number: object) -> int | None:
    """A count as queues give it, which may be text; None where it is none."""
    try:
        counted = int(number)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return None
    return counted if counted > 0 else None


class Attempt:
    """One run of a sync, from `started` to its terminal event. `emit` takes events and answers with their numbers.

    Two threads may end it at once, and a signal's handler while it is ending: the gateway takes the first of these
    ends, for they have one `seq`.
    """

    def __init__(
        self, sync: Sync, emit: Callable[[Entry], int], clock: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._sync = sync
        self._emit = emit
        self._clock = clock
        self._wall = wall
        self._number = next(_numbers)
        self._run, self._seq = uuid.uuid4().hex, count(1)
        self._began = clock()
        self._percent: float | None = None
        self._told_at = 0.0
        self._told: float = 0
        self._result: dict[str, Any] = {}
        self._pid = os.getpid()
        self.end: int | None = None  # the number of its terminal event

    @property
    def over(self) -> bool:
        """Whether it has ended, or is another process's: a fork has a copy of it."""
        return self.end is not None or self._pid != os.getpid()

    def forget(self) -> None:
        """From here on it tells nothing."""
        self.end = 0

    def start(self) -> None:
        self._publish(schema.STARTED, {"direction": self._sync.direction, "syncMode": self._sync.sync_mode})

    def progress(self, percent: float, message: object, step: object = None) -> None:
        percent = min(max(float(percent), 0.0), 100.0) if math.isfinite(float(percent)) else self._percent or 0.0
        percent = max(percent, self._percent or 0.0)
        now = self._clock()
        near = self._percent is not None and percent - self._told < MIN_POINTS and now - self._told_at < MIN_SECONDS
        self._percent = percent
        if near and (percent < 100 or self._told >= 100):
            return
        self._told, self._told_at = percent, now
        shown = math.floor(percent * 10 + 0.5) / 10  # as JavaScript rounds
        step = None if step is None else clean(step)
        self._publish(
            schema.PROGRESS,
            {"percent": int(shown) if shown.is_integer() else shown, "message": clean(message), "currentStep": step},
        )

    def conflict(
        self,
        paths: Iterable[object],
        strategy: str,
        resolution_required: bool | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        required = strategy == "manual_review" if resolution_required is None else resolution_required
        files = [str(path) for path in paths]
        more = {"conflictsTotal": len(files)} if len(files) > LIST_MAX else {}
        told = {"conflicts": files, "strategy": strategy, "resolutionRequired": required, "conflictDetails": details}
        self._publish(schema.CONFLICT, told | more)

    def result(self, members: Mapping[str, Any]) -> None:
        self._result |= members

    def complete(self) -> None:
        duration = round((self._clock() - self._began) * 1000)
        body = {"status": "success", "direction": self._sync.direction, "filesChanged": 0}
        more = {name: value for name, value in self._result.items() if plain(value) is not None}
        self._publish(schema.COMPLETED, {**body, **more, "status": "success", "duration": duration})

    def fail(self, error: Mapping[str, Any]) -> None:
        """`retryable` only where another attempt will come: nobody must wait for one that won't."""
        sync, body = self._sync, {key: value for key, value in error.items() if key != "error"}
        left = sync.attempt is not None and sync.attempts is not None and sync.attempt < sync.attempts
        again = left and error.get("retryable") is True
        after = body.pop("retryAfter", None)
        if again and isinstance(after, (int, float)) and 0 <= after < math.inf:
            body["retryAfter"] = after
        code = error.get("error_code")
        told = {
            "message": clean(error.get("error") or "The sync failed"),
            "error_code": code if code in schema.ERROR_CODES else "UNKNOWN",
            "retryable": again,
        }
        self._publish(schema.FAILED, {**body, **told, "status": "failed"})

    def _publish(self, type: str, members: Mapping[str, Any]) -> None:
        if self.over:
            return
        terminal = type in (schema.COMPLETED, schema.FAILED)
        sync = self._sync
        stamp = datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        own = {
            "operationId": identifier(sync.operation, schema.ID_MAX_LENGTH),
            "projectId": identifier(sync.project, schema.ID_MAX_LENGTH),
            "timestamp": stamp,
            "run": self._run,
            "seq": LAST_SEQ if terminal else next(self._seq),
            "attempt": sync.attempt,
            "attempts": sync.attempts,
        }
        own = {name: value for name, value in own.items() if value is not None}
        data = _fitting(members, own, schema.DATA[type]["required"])
        fields = ("buildId", f"github-{own['projectId']}", "type", type, "data", data, "timestamp", stamp)
        number = self._emit(Entry(self._number, type, terminal, fields))
        if terminal:
            self.end = number


class Told:
    """What both forms of an operation have in common; the producer's `classify` makes the error of an exception."""

    def __init__(self, attempt: Attempt, producer: Any) -> None:
        self.attempt = attempt
        self._producer = producer

    def tell(self, event: Callable[..., None], *arguments: Any, **named: Any) -> None:
        """Makes an event, and logs what can't be made one: a sync never fails for its events."""
        try:
            event(*arguments, **named)
        except Exception:
            log.exception("an event could not be made, and is left out")

    def result(self, **members: Any) -> None:
        """What `completed` will say: files_changed, insertions, deletions, commit_sha, pr_url, branch_name."""
        self.attempt.result({_camel(name): value for name, value in members.items()})

    def failed(self, exception: BaseException) -> None:
        """Publishes `failed` now, for a sync that handles its exceptions itself."""
        try:
            error = dict(self._producer.classify(exception))
        except Exception:
            log.exception("an exception could not be classified")
            error = STOPPED | {"error": f"The sync failed: {type(exception).__name__}"}
        self.tell(self.attempt.fail, error)

    def leave(self, exception: BaseException | None) -> None:
        """The block is left, by `exception` or well."""
        if exception is None:
            self.tell(self.attempt.complete)
        else:
            self.failed(exception)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def _fitting(members: Mapping[str, Any], own: dict[str, Any], required: Iterable[str]) -> str:
    """The event's JSON; of what is too large texts and lists are cut, then what isn't needed goes."""
    for texts, items in SIZES:
        told = plain({name: value for name, value in members.items() if value is not None}, texts, items)
        text = _json({name: value for name, value in told.items() if value is not None} | own)
        if len(text.encode()) <= ROOM:
            return text
    told = plain({name: members[name] for name in required if name in members}, texts, items)
    return _json(told | own)


def _json(data: Mapping[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
