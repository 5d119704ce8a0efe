"""What both forms of the kit share: an attempt's events in order, and the outbox that keeps them while Redis is away.

Pure: no I/O, no clock of its own (times are parameters, in seconds), no Redis. Nothing here raises into a sync.
"""

import json
import logging
import math
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from gateway import schema

MIN_POINTS: Final = 5
MIN_SECONDS: Final = 1.0
TEXT_MAX: Final = 2000
PATHS_MAX: Final = 200
ROOM: Final = schema.ENTRY_MAX_BYTES - 2048
"""Bytes of `data` that leave room for the entry's other fields."""

_TOKENS: Final = (
    (re.compile(r"(https?://)[^/\s@'\"]+@"), r"\1***@"),
    (re.compile(r"\b(?:gh[pousr]_|github_pat_)\w+"), "***"),
    (re.compile(r"(?i)\b(bearer|token|basic)\s+[\w.~+/=-]{8,}"), r"\1 ***"),
)
_WORD: Final = re.compile(r"[\w.-]+")

STOPPED: Final = {"error": "The sync was stopped before its end", "error_code": "UNKNOWN", "retryable": False}
"""The standard error of a sync that was cancelled, interrupted or exited: none of GitHub's."""

log = logging.getLogger("gateway.producer")


def redact(text: str) -> str:
    """`text` without tokens: user info of URLs, GitHub's token forms, Authorization values, JWTs. In linear time."""
    for pattern, replacement in _TOKENS:
        text = pattern.sub(replacement, text)
    return _WORD.sub(_without_jwt, text) if "eyJ" in text else text


def _without_jwt(word: re.Match[str]) -> str:
    """A word without what is shaped like a JWT in it, which always begins with `{"` in base64."""
    text, begin = word[0], word[0].find("eyJ")
    return text[:begin] + "***" if begin >= 0 and text.count(".", begin) >= 2 else text


@dataclass(frozen=True, slots=True)
class Trim:
    """How XADD trims the stream: `MAXLEN ~ maxlen`, or `MINID ~` of entries older than `max_age` seconds."""

    maxlen: int | None = 100_000
    max_age: float | None = None

    def words(self, now: float) -> tuple[str | int, ...]:
        if self.max_age is not None:
            return "MINID", "~", f"{int((now - self.max_age) * 1000)}-0"
        return ("MAXLEN", "~", self.maxlen) if self.maxlen is not None else ()


class Entry(NamedTuple):
    """One event on its way: XADD's fields, and what the outbox must know of it."""

    operation: str
    type: str
    terminal: bool
    fields: tuple[str, ...]

    def command(self, stream: str, trim: Trim, now: float) -> tuple[str | int, ...]:
        return "XADD", stream, *trim.words(now), "*", *self.fields


class Outbox:
    """Events in order, bounded: superseded progress goes first, then other progress, then other events, and a terminal
    event never. `dropped` counts what went.
    """

    def __init__(self, limit: int) -> None:
        self._entries: deque[Entry] = deque()
        self._limit = limit
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry) -> None:
        self._entries.append(entry)
        if len(self._entries) > self._limit:
            self._drop_one()

    def first(self) -> Entry:
        return self._entries[0]

    def remove(self, entry: Entry) -> None:
        """Takes out an entry that was sent, or can't be; it may have been dropped meanwhile."""
        if self._entries and self._entries[0] is entry:
            self._entries.popleft()

    def give_up(self) -> int:
        """Drops all; how many that were."""
        lost = len(self._entries)
        self.dropped += lost
        self._entries.clear()
        return lost

    def _drop_one(self) -> None:
        later: set[str] = set()
        superseded = other = event = None
        for at in range(len(self._entries) - 1, 0, -1):  # the first may be on the wire
            entry = self._entries[at]
            if entry.type == schema.PROGRESS:
                if entry.operation in later:
                    superseded = at
                other = at
                later.add(entry.operation)
            elif not entry.terminal:
                event = at
        victim = next((at for at in (superseded, other, event) if at is not None), None)
        if victim is not None:
            del self._entries[victim]
            self.dropped += 1
            if self.dropped & (self.dropped - 1) == 0:  # at 1, 2, 4, 8…
                log.warning("Redis is away and the outbox is full: %d events dropped so far", self.dropped)


