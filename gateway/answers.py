"""What every answer has: problems in place of exceptions, CORS, a request id, and no word of what is behind it.

Never decides whether something is refused.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import orjson
from aiohttp import web

from gateway import trace
from gateway.logs import Limited
from gateway.problem import Problem

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

WHO: Final = web.RequestKey("who", dict[str, str])
"""What a request's log lines say of it (trace.identify)."""
READ: Final = ("Authorization", "Cache-Control", "Last-Event-ID", "traceparent", "X-Request-ID")
"""Headers that the gateway reads, and another origin's page may send."""
SAME: Final = {"Server": "sse-gateway", "X-Content-Type-Options": "nosniff"}
"""What every answer has, whatever was asked."""

_log = logging.getLogger(__name__)


class Answers:
    """The answers of one face. `paths` says which there are, `origins` are those of SSE_CORS_ORIGINS, `refused` counts
    problems by status.
    """

    def __init__(self, paths: str, origins: tuple[str, ...], refused: Counter[int]) -> None:
        self._paths = paths
        self._origins = origins
        self._refused = refused
        self._limited = Limited(_log)

    async def outermost(self, request: web.BaseRequest, handle: Handler) -> web.StreamResponse:
        """What a request is answered, whether a route is found or not."""
        request[WHO] = trace.identify(request.headers)
        try:
            self._meet(request)
            return await handle(request)
        except Problem as problem:  # kept beyond this block, it would be a cycle with its own traceback
            return self._refuse(request, problem)
        except web.HTTPException as error:
            error.__traceback__ = None  # the router keeps the error, its traceback this frame, which keeps the request
            return self._refuse(request, self._as_problem(error))

    def malformed(self) -> web.Response:
        """The answer to what is no HTTP request, and never reached a route."""
        self._limited.warning("malformed", "malformed HTTP request refused")
        return self._bare(Problem(400, "this is no HTTP/1.1 request that can be read (RFC 9112)"))

    def failed(self, request: web.BaseRequest) -> web.Response:
        """The answer to a request that met a bug."""
        return self._bare(Problem(500, f"a bug of the gateway's; its log tells more, of request {_who(request)}"))

    async def prepare(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Adds what every answer has; called by aiohttp before it writes one."""
        response.headers.update(self.headers(request))

    def headers(self, request: web.BaseRequest) -> dict[str, str]:
        """What every answer to a request has."""
        headers = SAME | {"X-Request-ID": _who(request)}
        origins, origin = self._origins, request.headers.get("Origin")
        if origins and origins != ("*",):
            headers["Vary"] = "Origin"
        if origin is None:
            return headers
        headers["Access-Control-Expose-Headers"] = "Retry-After, X-Request-ID"
        if origin in origins:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Allow-Credentials"] = "true"
        elif "*" in origins:
            headers["Access-Control-Allow-Origin"] = "*"
        return headers

    def _meet(self, request: web.BaseRequest) -> None:
        """Refuses what is expected and not understood, before aiohttp, which would repeat it (RFC 9110, 10.1.1)."""
        expected = request.headers.get("Expect")
        if expected and expected.lower() != "100-continue" and request.version >= (1, 1):
            self._limited.warning("expect", "request refused: its Expect header is not 100-continue")
            raise Problem(417, "of the Expect header only 100-continue is understood")

    def _refuse(self, request: web.BaseRequest, problem: Problem) -> web.Response:
        self._refused[problem.status] += 1
        _log.debug("request refused", extra={"status": problem.status, "detail": problem.detail} | request[WHO])
        response = problem.response(request.headers.get("Accept", ""))
        response.headers.update(self.headers(request))  # `prepare` is only for what was routed
        return response

    def _bare(self, problem: Problem) -> web.Response:
        self._refused[problem.status] += 1
        response = problem.response("")
        response.headers.update(SAME)
        return response

    def _as_problem(self, error: web.HTTPException) -> Problem:
        if isinstance(error, web.HTTPMethodNotAllowed):
            allowed = ", ".join(sorted(error.allowed_methods))
            return Problem(405, "only GET and HEAD are answered here", Allow=allowed)
        if isinstance(error, web.HTTPNotFound):
            return Problem(404, f"no such path; {self._paths}")
        return Problem(error.status, error.reason)


def _who(request: web.BaseRequest) -> str:
    who = request.get(WHO) or trace.identify(request.headers)
    return who["request_id"]


def json_response(body: object) -> web.Response:
    """What is known now, as JSON."""
    return web.Response(body=orjson.dumps(body), content_type="application/json", headers={"Cache-Control": "no-store"})


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
