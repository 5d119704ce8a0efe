"""A stream entry made into an event, or rejected with a reason.

Owns the first table of the contract: entry ids, the fields of an entry, the routing members of `data`. Never judges
the second table (schema.py), never drops for rate (shaping.py), never makes wire bytes (frame.py).
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, NewType, TypeGuard

import orjson

from gateway import schema

EntryId = NewType("EntryId", int)
"""A Redis stream entry id as one integer, milliseconds << 64 | sequence: it compares as Redis compares."""

ZERO: Final = EntryId(0)
_SEQUENCE: Final = (1 << 64) - 1
_ID = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})", re.ASCII)
_TYPE = re.compile(schema.TYPE_PATTERN.encode())
_KNOWN: Final = {type.encode(): type for type in schema.TYPES}
_NUMBERS: Final = (int, float)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")  # Unicode category Cc
# A JSON escape: a whole surrogate pair, a lone surrogate (group 1), or any other.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_LAST_MS: Final = 253402300799999  # the year 9999 ends; beyond it JavaScript's own last moment stands for any
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def parse_id(text: str) -> EntryId | None:
    """`ms-seq` in decimal, both below 2**64 (Redis, "Streams": entry ids), else None."""
    match = _ID.fullmatch(text)
    if match is None:
        return None
    ms, seq = int(match[1]), int(match[2])
    return EntryId(ms << 64 | seq) if ms <= _SEQUENCE and seq <= _SEQUENCE else None


def format_id(id: EntryId) -> str:
    """The id as Redis and browsers write it: `ms-seq`."""
    return f"{id >> 64}-{id & _SEQUENCE}"


def valid_id(value: object) -> TypeGuard[str]:
    """Whether `value` can name an operation or a project: 1-256 characters, none of them a control character."""
    return isinstance(value, str) and 0 < len(value) <= schema.ID_MAX_LENGTH and _CONTROL.search(value) is None


REASONS: Final = ("too_large", "type", "data", "json", "operation_id", "project_id", "timestamp")


class Rejected(Exception):
    """An entry that breaks the first table. `reason` (of REASONS) is the metric's label, `detail` tells the worker's
    author.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Event:
    """One accepted event. `data` lives only until `frame` is made of it; `percent` is None unless it can be shaped."""

    __slots__ = ("data", "frame", "id", "operation", "percent", "project", "terminal", "type")

    def __init__(self, id: EntryId, type: str, operation: str, project: str, data: dict[str, Any]) -> None:
        self.id = id
        self.type = type
        self.operation = operation
        self.project = project
        self.percent: float | None = None
        self.terminal = False
        if type == schema.PROGRESS:
            percent = data.get("percent")
            if percent.__class__ in _NUMBERS and 0 <= percent <= 100:
                self.percent = percent
        else:
            self.terminal = schema.is_terminal(type, data)
        self.data = data
        self.frame = b""

    def __repr__(self) -> str:
        return f"<Event {format_id(self.id)} {self.type} {self.operation}>"


def decode(id: EntryId, fields: Sequence[bytes]) -> Event:
    """The event of one entry; `fields` alternate names and values, as Redis replies with them.

    Raises Rejected where a rule of the contract's first table is broken. `data` gets the entry's `timestamp` where it
    has none of its own, and the id's milliseconds where the entry has none either.
    """
    if sum(map(len, fields)) > schema.ENTRY_MAX_BYTES:
        raise Rejected("too_large", f"over {schema.ENTRY_MAX_BYTES} bytes: keep large things out of the event")
    entry = dict(zip(fields[::2], fields[1::2], strict=True))
    written = entry.get(b"type", b"")
    type = _KNOWN.get(written)
    if type is None:
        if _TYPE.fullmatch(written) is None:
            raise Rejected("type", f"field type must match {schema.TYPE_PATTERN}")
        type = written.decode()
    raw = entry.get(b"data")
    if raw is None:
        raise Rejected("data", "field data is missing: it holds the event as a JSON object")
    data = _loads(raw)
    if data.__class__ is not dict:
        raise Rejected("data", "data must be a JSON object")
    operation, project = data.get("operationId"), data.get("projectId")
    if not valid_id(operation):
        raise Rejected("operation_id", "data.operationId must be a string of 1-256 characters, no control characters")
    if not valid_id(project):
        raise Rejected("project_id", "data.projectId must be a string of 1-256 characters, no control characters")
    stamp = entry.get(b"timestamp")
    if stamp is not None and not _is_utc(stamp):
        raise Rejected("timestamp", "field timestamp must be ISO 8601 in UTC, such as 2025-11-24T16:00:00.000Z")
    if data.get("timestamp") is None:
        data["timestamp"] = stamp.decode() if stamp is not None else _timestamp(id >> 64)
    return Event(id, type, operation, project, data)


def _loads(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        # JavaScript cuts strings between the halves of a pair; RFC 8259 section 8.2 lets it, orjson does not.
        mended = _ESCAPE.sub(lambda escape: b"\\ufffd" if escape[1] else escape[0], raw)
        if mended != raw:
            try:
                return orjson.loads(mended)
            except orjson.JSONDecodeError:
                pass
        raise Rejected("json", f"data is not JSON: {error}") from None


def _is_utc(stamp: bytes) -> bool:
    # Without an offset it is taken for UTC, as the field is by definition.
    try:
        return datetime.fromisoformat(stamp.decode("ascii")).utcoffset() in (None, timedelta(0))
    except ValueError:
        return False


def _timestamp(ms: int) -> str:
    return f"{_second(ms // 1000)}.{ms % 1000:03d}Z" if ms <= _LAST_MS else "+275760-09-13T00:00:00.000Z"


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
