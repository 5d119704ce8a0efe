"""Log lines: JSON or text on stderr, tokens redacted, repeated lines rate-limited. Never decides what is logged."""

import json
import logging
import os
import re
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any, Final

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# A token in a query or a header, and the password of a URL.
_SECRETS: Final = (
    (re.compile(r"(access_token=|[Bb]earer\s+)[^\s&\"'\\]+"), r"\1***"),
    (re.compile(r"(://[^\s/:@]*:)[^\s/@]+@"), r"\1***@"),
)
_WORD: Final = re.compile(r"[\w.-]+")
UNWRITTEN_MOST: Final = 1 << 20
"""Bytes of lines that wait for standard error at most."""
PARTING: Final = 1.0
"""Seconds that the last lines have at the end of the process."""


def redact(text: str) -> str:
    """`text` without tokens and passwords, in time linear in its length."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return _WORD.sub(_without_jwt, text) if "eyJ" in text else text


def _without_jwt(word: re.Match[str]) -> str:
    """A word without what is shaped like a JWT in it, which always begins with `{"` in base64."""
    text, begin = word[0], word[0].find("eyJ")
    return text[:begin] + "***" if begin >= 0 and text.count(".", begin) >= 2 else text


class _Formatter(logging.Formatter):
    """A record as `time level logger message key=value...`; what was given as `extra` follows as members."""

    def members(self, record: logging.LogRecord) -> dict[str, Any]:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {
            "time": moment,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return line


class JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(json.dumps(self.members(record), default=str, ensure_ascii=False, separators=(",", ":")))


class TextFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = self.members(record)
        head = f"{line.pop('time')} {line.pop('level'):7} {line.pop('message')}"
        exception = line.pop("exception", None)
        del line["logger"]
        tail = "".join(f" {key}={value}" for key, value in line.items())
        return redact(head + tail + (f"\n{exception}" if exception else ""))


class Stderr(logging.Handler):
    """Writes lines to a descriptor from a thread of its own, so that one that nobody reads stops nothing: lines beyond
    UNWRITTEN_MOST bytes are dropped and counted.
    """

    def __init__(self, descriptor: int = 2) -> None:
        super().__init__()
        self.dropped = 0
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._write, name="stderr", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
        except Exception:
            self.handleError(record)
            return
        with self._changed:
            if self._bytes + len(line) > UNWRITTEN_MOST:
                self.dropped += 1
                return
            self._bytes += len(line)
            self._lines.append(line)
            self._changed.notify_all()

    def flush(self) -> None:
        """Waits for what was logged to be written, PARTING seconds at most. Called at the end of the process."""
        with self._changed:
            self._changed.wait_for(lambda: not self._bytes, PARTING)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._lines))
                line = self._lines.popleft()
            left = memoryview(line)
            try:
                while left:
                    left = left[os.write(self._descriptor, left) :]
            except OSError:  # closed, or non-blocking and full
                self.dropped += 1
            with self._changed:
                self._bytes -= len(line)
                self._changed.notify_all()


def dropped() -> int:
    """Log lines that standard error did not take."""
    return sum(handler.dropped for handler in logging.getLogger().handlers if isinstance(handler, Stderr))


def setup(level: str, format: str) -> None:
    """Sends every logger's lines to stderr; `level` and `format` are those of SSE_LOG_LEVEL and SSE_LOG_FORMAT."""
    handler = Stderr()
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


class Limited:
    """A logger that writes at most `burst` lines a key every `period` seconds, and then says how many it left out."""

    def __init__(self, logger: logging.Logger, burst: int = 5, period: float = 10.0) -> None:
        self._logger = logger
        self._burst = burst
        self._period = period
        self._windows: dict[str, tuple[float, int]] = {}

    def warning(self, key: str, message: str, **members: object) -> None:
        """Logs `message` unless lines of this `key` (a fixed word, never input) came too often."""
        now = time.monotonic()
        began, count = self._windows.get(key, (now, 0))
        if now - began >= self._period:
            if count > self._burst:
                members["left_out"] = count - self._burst
            began, count = now, 0
        self._windows[key] = began, count + 1
        if count < self._burst:
            self._logger.warning(message, extra=members)
