"""The public routes: three streams and the state of an operation; problems (RFC 9457), CORS, who is let in.

Decides whether a request becomes a connection; never writes a frame of one.
"""

import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

import orjson
from aiohttp import web

from gateway import frame, trace, ui
from gateway.auth import EVERYTHING, Grant, InvalidToken, KeysUnavailable, Verifier, find_token
from gateway.config import Config
from gateway.connection import Connection, Terms
from gateway.event import format_id, parse_id, valid_id
from gateway.handshake import EventStream, take_over
from gateway.limits import Limits, client_address
from gateway.metrics import Metrics
from gateway.problem import Problem, spread
from gateway.scope import MAX_FILTERS, Scope

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CROWDED: Final = 5
"""How many times SSE_RETRY a client is sent away for that is over a limit."""

_log = logging.getLogger(__name__)


class Api:
    """The public face. `draining` turns new streams away; `ready` tells whether the history is loaded."""

    def __init__(
        self,
        config: Config,
        terms: Terms,
        limits: Limits,
        metrics: Metrics,
        verifier: Verifier | None,
        ready: Callable[[], bool],
    ) -> None:
        self.draining = False
        self._config = config
        self._terms = terms
        self._limits = limits
        self._metrics = metrics
        self._verifier = verifier
        self._ready = ready
        self._history = terms.hub.history

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._problems])
        app.on_response_prepare.append(self._headers)
        # An id may hold anything but a control character; a slash or a brace comes percent-encoded.
        for path, handler in {
            "/api/operations/{operationId:[^/]+}/stream": self._operation_stream,
            "/api/projects/{projectId:[^/]+}/stream": self._project_stream,
            "/api/projects/stream": self._multi_stream,
            "/api/operations/{operationId:[^/]+}": self._state,
        }.items():
            resource = app.router.add_resource(path)
            for method in ("GET", "HEAD"):
                resource.add_route(method, handler)
            resource.add_route("OPTIONS", self._preflight)
        if self._config.ui == "on":
            ui.add_routes(app)
        return app

    async def _operation_stream(self, request: web.Request) -> web.StreamResponse:
        grant = await self._enter(request)
        scope = Scope("operation", operations=frozenset((_path_id(request, "operationId"),)))
        return await self._stream(request, scope, grant)

    async def _project_stream(self, request: web.Request) -> web.StreamResponse:
        grant = await self._enter(request)
        scope = Scope("project", projects=frozenset((_path_id(request, "projectId"),)))
        return await self._stream(request, scope, grant)

    async def _multi_stream(self, request: web.Request) -> web.StreamResponse:
        grant = await self._enter(request)
        operations, projects = request.query.getall("operationId", []), request.query.getall("projectId", [])
        if len(operations) + len(projects) > MAX_FILTERS:
            raise Problem(400, f"at most {MAX_FILTERS} operationId and projectId parameters: open a second stream")
        if not all(map(valid_id, operations + projects)):
            raise Problem(400, "operationId and projectId have 1-256 characters, none of them a control character")
        scope = Scope("multi", frozenset(operations), frozenset(projects))
        if scope.everything and not grant.unlimited:
            scope = Scope("multi", grant.operations or frozenset(), grant.projects or frozenset())
            if scope.everything:
                raise Problem(403, "the token grants no project and no operation")
        return await self._stream(request, scope, grant)

    async def _state(self, request: web.Request) -> web.StreamResponse:
        if not self._ready():
            raise self._unavailable("the history is being loaded")
        grant = await self._grant(request)
        id = _path_id(request, "operationId")
        self._check(Scope("operation", operations=frozenset((id,))), grant)
        operation = self._history.operation(id)
        attempt = [event for event in operation.attempt() if grant.sees(id, event.project)] if operation else []
        if operation is None or not attempt:
            raise Problem(404, "nothing is known of this operation: it has not begun, or is long over")
        data: dict[str, object] = {}
        for event in attempt:
            data |= frame.data(event.frame)
        newest = attempt[-1]
        state = {"type": newest.type, "id": format_id(newest.id), "terminal": operation.ended, "data": data}
        return web.Response(
            body=orjson.dumps(state), content_type="application/json", headers={"Cache-Control": "no-store"}
        )

    async def _preflight(self, request: web.Request) -> web.StreamResponse:
        return web.Response(
            status=204,
            headers={
                "Allow": "GET, HEAD, OPTIONS",
                "Access-Control-Allow-Methods": "GET, HEAD",
                "Access-Control-Allow-Headers": "Authorization, Cache-Control, Last-Event-ID",
                "Access-Control-Max-Age": "600",
            },
        )

    async def _enter(self, request: web.Request) -> Grant:
        """The grant of a request for a stream, if streams are to be had now."""
        if self.draining:
            raise self._unavailable("this replica is going away")
        if not self._ready():
            raise self._unavailable("the history is being loaded")
        return await self._grant(request)

    def _unavailable(self, why: str) -> Problem:
        return Problem(503, f"{why}: come back", Retry_After=str(math.ceil(self._config.retry)))

    async def _grant(self, request: web.Request) -> Grant:
        if self._verifier is None:
            return EVERYTHING
        token = find_token(request.headers, request.cookies, request.query, self._config.cookie)
        if token is None:
            where = f"Authorization: Bearer, the cookie {self._config.cookie} or the query parameter access_token"
            raise Problem(401, f"a token is needed, as {where}", WWW_Authenticate="Bearer")
        try:
            return await self._verifier.verify(token)
        except KeysUnavailable:
            raise self._unavailable("the keys to verify tokens can't be fetched") from None
        except InvalidToken as error:
            raise Problem(401, str(error), WWW_Authenticate='Bearer error="invalid_token"') from None

    def _check(self, scope: Scope, grant: Grant) -> None:
        """Raises a Problem where the grant can't show what the scope names."""
        for project in scope.projects:
            if not grant.project(project):
                raise Problem(403, "the token does not grant this project")
        for id in scope.operations:
            operation = self._history.operation(id)
            if not (grant.may_await(id) if operation is None else grant.sees(id, operation.project.id)):
                raise Problem(403, "the token does not grant this operation")

    async def _stream(self, request: web.Request, scope: Scope, grant: Grant) -> web.StreamResponse:
        self._check(scope, grant)
        response = EventStream()
        if request.method == "HEAD":
            return web.Response(headers=response.headers)
        last_event_id = request.headers.get("Last-Event-ID") or request.query.get("lastEventId") or None
        follow = request.query.get("follow") == "true"
        if not follow and self._is_over(scope, last_event_id):
            return web.Response(status=204)
        client = (grant.subject and f"sub {grant.subject}") or f"addr {self._address(request)}"
        refused = self._limits.admit(client)
        if refused:
            why = "too many streams of this client" if refused == 429 else "too many streams"
            raise Problem(refused, f"{why}: come back", Retry_After=str(math.ceil(self._config.retry * CROWDED)))

        began, who = time.monotonic(), request["who"] if _log.isEnabledFor(logging.DEBUG) else None

        def on_close(reason: str) -> None:
            self._limits.release(client)
            self._metrics.connections[scope.kind] -= 1
            self._metrics.closed[reason] += 1
            if who is not None:
                lasted = round(time.monotonic() - began, 3)
                _log.debug("stream closed", extra={"scope": scope.kind, "reason": reason, "seconds": lasted} | who)

        self._metrics.connections[scope.kind] += 1
        connection = Connection(
            self._terms,
            scope,
            None if grant.covers(scope) else grant.sees,
            last_event_id=last_event_id,
            follow=follow,
            chunked=request.version >= (1, 1),
            retry_ms=spread(self._config.retry * 1000),
            expires=self._expires(grant),
            on_close=on_close,
        )
        self._metrics.opened[scope.kind] += 1
        try:
            taken = await take_over(request, response, connection)
        except BaseException as error:
            on_close("client" if isinstance(error, ConnectionError) else "error")
            raise
        if not taken:
            on_close("client")
            return web.Response()  # to nobody
        return response

    def _is_over(self, scope: Scope, last_event_id: str | None) -> bool:
        """Whether a browser comes back to a single operation whose end it has seen."""
        if scope.kind != "operation" or last_event_id is None or (id := parse_id(last_event_id)) is None:
            return False
        operation = self._history.operation(next(iter(scope.operations)))
        return (
            operation is not None and operation.ended and operation.outcome is not None and id >= operation.outcome.id
        )

    def _expires(self, grant: Grant) -> float | None:
        now, ends = time.monotonic(), []
        if grant.expires is not None:
            ends.append(now + grant.expires - time.time())
        if self._config.max_connection_age:
            ends.append(now + self._config.max_connection_age * random.uniform(0.9, 1.1))
        return min(ends, default=None)

    def _address(self, request: web.Request) -> str:
        forwarded = request.headers.getall("X-Forwarded-For", [])
        return client_address(request.remote or "", forwarded, self._config.trusted_proxies)

    @web.middleware
    async def _problems(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        request["who"] = trace.identify(request.headers)
        try:
            return await handler(request)
        except Problem as problem:  # kept beyond this block, it would be a cycle with its own traceback
            return self._refuse(request, problem)
        except web.HTTPException as error:
            error.__traceback__ = None  # the router keeps the error, its traceback this frame, which keeps the request
            return self._refuse(request, _as_problem(error))

    def _refuse(self, request: web.Request, problem: Problem) -> web.StreamResponse:
        self._metrics.refused[problem.status] += 1
        _log.debug("request refused", extra={"status": problem.status, "detail": problem.detail} | request["who"])
        return problem.response(request.headers.get("Accept", ""))

    async def _headers(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = "sse-gateway"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Request-ID"] = request["who"]["request_id"]
        origins, origin = self._config.cors_origins, request.headers.get("Origin")
        if origins and origins != ("*",):
            response.headers["Vary"] = "Origin"
        if origin is None:
            return
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


def _path_id(request: web.Request, name: str) -> str:
    id = request.match_info[name]
    if not valid_id(id):
        raise Problem(400, f"{name} has 1-256 characters, none of them a control character")
    return id
