"""What the Python kit makes of the inputs in testdata/kit; tests/npm/vectors.mjs is the same for JavaScript's."""

import json
from collections.abc import Callable
from typing import Any

from gateway.producer.core import Attempt, Sync
from gateway.producer.errors import github_error
from gateway.producer.outbox import Entry
from gateway.producer.text import clean

SYNC = {"operationId": "op-1", "projectId": "p-1", "direction": "to_github"}
EPOCH = 1764000000.0
"""What the clocks say when a series begins, in seconds."""


def series(case: dict[str, Any]) -> list[Any]:
    """The entries: the type and the data of each, under a run of one name."""
    found: list[Any] = []
    at = 0.0

    def emit(entry: Entry) -> int:
        fields = dict(zip(entry.fields[::2], entry.fields[1::2], strict=True))
        data = json.loads(fields["data"])
        assert fields["timestamp"] == data["timestamp"]
        assert fields["buildId"] == f"github-{data['projectId']}"
        assert len(data.pop("run")) in range(1, 65)
        found.append([fields["type"], data])
        return len(found)

    named = SYNC | case.get("sync", {})
    sync = Sync(
        named["operationId"], named["projectId"], named["direction"], named.get("syncMode"), named.get("attempt"),
        named.get("attempts"),
    )  # fmt: skip
    attempt = Attempt(sync, emit, lambda: at, lambda: EPOCH + at)
    for after, call, *arguments in case["calls"]:
        at = after / 1000
        if call == "conflict":
            paths, options = arguments
            attempt.conflict(paths, **options)
        else:
            getattr(attempt, call)(*arguments)
    return found


class Thrown(Exception):
    """An exception of some library's, with the attributes that are looked at."""


def thrown(shape: dict[str, Any]) -> Exception:
    error: Exception = Thrown(shape["message"])
    if "errors" in shape:
        error = ExceptionGroup(shape["message"], [thrown(each) for each in shape["errors"]])
    if "cause" in shape:
        error.__cause__ = thrown(shape["cause"])
    if "stderr" in shape:
        error.stderr = shape["stderr"]  # type: ignore[attr-defined]
    if "status" in shape:
        response = {"status_code": shape["status"], "headers": shape.get("headers", {}), "text": shape.get("body")}
        error.response = type("Response", (), response)()  # type: ignore[attr-defined]
    return error


def errors(case: dict[str, Any]) -> dict[str, Any]:
    return github_error(thrown(case["thrown"]), app_slug="my-app", step="push", now=EPOCH)


def texts(case: dict[str, Any]) -> str:
    return clean(case["text"])


KINDS: dict[str, Callable[[dict[str, Any]], Any]] = {"series": series, "errors": errors, "texts": texts}


def expanded(value: Any) -> Any:
    """A vector as it is meant: long texts are written as what they repeat."""
    if isinstance(value, list):
        return [expanded(each) for each in value]
    if isinstance(value, dict):
        if "repeat" in value:
            return value["repeat"] * value["times"] + value["then"]
        return {name: expanded(each) for name, each in value.items()}
    return value
