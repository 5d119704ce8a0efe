"""Log lines: their two forms, what is redacted, and that floods are thinned out."""

import io
import json
import logging

import pytest

from gateway import logs


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
