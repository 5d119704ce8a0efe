"""The vocabulary of the stream: the five event types, their members, the error codes, what is terminal.

Owns the second table of the contract as data, in JSON Schema's own words (draft 2020-12), and a checker compiled from
it. Never does I/O, knows nothing of Redis or HTTP, and imports nothing of the gateway: the workers' kit shares it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

Schema = Mapping[str, Any]

STARTED: Final = "github_sync_started"
PROGRESS: Final = "github_sync_progress"
CONFLICT: Final = "github_sync_conflict"
COMPLETED: Final = "github_sync_completed"
FAILED: Final = "github_sync_failed"

TYPE_PATTERN: Final = r"[a-z][a-z0-9_]{0,63}"
RESERVED: Final = frozenset(("open", "error", "message", "heartbeat", "refused", "replay_gap", "operation_stalled"))
"""Names of events that EventSource or the gateway itself uses, and that no worker may."""
ID_MAX_LENGTH: Final = 256
RUN_MAX_LENGTH: Final = 64
ENTRY_MAX_BYTES: Final = 64 * 1024

ERROR_CODES: Final = (
    "APP_NOT_INSTALLED",
    "BRANCH_PROTECTED",
    "NOT_FAST_FORWARD",
    "REPO_ARCHIVED",
    "FILE_TOO_LARGE",
    "APP_UNINSTALLED",
    "RATE_LIMIT",
    "INVALID_INSTALLATION",
    "INSUFFICIENT_PERMISSIONS",
    "UPSTREAM_UNAVAILABLE",
    "UNKNOWN",
)

_STRING: Schema = {"type": "string"}
_ORDINAL: Schema = {"type": "integer", "minimum": 1}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_AMOUNT: Schema = {"type": "number", "minimum": 0}
_DIRECTION: Schema = {"enum": ["to_github", "from_github"]}


# Which execution of the operation an event is of, and where in it: any type may hold these.
_EXECUTION: Final[Mapping[str, Schema]] = {
    "run": {"type": "string", "minLength": 1, "maxLength": RUN_MAX_LENGTH},
    "seq": _ORDINAL,
    "attempt": _ORDINAL,
    "attempts": _ORDINAL,
}


def _object(required: str, **members: Schema) -> Schema:
    return {"type": "object", "required": required.split(), "properties": members}


def _event(required: str, **members: Schema) -> Schema:
    return _object(required, **members, **_EXECUTION)


# What `data` holds beside operationId, projectId and timestamp. Members that are not named here pass through.
DATA: Final[Mapping[str, Schema]] = {
    STARTED: _event(
        "direction",
        direction=_DIRECTION,
        syncMode={"enum": ["protected_pr", "hybrid", "direct_commit"]},
    ),
    PROGRESS: _event(
        "message percent",
        message=_STRING,
        percent={"type": "number", "minimum": 0, "maximum": 100},
        currentStep=_STRING,
    ),
    CONFLICT: _event(
        "conflicts strategy resolutionRequired",
        conflicts={"type": "array", "items": _STRING},
        strategy={"enum": ["github_wins", "local_wins", "manual_review"]},
        resolutionRequired={"type": "boolean"},
        conflictDetails=_object("", localCommitSha=_STRING, remoteCommitSha=_STRING, baseCommitSha=_STRING),
    ),
    COMPLETED: _event(
        "status direction filesChanged duration",
        status={"enum": ["success"]},
        direction=_DIRECTION,
        filesChanged=_COUNT,
        insertions=_COUNT,
        deletions=_COUNT,
        commitSha=_STRING,
        prUrl=_STRING,
        branchName=_STRING,
        duration=_AMOUNT,
    ),
    FAILED: _event(
        "status error_code message retryable",
        status={"enum": ["failed"]},
        error_code={"enum": list(ERROR_CODES)},
        message=_STRING,
        retryable={"type": "boolean"},
        retryAfter=_AMOUNT,
        recoveryUrl=_STRING,
        details=_object("", originalError=_STRING, step=_STRING, context={}),
    ),
}
TYPES: Final = tuple(DATA)

_EXECUTION_ALONE: Final = _object("", **_EXECUTION)
_IDS: Final = ("operationId", "projectId")
_NUMBERS: Final = (int, float)
_PYTHON: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def json_schema() -> dict[str, Any]:
    """The contract's two tables as JSON Schema 2020-12: an entry's fields, and under `$defs` the data of each type."""
    id = {
        "type": "string",
        "minLength": 1,
        "maxLength": ID_MAX_LENGTH,
        "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*$",
    }
    common = {"operationId": id, "projectId": id, "timestamp": {"type": "string", "format": "date-time"}}
    data = {
        type: {
            "type": "object",
            "required": ["operationId", "projectId", *rules["required"]],
            "properties": common | rules["properties"],
        }
        for type, rules in DATA.items()
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.com/sse-gateway/schema.json",
        "title": "An entry of the sync event stream; data is a JSON text whose object is one of $defs",
        "type": "object",
        "required": ["type", "data"],
        "properties": {
            "buildId": {"type": "string"},
            "type": {"type": "string", "pattern": f"^{TYPE_PATTERN}$"},
            "data": {"type": "string", "contentMediaType": "application/json"},
            "timestamp": {"type": "string", "format": "date-time"},
        },
        "$defs": data,
    }


def is_terminal(type: str, data: Mapping[str, Any]) -> bool:
    """Whether this event ends its operation: `completed`, and `failed` unless `retryable` is true."""
    return type == COMPLETED or (type == FAILED and data.get("retryable") is not True)


def violation(type: str, data: Mapping[str, Any]) -> str | None:
    """The first rule of the contract's second table that `data` breaks, in words, or None when it keeps them all.

    A null where a member is optional counts as absent: that is how most serializers write "nothing".
    """
    members = _MEMBERS.get(type)
    if members is None:
        return "type is none of the five"
    for name, fits in members:
        if not fits(data.get(name)):
            return _object_violation(data, DATA[type])
    if not _EXECUTION.keys().isdisjoint(data):
        for name, fits in _RUN_MEMBERS:
            if not fits(data.get(name)):
                return _object_violation(data, _EXECUTION_ALONE)
    return None


def _object_violation(data: Mapping[str, Any], schema: Schema) -> str | None:
    members = schema["properties"]
    for name in schema["required"]:
        if data.get(name) is None:
            return f"{name} is missing"
    for name, value in data.items():
        if value is not None and (rule := members.get(name)) is not None:
            wrong = _value_violation(value, rule)
            if wrong is not None:
                return f"{name}{wrong}"
    return None


def _value_violation(value: Any, rule: Schema) -> str | None:
    allowed: Any = rule.get("enum")
    kind = rule.get("type")
    if allowed is not None:
        return None if value in allowed else f" is none of {', '.join(allowed)}"
    if kind is None:
        return None
    if not _is(value, kind):
        return f" is not of type {kind}"
    if kind in ("number", "integer"):
        if value < rule["minimum"]:
            return f" is below {rule['minimum']}"
        if "maximum" in rule and value > rule["maximum"]:
            return f" is above {rule['maximum']}"
    if kind == "string" and not rule.get("minLength", 0) <= len(value) <= rule.get("maxLength", len(value)):
        return f" is not {rule['minLength']}-{rule['maxLength']} characters long"
    if kind == "array" and any(item.__class__ is not str for item in value):
        return " holds something that is not a string"
    if kind == "object":
        wrong = _object_violation(value, rule)
        return wrong and f".{wrong}"
    return None


def _is(value: Any, kind: str) -> bool:
    # bool is an int to Python, never a number to JSON.
    return isinstance(value, _PYTHON[kind]) and (value.__class__ is not bool or kind == "boolean")


def _fits(rule: Schema, *, required: bool) -> Callable[[Any], bool]:
    """A quick test of one member, for every event passes it; what fails is looked at again, to say why."""
    if rule is _STRING:
        return (
            (lambda value: value.__class__ is str)
            if required
            else lambda value: value is None or value.__class__ is str
        )
    if required and rule.get("type") == "number" and "maximum" in rule:
        least, most = rule["minimum"], rule["maximum"]
        return lambda value: value.__class__ in _NUMBERS and least <= value <= most
    if rule is _ORDINAL:
        return lambda value: value is None or (value.__class__ is int and value >= 1)
    if required:
        return lambda value: value is not None and _value_violation(value, rule) is None
    return lambda value: value is None or _value_violation(value, rule) is None


_MEMBERS = {
    type: tuple(
        (name, _fits(rule, required=name in rules["required"]))
        for name, rule in rules["properties"].items()
        if name not in _EXECUTION and name not in _IDS  # without those there is no event
    )
    for type, rules in DATA.items()
}
_RUN_MEMBERS = tuple((name, _fits(rule, required=False)) for name, rule in _EXECUTION.items())
