"""Bytes on the wire: the only file that knows the framing.

A frame is a block of WHATWG HTML section 9.2.6 ("Interpreting an event stream") in one chunk of RFC 9112 section 7.1,
made once and shared by all who get it. A worker's `data` goes in as it came: JSON has no line break inside a value, and
those between tokens are taken out, so none can break the framing.
"""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

import orjson

from gateway import schema
from gateway.event import SEQUENCE, EntryId, Event, format_id, timestamp
from gateway.members import add, members, put

LAST_CHUNK: Final = b"0\r\n\r\n"


def chunk(block: bytes) -> bytes:
    """One block of an event stream as one HTTP/1.1 chunk."""
    return b"%x\r\n%b\r\n" % (len(block), block)


def unchunk(frames: bytes) -> bytes:
    """The blocks inside whole chunks, for an HTTP/1.0 client, which knows no chunks."""
    blocks, at = [], 0
    while at < len(frames):
        start = frames.index(b"\r\n", at) + 2
        end = start + int(frames[at : start - 2], 16)
        blocks.append(frames[start:end])
        at = end + 2
    return b"".join(blocks)


def seal(event: Event, percent: float | None = None) -> Event:
    """Makes the frame of an event around its worker's bytes, which are let go. `percent` is written where it was
    raised, the timestamp where the event has none.
    """
    id, raw, data = event.id, event.raw, event.data
    if 10 in raw or 13 in raw:  # a line break: a number is found five times as fast as bytes are
        raw = raw.translate(None, b"\r\n")
    if data.get("timestamp") is None:
        stamp = event.stamp or timestamp(id >> 64)
        raw = (put if "timestamp" in data else add)(raw, "timestamp", b'"%b"' % stamp)
    if percent is not None:
        raw = put(raw, "percent", orjson.dumps(int(percent) if percent == int(percent) else percent))
    event.frame = chunk(b"id: %d-%d\nevent: %b\ndata: %b\n\n" % (id >> 64, id & SEQUENCE, event.type.encode(), raw))
    del event.data, event.raw, event.stamp
    return event


def data(frame: bytes) -> bytes:
    """The data object back out of an event's frame: what history keeps is the frame alone."""
    start = frame.index(b"\ndata: ") + 7
    return frame[start : frame.index(b"\n", start)]


def same(one: bytes, other: bytes) -> bool:
    """Whether two events' frames were made of the same entry: a percent may have been raised in one of them."""
    if one == other:
        return True
    if one[one.index(b"\r\n") : one.index(b"\ndata: ")] != other[other.index(b"\r\n") : other.index(b"\ndata: ")]:
        return False
    return members(data(one)) | {"percent": b""} == members(data(other)) | {"percent": b""}


def advice(type: str, **told: object) -> bytes:
    """A frame without an id, which therefore leaves the browser's last event id where it is."""
    return chunk(b"event: %b\ndata: %b\n\n" % (type.encode(), orjson.dumps(told)))


def gap(place: EntryId | str, reason: str, oldest: EntryId | None) -> bytes:
    """The frame that says: the stream can't go on from `place`, an id or what a client took for one."""
    said = place if isinstance(place, str) else format_id(place)
    last = said[: schema.ID_MAX_LENGTH].encode("utf-8", "replace").decode()
    oldest_id = None if oldest is None else format_id(oldest)
    return advice("replay_gap", lastEventId=last, oldestId=oldest_id, reason=reason)


def heartbeat(id: EntryId | None, now: float, every: float) -> bytes:
    """The frame that says: you have been told everything up to `id` (None: nothing yet).

    `now` is the time of day, `every` the heartbeat's length, both in seconds.
    """
    head = b"" if id is None else b"id: %b\n" % format_id(id).encode()
    return chunk(b"%bevent: heartbeat\ndata: %b\n\n" % (head, _beat(int(now * 100), every)))


def first(now: float, every: float, retry_ms: int) -> bytes:
    """The first frame of a stream: a heartbeat that sets the browser's reconnection time too."""
    return chunk(b"retry: %d\nevent: heartbeat\ndata: %b\n\n" % (retry_ms, _beat(int(now * 100), every)))


@lru_cache(maxsize=16)  # those of one turn are alike
def _beat(hundredths: int, every: float) -> bytes:
    time = datetime.fromtimestamp(hundredths / 100, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return orjson.dumps({"time": time, "every": round(every * 1000)})


def refusal(ms: int, status: int, reason: str) -> bytes:
    """A whole (unchunked) stream that refuses for now: come back in `ms` milliseconds."""
    body = orjson.dumps({"status": status, "detail": reason})
    return b"retry: %d\nevent: refused\ndata: %b\n\n" % (ms, body)
