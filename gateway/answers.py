"""What every answer of the public face has: problems in place of exceptions, CORS, a request id.

Never decides whether something is refused.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from gateway import trace
from gateway.metrics import Metrics
from gateway.problem import Problem

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

WHO: Final = web.RequestKey("who", dict[str, str])
"""What a request's log lines say of it (trace.identify)."""
READ: Final = ("Authorization", "Cache-Control", "Last-Event-ID", "traceparent", "X-Request-ID")
"""Headers that the gateway reads, and another origin's page may send."""

_log = logging.getLogger(__name__)


class Answers:
    """`origins` are those of SSE_CORS_ORIGINS."""

    def __init__(self, origins: tuple[str, ...], metrics: Metrics) -> None:
        self._origins = origins
        self._metrics = metrics

    @web.middleware
    async def problems(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        request[WHO] = trace.identify(request.headers)
        try:
            return await handler(request)
        except Problem as problem:  # kept beyond this block, it would be a cycle with its own traceback
            return self._refuse(request, problem)
        except web.HTTPException as error:
            error.__traceback__ = None  # the router keeps the error, its traceback this frame, which keeps the request
            return self._refuse(request, _as_problem(error))

    def _refuse(self, request: web.Request, problem: Problem) -> web.StreamResponse:
        self._metrics.refused[problem.status] += 1
        _log.debug("request refused", extra={"status": problem.status, "detail": problem.detail} | request[WHO])
        return problem.response(request.headers.get("Accept", ""))

    async def headers(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = "sse-gateway"
        response.headers["X-Content-Type-Options"] = "nosniff"
        who = request.get(WHO) or trace.identify(request.headers)
        response.headers["X-Request-ID"] = who["request_id"]
        origins, origin = self._origins, request.headers.get("Origin")
        if origins and origins != ("*",):
            response.headers["Vary"] = "Origin"
        if origin is None:
            return
        response.headers["Access-Control-Expose-Headers"] = "Retry-After, X-Request-ID"
        if origin in origins:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Allow-Credentials"] = "true"
        elif "*" in origins:
            response.headers["Access-Control-Allow-Origin"] = "*"


def _as_problem(error: web.HTTPException) -> Problem:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Problem(405, "only GET and HEAD are answered here", Allow=allowed)
    if isinstance(error, web.HTTPNotFound):
        paths = "streams are /api/operations/{id}/stream and /api/projects/{id}/stream"
        return Problem(404, f"no such path; {paths}")
    return Problem(error.status, error.reason)


async def preflight(request: web.Request) -> web.StreamResponse:
    """The answer to OPTIONS."""
    return web.Response(
        status=204,
        headers={
            "Allow": "GET, HEAD, OPTIONS",
            "Access-Control-Allow-Methods": "GET, HEAD",
            "Access-Control-Allow-Headers": ", ".join(READ),
            "Access-Control-Max-Age": "600",
        },
    )
