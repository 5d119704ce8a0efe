"""A stream entry made into an event, or rejected with a reason.

Owns the first table of the contract: entry ids, the fields of an entry, the routing members of `data`. Never judges
the second table (schema.py), never drops for rate (shaping.py), never makes wire bytes (frame.py).
"""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, NewType, TypeGuard

import orjson

from gateway import schema

EntryId = NewType("EntryId", int)
"""A Redis stream entry id as one integer, milliseconds << 64 | sequence: it compares as Redis compares."""

Key = tuple[str, str]
"""What an operation is: its projectId and its operationId. Queues number their jobs, so neither says it alone."""

ZERO: Final = EntryId(0)
SEQUENCE: Final = (1 << 64) - 1
_ID = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})", re.ASCII)
_TYPE = re.compile(schema.TYPE_PATTERN.encode())
_STAMP = re.compile(rb"[0-9TWZtwz:.,+ -]+")  # none of it means anything to JSON
_KNOWN: Final = {type.encode(): type for type in schema.TYPES}
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")  # Unicode category Cc; none of it is printable
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
    return EntryId(ms << 64 | seq) if ms <= SEQUENCE and seq <= SEQUENCE else None


def format_id(id: EntryId) -> str:
    """The id as Redis and browsers write it: `ms-seq`."""
    return f"{id >> 64}-{id & SEQUENCE}"


def valid_id(value: object) -> TypeGuard[str]:
    """Whether `value` can name an operation or a project: 1-256 characters, none of them a control character."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= schema.ID_MAX_LENGTH
        and (value.isprintable() or _CONTROL.search(value) is None)
    )


REASONS: Final = ("too_large", "type", "data", "json", "operation_id", "project_id", "timestamp")


class Rejected(Exception):
    """An entry that breaks the first table. `reason` (of REASONS) is the metric's label, `detail` tells the worker's
    author.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Event:
    """One accepted event. `data` (parsed), `raw` (the worker's own bytes) and `stamp` (the entry's timestamp, where it
    has one) live only until `frame` is made of them. `current` is whether it is in the attempt of what runs.
    """

    __slots__ = ("current", "data", "frame", "id", "key", "raw", "stamp", "terminal", "type")

    def __init__(self, id: EntryId, type: str, key: Key, data: dict[str, Any], raw: bytes, stamp: bytes | None) -> None:
        self.id = id
        self.type = type
        self.key = key
        self.terminal = type != schema.PROGRESS and schema.is_terminal(type, data)
        self.current = False
        self.data = data
        self.raw = raw
        self.stamp = stamp
        self.frame = b""

    @property
    def project(self) -> str:
        return self.key[0]

    @property
    def operation(self) -> str:
        return self.key[1]

    def __repr__(self) -> str:
        return f"<Event {format_id(self.id)} {self.type} {self.key}>"


def decode(id: EntryId, fields: Sequence[bytes]) -> Event:
    """The event of one entry; `fields` alternate names and values, as Redis replies with them.

    Raises Rejected where a rule of the contract's first table is broken.
    """
    if sum(map(len, fields)) > schema.ENTRY_MAX_BYTES:
        raise Rejected("too_large", f"over {schema.ENTRY_MAX_BYTES} bytes: keep large things out of the event")
    each = iter(fields)
    entry = dict(zip(each, each, strict=True))
    written = entry.get(b"type", b"")
    type = _KNOWN.get(written) or _other_type(written)
    raw = entry.get(b"data")
    if raw is None:
        raise Rejected("data", "field data is missing: it holds the event as a JSON object")
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raw, data = _mend(raw, error)
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
    return Event(id, type, (project, operation), data, raw, stamp)


def _other_type(written: bytes) -> str:
    if _TYPE.fullmatch(written) is None:
        raise Rejected("type", f"field type must match {schema.TYPE_PATTERN}")
    type = written.decode()
    if type in schema.RESERVED:
        raise Rejected("type", f"type {type} is a name that EventSource or the gateway itself uses: choose another")
    return type


def _mend(raw: bytes, error: Exception) -> tuple[bytes, Any]:
    """What RFC 8259 lets be said and orjson does not read: halves of a surrogate pair (section 8.2), which JavaScript
    leaves where it cuts a string and which become U+FFFD, and numbers of any size (section 6), which pass.
    """
    mended = _ESCAPE.sub(lambda escape: b"\\ufffd" if escape[1] else escape[0], raw)
    try:
        return mended, json.loads(mended.decode(), parse_constant=_no_number, parse_int=_number)
    except (ValueError, RecursionError):
        raise Rejected("json", f"data is not JSON: {error}") from None


def _number(digits: str) -> float:
    return int(digits) if len(digits) < 20 else float(digits)


def _no_number(name: str) -> Any:
    raise ValueError(name)


def _is_utc(stamp: bytes) -> bool:
    # Without an offset it is taken for UTC, as the field is by definition.
    try:
        return _STAMP.fullmatch(stamp) is not None and datetime.fromisoformat(stamp.decode("ascii")).utcoffset() in (
            None,
            timedelta(0),
        )
    except ValueError:
        return False


def timestamp(ms: int) -> bytes:
    """The moment of an entry id, ISO 8601 in UTC."""
    if ms > _LAST_MS:
        return b"+275760-09-13T00:00:00.000Z"
    seconds, rest = divmod(ms, 1000)
    return b"%b.%03dZ" % (_second(seconds), rest)


@lru_cache(maxsize=16)
def _second(seconds: int) -> bytes:
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S").encode()
