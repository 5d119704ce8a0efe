"""What a request asks for: which stream it is for, its topics, how much of what is over.

Pure functions of a request. Raises Problem for what can't be understood, never decides what may be seen.
"""

from collections.abc import Iterable
from typing import Final

from aiohttp import web

from gateway.auth import Grant
from gateway.event import valid_id
from gateway.problem import Problem
from gateway.scope import MAX_FILTERS, Scope

ENDED: Final = 100
"""How many ended operations can be asked for."""


def route(resources: Iterable[web.AbstractResource], request: web.Request) -> str:
    """The name of the resource that a request is for, which becomes its route, as aiohttp's application has it; empty
    for none of them.
    """
    for resource in resources:
        try:
            resource.resolve(request).send(None)
        except StopIteration as found:  # it waits for nothing
            match, _ = found.value
            if match is not None:
                request._match_info = match  # noqa: SLF001  # what web.Application does
                return route_name(request)
    return ""


def route_name(request: web.Request) -> str:
    """The name of the resource that a request's route is of."""
    resource = request.match_info.route.resource
    return (resource and resource.name) or ""


def _operation_stream(request: web.Request, grant: Grant) -> Scope:
    return operation_scope(request)


def _project_stream(request: web.Request, grant: Grant) -> Scope:
    return Scope("project", projects=frozenset((path_id(request, "projectId"),)))


def _multi_stream(request: web.Request, grant: Grant) -> Scope:
    operations, projects = query_ids(request, "operationId"), query_ids(request, "projectId")
    if len(operations) + len(projects) > MAX_FILTERS:
        raise Problem(400, f"at most {MAX_FILTERS} operationId and projectId parameters: open a second stream")
    scope = Scope("multi", frozenset(operations), frozenset(projects))
    if scope.size:
        return scope
    if grant.nothing:
        raise Problem(403, "the token grants no project and no operation")
    return grant.scope()


STREAMS: Final = {"operation": _operation_stream, "project": _project_stream, "multi": _multi_stream}
"""What the streams are of, by the names of their routes."""


def operation_scope(request: web.Request) -> Scope:
    """One operation, of any project or of those that are named."""
    id, projects = path_id(request, "operationId"), query_ids(request, "projectId")
    if not projects:
        return Scope("operation", operations=frozenset((id,)))
    if len(projects) > MAX_FILTERS:
        raise Problem(400, f"at most {MAX_FILTERS} projectId parameters: open a second stream")
    return Scope("operation", pairs=frozenset((project, id) for project in projects))


def ended_wanted(request: web.Request, default: int) -> int:
    """How many operations to tell of that ended last."""
    text = request.query.get("ended", str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= ENDED):
        raise Problem(400, f"ended is how many operations to tell of that ended last: a whole number from 0 to {ENDED}")
    return int(text)


def query_ids(request: web.Request, name: str) -> list[str]:
    """The ids of a query parameter that may come more than once."""
    ids = request.query.getall(name, [])
    if not all(map(valid_id, ids)):
        raise Problem(400, f"{name} has 1-256 characters, none of them a control character")
    return ids


def path_id(request: web.Request, name: str) -> str:
    """The id at a place of the path."""
    id = request.match_info[name]
    if not valid_id(id):
        raise Problem(400, f"{name} has 1-256 characters, none of them a control character")
    return id
