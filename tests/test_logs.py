"""Log lines: their two forms, what is redacted, and that floods are thinned out."""

import io
import json
import logging
import os
import time
from collections.abc import Callable

import pytest

from gateway import logs
from gateway.producer import redact as kits_redact


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("gateway.x", logging.WARNING, "f", 1, message, (), None)
    vars(made).update(extra)
    return made


def test_json_and_text_lines() -> None:
    line = json.loads(logs.JsonFormatter().format(record("it broke", entry="1-1")))
    assert line.pop("time").endswith("Z")
    assert line == {"level": "warning", "logger": "gateway.x", "message": "it broke", "entry": "1-1"}
    assert logs.TextFormatter().format(record("it broke", entry="1-1")).endswith(" warning it broke entry=1-1")


@pytest.mark.parametrize(
    "secret",
    [
        "GET /x?access_token=SECRET&a=b",
        "Authorization: Bearer SECRET",
        "redis://user:SECRET@host/0",
        "got eyJhbGciOi.eyJSECRET.SECRET here",
    ],
)
def test_secrets_are_redacted(secret: str) -> None:
    for formatter in (logs.JsonFormatter(), logs.TextFormatter()):
        assert "SECRET" not in formatter.format(record(secret, detail=secret))


def test_repeated_lines_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("gateway.logs.time.monotonic", lambda: now)
    logger = logging.Logger("limited")
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logs.TextFormatter())
    logger.addHandler(handler)
    limited = logs.Limited(logger, burst=2, period=10)
    for _ in range(5):
        limited.warning("a", "again")
    limited.warning("b", "another")
    now = 10.0
    limited.warning("a", "again")
    assert [line.partition("warning ")[2] for line in out.getvalue().splitlines()] == [
        "again",
        "again",
        "another",
        "again left_out=3",
    ]


@pytest.mark.parametrize("redact", [logs.redact, kits_redact])
@pytest.mark.parametrize(
    "piece",
    [
        "eyJ-", "eyJ.", "eyJ-a.b", "eyJ ", "Bearer ", "Bearer  ", "bearer token ", "access_token=", "://", "://a:",
        "://a:b", "https://", "https://a", "ghp_", "github_pat_", "token\t", "-----BEGIN ", "%3A", "@", "\\", "a.",
    ],
)  # fmt: skip
def test_redaction_is_linear(redact: Callable[[str], str], piece: str) -> None:
    def cost(length: int) -> float:
        text = piece * (length // len(piece))
        began = time.process_time()
        redact(text)
        return time.process_time() - began

    # 16 times the length: a linear one takes 16 times as long, a quadratic one 256 times.
    assert min(cost(1 << 20) for _ in range(2)) < 64 * max(min(cost(1 << 16) for _ in range(5)), 0.0005)


def test_a_surrogate_is_logged() -> None:
    line = logs.JsonFormatter().format(record("it broke", detail="proj-\udcff"))
    assert json.loads(line)["detail"] == "proj-\udcff"


def test_lines_that_nobody_reads_are_dropped_and_counted_and_stop_nothing() -> None:
    reading, writing = os.pipe()
    handler = logs.Stderr(writing)
    handler.setFormatter(logging.Formatter("%(message)s"))
    lines = 3 * logs.UNWRITTEN_MOST // 1000
    for number in range(lines):
        handler.emit(record(f"{number:999}"))
    assert handler.dropped >= lines // 2
    began = time.monotonic()
    handler.flush()  # as at the end of the process
    assert time.monotonic() - began < 3 * logs.PARTING
    kept, read = lines - handler.dropped, b""
    while read.count(b"\n") < kept:
        read += os.read(reading, 1 << 20)
    handler.emit(record("and on"))
    handler.flush()
    assert os.read(reading, 100) == b"and on\n"
    numbers = [int(line) for line in read.splitlines()]
    assert numbers == sorted(set(numbers))  # none of them torn, twice or out of order
    assert len(numbers) == kept
    os.close(reading)
    handler.emit(record("to nobody"))
    handler.flush()
    assert handler.dropped == lines - kept + 1
