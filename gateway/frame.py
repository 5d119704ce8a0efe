"""Bytes on the wire: the only file that knows the framing.

A frame is a block of WHATWG HTML section 9.2.6 ("Interpreting an event stream") in one chunk of RFC 9112 section 7.1,
made once and shared by all who get it. Values are JSON without raw newlines, so none can break the framing.
"""

from typing import Any, Final

import orjson

from gateway.event import EntryId, Event, Rejected, format_id

LAST_CHUNK: Final = b"0\r\n\r\n"
COMMENT: Final = b"3\r\n:\n\n\r\n"


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


def seal(event: Event) -> Event:
    """Makes the frame of an event out of its data, which is let go. Raises Rejected where JSON nests too deeply."""
    try:
        data = orjson.dumps(event.data)
    except orjson.JSONEncodeError as error:
        raise Rejected("json", f"data can't be written as JSON: {error}") from None
    event.frame = chunk(b"id: %b\nevent: %b\ndata: %b\n\n" % (format_id(event.id).encode(), event.type.encode(), data))
    del event.data
    return event


def data(frame: bytes) -> dict[str, Any]:
    """The data object back out of an event's frame: what history keeps is the frame alone."""
    start = frame.index(b"\ndata: ") + 7
    return orjson.loads(frame[start : frame.index(b"\n", start)])  # type: ignore[no-any-return]


def advice(type: str, **members: object) -> bytes:
    """A frame without an id, which therefore leaves the browser's last event id where it is."""
    return chunk(b"event: %b\ndata: %b\n\n" % (type.encode(), orjson.dumps(members)))


def place(id: EntryId) -> bytes:
    """A block of only an id: it moves the browser's last event id and fires no event (WHATWG HTML, "dispatch the
    event", steps 1-2).
    """
    return chunk(b"id: %b\n\n" % format_id(id).encode())


def retry(ms: int) -> bytes:
    """The block that sets the browser's reconnection time, in milliseconds."""
    return chunk(b"retry: %d\n\n" % ms)


def refusal(ms: int, reason: str) -> bytes:
    """A whole (unchunked) stream that refuses for now: come back in `ms` milliseconds."""
    return b"retry: %d\n\n: %b\n\n" % (ms, reason.encode())
