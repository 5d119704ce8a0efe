"""Recorded streams for property tests: entries of a few operations, whose ids two projects share."""

import json
import time
from typing import Any

from hypothesis import strategies as st

from gateway.event import EntryId, Event, decode
from gateway.history import History
from gateway.scope import Scope

Entry = tuple[EntryId, list[bytes]]
_KINDS = ("started", "progress", "progress", "progress", "conflict", "completed", "failed", "retryable")
_DATA = {
    "failed": {"status": "failed", "error_code": "UNKNOWN", "message": "m", "retryable": False},
    "retryable": {"status": "failed", "error_code": "RATE_LIMIT", "message": "m", "retryable": True},
}

SCOPES = st.sampled_from(
    [
        Scope("operation", operations=frozenset({"o0"})),
        Scope("operation", pairs=frozenset({("p1", "o0")})),
        Scope("project", projects=frozenset({"p1"})),
        Scope("multi"),
        Scope("multi", frozenset({"o0", "o2"}), frozenset({"p0"})),
        Scope("multi", frozenset({"o1", "o9"}), frozenset({"p9"}), frozenset({("p0", "o2")})),
    ]
)


def fields(kind: str, operation: str = "o0", project: str = "p0", **more: Any) -> list[bytes]:
    """An entry as Redis replies with it."""
    data = {"operationId": operation, "projectId": project} | _DATA.get(kind, {}) | more
    type = "failed" if kind == "retryable" else kind
    return [b"type", f"github_sync_{type}".encode(), b"data", json.dumps(data).encode()]


@st.composite
def entries(
    draw: st.DrawFn, *, most: int = 40, gaps_ms: tuple[int, int] = (0, 700), runs: bool = False, kinds: Any = _KINDS
) -> list[Entry]:
    """Entries in stream order."""
    found, ms, seq = [], 1_764_000_000_000, 0
    for _ in range(draw(st.integers(0, most))):
        gap = draw(st.integers(*gaps_ms))
        ms, seq = (ms + gap, 0) if gap else (ms, seq + 1)
        kind = draw(st.sampled_from(kinds))
        more: dict[str, Any] = {}
        if kind == "progress":
            more["percent"] = draw(st.integers(0, 100) | st.floats(0, 100))
        if runs and draw(st.booleans()):
            more |= {"run": f"r{draw(st.integers(0, 3))}", "seq": draw(st.integers(1, 9))}
            if draw(st.booleans()):
                more["attempt"] = draw(st.integers(1, 3))
        made = fields(kind, f"o{draw(st.integers(0, 2))}", f"p{draw(st.integers(0, 1))}", **more)
        found.append((EntryId(ms << 64 | seq), made))
    return found


def events(stream: list[Entry]) -> list[Event]:
    """Unshaped, unframed."""
    return [decode(*entry) for entry in stream]


def take(history: History, stream: list[Entry]) -> list[Event]:
    """A batch as the reader takes it. Returns what passed."""
    taken = []
    for event in events(stream):
        history.take(event, 0.0)
        if event.frame:
            taken.append(event)
    if stream:
        history.newest = stream[-1][0]
        history.trim(time.time())
    return taken