class Attempt:
    """One operation from `started` to its terminal event: throttles, keeps percent from falling, ends exactly once."""

    def __init__(
        self,
        operation: str,
        project: str,
        direction: str,
        sync_mode: str | None,
        emit: Callable[[Entry], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._operation = str(operation)  # a queue may number its jobs
        self._project = str(project)
        self._direction = direction
        self._sync_mode = sync_mode
        self._emit = emit
        self._clock = clock
        self._wall = wall
        self._began = clock()
        self._percent: float | None = None
        self._told_at = 0.0
        self._told: float = 0
        self._result: dict[str, Any] = {}
        self.ended = False

    def start(self) -> None:
        self._publish(schema.STARTED, direction=self._direction, syncMode=self._sync_mode)

    def progress(self, percent: float, message: str, step: str | None = None) -> None:
        percent = min(max(float(percent), 0.0), 100.0) if math.isfinite(float(percent)) else self._percent or 0.0
        percent = max(percent, self._percent or 0.0)
        now = self._clock()
        near = self._percent is not None and percent - self._told < MIN_POINTS and now - self._told_at < MIN_SECONDS
        self._percent = percent
        if near and (percent < 100 or self._told >= 100):
            return
        self._told, self._told_at = percent, now
        shown = int(percent) if percent.is_integer() else round(percent, 1)
        self._publish(schema.PROGRESS, percent=shown, message=_text(message), currentStep=step)

    def conflict(
        self,
        paths: Sequence[str],
        strategy: str,
        resolution_required: bool | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        required = strategy == "manual_review" if resolution_required is None else resolution_required
        shown = [str(path) for path in paths[:PATHS_MAX]]
        more = {"conflictsTotal": len(paths)} if len(paths) > PATHS_MAX else {}
        self._publish(
            schema.CONFLICT,
            conflicts=shown,
            strategy=strategy,
            resolutionRequired=required,
            conflictDetails=details,
            **more,
        )

    def result(self, **members: Any) -> None:
        self._result |= members

    def complete(self) -> None:
        duration = round((self._clock() - self._began) * 1000)
        body = {"status": "success", "direction": self._direction, "filesChanged": 0} | self._result
        self._publish(schema.COMPLETED, **(body | {"duration": duration}))

    def fail(self, error: Mapping[str, Any]) -> None:
        body = {key: value for key, value in error.items() if key != "error"}
        self._publish(schema.FAILED, status="failed", message=_text(error["error"]), **body)

    def _publish(self, type: str, **members: Any) -> None:
        if self.ended:
            return
        stamp = datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        data = {"operationId": self._operation, "projectId": self._project, "timestamp": stamp}
        data |= {name: value for name, value in members.items() if value is not None}
        terminal = type == schema.COMPLETED or type == schema.FAILED
        self.ended = terminal
        fields = ("buildId", f"github-{self._project}", "type", type, "data", _dumps(data), "timestamp", stamp)
        self._emit(Entry(self._operation, type, terminal, fields))


class Told:
    """What both forms of an operation have in common. `classify` makes the standard error of an exception."""

    def __init__(self, attempt: Attempt, classify: Callable[[BaseException], dict[str, Any]]) -> None:
        self.attempt = attempt
        self._classify = classify

    def tell(self, event: Callable[..., None], *arguments: Any, **named: Any) -> None:
        """Makes an event, and logs what can't be made one: a sync never fails for its events."""
        try:
            event(*arguments, **named)
        except Exception:
            log.exception("an event could not be made, and is left out")

    def result(self, **members: Any) -> None:
        """What `completed` will say: files_changed, insertions, deletions, commit_sha, pr_url, branch_name."""
        for name, value in members.items():
            first, *rest = name.split("_")
            self.attempt.result(**{first + "".join(map(str.capitalize, rest)): value})

    def failed(self, exception: BaseException) -> None:
        """Publishes `failed` now, for a sync that handles its exceptions itself."""
        error: Mapping[str, Any] = STOPPED
        if isinstance(exception, Exception):
            try:
                error = self._classify(exception)
            except Exception:
                log.exception("an exception could not be classified")
        self.attempt.fail(error)

    def leave(self, exception: BaseException | None) -> None:
        """The block is left, by `exception` or well."""
        if exception is None:
            self.attempt.complete()
        else:
            self.failed(exception)


def _text(value: object) -> str:
    text = redact(str(value))
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…"


def _dumps(data: dict[str, Any]) -> str:
    try:
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), default=str, skipkeys=True, allow_nan=False)
    except Exception:  # NaN, a circle, a __str__ that raises whatever it likes: said in words instead
        log.exception("an event holds what is no JSON")
        data = {
            name: value if isinstance(value, (str, bool, int)) else f"{type(value).__name__}"
            for name, value in data.items()
        }
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    if len(text.encode("utf-8", "replace")) > ROOM:
        # Too large to be accepted: texts are cut, lists shortened, and objects, which only help, go.
        lean = {name: _text(value) if isinstance(value, str) else value for name, value in data.items()}
        lean |= {
            name: [_text(item)[:200] for item in value[:20]] for name, value in data.items() if isinstance(value, list)
        }
        lean = {name: value for name, value in lean.items() if not isinstance(value, dict)}
        text = json.dumps(lean, ensure_ascii=False, separators=(",", ":"), default=str)
    return text.encode("utf-8", "replace").decode()
