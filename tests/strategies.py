"""Recorded streams for property tests: batches of events of a few operations and projects, with their entry ids."""

import json

from hypothesis import strategies as st

from gateway import frame
from gateway.event import EntryId, Event, decode

_KINDS = ("started", "progress", "progress", "progress", "conflict", "completed", "failed", "retryable")
_DATA = {
    "failed": {"status": "failed", "error_code": "UNKNOWN", "message": "m", "retryable": False},
    "retryable": {"status": "failed", "error_code": "RATE_LIMIT", "message": "m", "retryable": True},
}


@st.composite
def events(draw: st.DrawFn, *, most: int = 40, gaps_ms: tuple[int, int] = (0, 700)) -> list[Event]:
    """Unshaped, unframed events in stream order."""
    found, ms, seq = [], 1_764_000_000_000, 0
    for _ in range(draw(st.integers(0, most))):
        gap = draw(st.integers(*gaps_ms))
        ms, seq = (ms + gap, 0) if gap else (ms, seq + 1)
        operation = draw(st.integers(0, 4))
        kind = draw(st.sampled_from(_KINDS))
        data = {"operationId": f"o{operation}", "projectId": f"p{operation % 2}"} | _DATA.get(kind, {})
        if kind == "progress":
            data["percent"] = draw(st.integers(0, 100) | st.floats(0, 100))
        type = "failed" if kind == "retryable" else kind
        found.append(
            decode(
                EntryId(ms << 64 | seq), [b"type", f"github_sync_{type}".encode(), b"data", json.dumps(data).encode()]
            )
        )
    return found


def framed(stream: list[Event]) -> list[Event]:
    return [frame.seal(event) for event in stream]
