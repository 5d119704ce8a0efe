"""The HTTP face as OpenAPI 3.1 and the stream as AsyncAPI 3.0, out of the code's own tables."""

from typing import Any

from gateway import __version__, schema
from gateway.api import LISTED
from gateway.asked import ENDED
from gateway.config import VARIABLES
from gateway.scope import MAX_FILTERS

Json = dict[str, Any]
CLAIMS = '`projects` and `operations`: arrays of ids, or ["*"]; `exp` is required'
OWN = ("operation_stalled", "replay_gap", "heartbeat", "refused")
"""Frames that are the gateway's own."""
ID = schema.json_schema()["$defs"][schema.STARTED]["properties"]["projectId"]
ENTRY_ID: Json = {"type": "string", "pattern": "^[0-9]+-[0-9]+$", "description": "A Redis stream entry id: ms-seq"}


def _object(required: str, **members: Json) -> Json:
    return {"type": "object", "required": required.split(), "properties": members}


def _schemas() -> Json:
    text = {"type": "string"}
    time = {"type": "string", "format": "date-time"}
    state = _object(
        "type id terminal stalled data",
        type={"type": "string", "examples": list(schema.TYPES)},
        id=ENTRY_ID,
        terminal={"type": "boolean"},
        stalled={"type": "boolean"},
        data={"type": "object", "description": "The newest data of the attempt, merged; see events"},
    )
    return schema.json_schema()["$defs"] | {
        "state": state,
        "operations": _object(
            "id operations", id=ENTRY_ID, operations={"type": "array", "items": {"$ref": _at("state")}}
        ),
        "problem": _object(
            "status title detail",
            status={"type": "integer"},
            title=text,
            detail=text,
            outside=_object(
                "projectId operationId",
                projectId={"type": "array", "items": text},
                operationId={"type": "array", "items": text},
            )
            | {"description": "Of a 403: what the token does not grant"},
        ),
        "operation_stalled": _object(
            "operationId projectId lastEventId silentFor",
            operationId=ID,
            projectId=ID,
            lastEventId=ENTRY_ID,
            silentFor={"type": "number", "description": "s"},
        ),
        "replay_gap": _object(
            "lastEventId oldestId reason",
            lastEventId=text,
            oldestId={"type": ["string", "null"]},
            reason={"enum": ["trimmed", "unknown", "reset"]},
        ),
        "heartbeat": _object("time every", time=time, every={"type": "integer", "description": "ms"}),
        "refused": _object("status detail", status={"enum": [429, 503]}, detail=text),
    }


def _at(name: str) -> str:
    return f"#/components/schemas/{name}"


def _query(name: str, rule: Json, description: str, *, many: bool = False) -> Json:
    rule = {"type": "array", "items": rule, "maxItems": MAX_FILTERS} if many else rule
    return {"name": name, "in": "query", "schema": rule, "description": description} | (
        {"explode": True} if many else {}
    )


def _path(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": ID}


def _answers(ok: Json, *statuses: int) -> Json:
    described = {
        400: "A malformed id, too many filters, or `ended` out of its range",
        401: "No token, or none that holds",
        403: "Outside of what the token grants; `outside` names what",
        404: "Nothing is known of it",
        429: "Over the limit of one client; Retry-After. An EventSource gets a stream of one `refused` instead",
        503: "Full, not ready, or draining; Retry-After. An EventSource gets a stream of one `refused` instead",
    }
    problem = {"application/problem+json": {"schema": {"$ref": _at("problem")}}}
    return ok | {str(status): {"description": described[status], "content": problem} for status in statuses}


def openapi() -> Json:
    """The document gateway/openapi.json."""
    events = [*schema.TYPES, *OWN]
    frames = "Frames of " + ", ".join(events) + ", and of types that are not known here. `data` is one line of JSON."
    stream = {
        "200": {
            "description": frames,
            "content": {
                "text/event-stream": {
                    "schema": {"type": "string", "contentMediaType": "text/event-stream"},
                    "x-events": {name: {"$ref": _at(name)} for name in events},
                }
            },
        }
    }
    over = {"204": {"description": "All of it was told, and it has ended: don't come back"}}
    ended = _query("ended", {"type": "integer", "minimum": 0, "maximum": ENDED}, "Tell of so many that ended last, too")
    resume = [
        {"name": "Last-Event-ID", "in": "header", "schema": ENTRY_ID, "description": "Go on right after it"},
        _query("lastEventId", {"type": "string"}, "The same, where headers can't be set; `earliest`: all that is held"),
        ended,
    ]
    projects = _query("projectId", ID, "Of these projects", many=True)

    def get(summary: str, parameters: list[Json], answers: Json) -> Json:
        return {"get": {"summary": summary, "parameters": parameters, "responses": answers}}

    def json(name: str, description: str) -> Json:
        content = {"application/json": {"schema": {"$ref": _at(name)}}}
        return {"200": {"description": description, "content": content}}

    follow = _query("follow", {"enum": ["true"]}, "Stay open after the end")
    operations = _query("operationId", ID, "These operations", many=True)
    refusals = (400, 401, 403, 429, 503)
    paths = {
        "/api/operations/{operationId}/stream": get(
            "One operation, until it ends",
            [_path("operationId"), projects, *resume, follow],
            _answers(stream | over, *refusals),
        ),
        "/api/projects/{projectId}/stream": get(
            "Every operation of a project", [_path("projectId"), *resume], _answers(stream, *refusals)
        ),
        "/api/projects/stream": get(
            f"The union of those named, {MAX_FILTERS} in all; with none, all that the caller may see",
            [projects, operations, *resume],
            _answers(stream, *refusals),
        ),
        "/api/operations/{operationId}": get(
            "What an operation came to",
            [_path("operationId"), projects],
            _answers(json("state", "Its newest state"), 400, 401, 403, 404, 503),
        ),
        "/api/projects/{projectId}/operations": get(
            f"Those that run, {LISTED} at most, then those that ended last (20); its `id` opens the stream from here",
            [_path("projectId"), ended],
            _answers(json("operations", "Each newest first"), 400, 401, 403, 503),
        ),
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "SSE gateway", "version": __version__, "license": {"name": "MIT", "identifier": "MIT"}},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"cookie": []}, {"query": []}],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": 'Claims `projects` and `operations`, arrays of ids or ["*"]; `exp` is required',
                },
                "cookie": {"type": "apiKey", "in": "cookie", "name": VARIABLES["SSE_COOKIE"].default},
                "query": {"type": "apiKey", "in": "query", "name": "access_token"},
            },
        },
    }


def asyncapi() -> Json:
    """The document gateway/asyncapi.json."""
    key = VARIABLES["SSE_STREAM"].default
    entry = schema.json_schema()
    messages = {
        type: {
            "name": type,
            "contentType": "application/json",
            "summary": "The field `data` of an entry whose field `type` is this name",
            "payload": rules,
        }
        for type, rules in entry["$defs"].items()
    }
    named = {type: {"$ref": f"#/components/messages/{type}"} for type in messages}
    channel = {"$ref": "#/channels/syncs"}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "GitHub sync events",
            "version": __version__,
            "description": f"One XADD an event, {schema.ENTRY_MAX_BYTES} bytes: " + ", ".join(entry["properties"]),
        },
        "defaultContentType": "application/json",
        "channels": {"syncs": {"address": key, "description": "A Redis stream", "messages": named}},
        "operations": {
            "publish": {"action": "send", "channel": channel, "summary": "Workers: one entry an event"},
            "read": {"action": "receive", "channel": channel, "summary": "The gateway: every entry, in order"},
        },
        "components": {"messages": messages},
    }
