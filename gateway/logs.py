"""Log lines: JSON or text on stderr, tokens redacted, repeated lines rate-limited. Never decides what is logged."""

import logging
import re
import time
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from aiohttp.http_exceptions import HttpProcessingError

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# A token in a query or a header, anything shaped like a JWT, and the password of a URL.
_SECRETS: Final = (
    (re.compile(r"(access_token=|[Bb]earer\s+)[^\s&\"'\\]+"), r"\1***"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]*\.[\w-]*"), "***"),
    (re.compile(r"(://[^\s/:@]*:)[^\s/@]+@"), r"\1***@"),
)


def redact(text: str) -> str:
    """`text` without tokens and passwords."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


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
        return redact(orjson.dumps(self.members(record), default=str).decode())


class TextFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = self.members(record)
        head = f"{line.pop('time')} {line.pop('level'):7} {line.pop('message')}"
        exception = line.pop("exception", None)
        del line["logger"]
        tail = "".join(f" {key}={value}" for key, value in line.items())
        return redact(head + tail + (f"\n{exception}" if exception else ""))


def setup(level: str, format: str) -> None:
    """Sends every logger's lines to stderr; `level` and `format` are those of SSE_LOG_LEVEL and SSE_LOG_FORMAT."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.server").addFilter(Malformed())


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


class Malformed(logging.Filter):
    """In place of aiohttp's traceback for each malformed request, which quotes it, a short line, rate-limited."""

    def __init__(self) -> None:
        super().__init__()
        self._limited = Limited(logging.getLogger(__name__))

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            return True
        self._limited.warning("malformed", "malformed HTTP request refused", error=type(error).__name__)
        return False
