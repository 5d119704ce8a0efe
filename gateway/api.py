"""The public routes: three streams and the state of an operation; problems (RFC 9457), CORS, who is let in.

Decides whether a request becomes a connection; never writes a frame of one.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from heapq import nlargest
from itertools import islice
from operator import attrgetter
from typing import Final

from aiohttp import web

from gateway import frame, trace, ui
from gateway.answers import WHO, Answers, json_response, preflight
from gateway.asked import STREAMS, ended_wanted, operation_scope, path_id, route, route_name
from gateway.auth import EVERYTHING, Grant, InvalidToken, Verifier, find_tokens
from gateway.config import Config
from gateway.connection import Connection
from gateway.event import format_id, parse_id
from gateway.handshake import HEADERS, head, is_half_closed, take_over
from gateway.keys import KeysUnavailable
from gateway.limits import Limits, client_address
from gateway.metrics import Metrics
from gateway.operations import Operation
from gateway.problem import Problem, spread
from gateway.scope import Scope, Wish
from gateway.state import state_of
from gateway.terms import Terms

CROWDED: Final = 5
"""How many times SSE_RETRY a client is sent away for that is over a limit."""
LISTED: Final = 1000
"""Running operations of a project that are listed at most, the newest."""
PER_TURN: Final = 50
"""States made in one turn."""

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
        self._streams: list[web.AbstractResource] = []
        self._config = config
        self._terms = terms
        self._limits = limits
        self._metrics = metrics
        self._verifier = verifier
        self._ready = ready
        paths = "streams are /api/operations/{id}/stream and /api/projects/{id}/stream"
        self.answers = Answers(paths, config.cors_origins, metrics.refused)

    def application(self) -> web.Application:
        app = web.Application()
        app.on_response_prepare.append(self.answers.prepare)
        # An id may hold anything but a control character; a slash or a brace comes percent-encoded.
        for path, handler, name in (
            ("/api/operations/{operationId:[^/]+}/stream", self._stream, "operation"),
            ("/api/projects/{projectId:[^/]+}/stream", self._stream, "project"),
            ("/api/projects/stream", self._stream, "multi"),
            ("/api/operations/{operationId:[^/]+}", self._state, "state"),
            ("/api/projects/{projectId:[^/]+}/operations", self._project_operations, "operations"),
        ):
            resource = app.router.add_resource(path, name=name)
            for method in ("GET", "HEAD"):
                resource.add_route(method, handler)
            resource.add_route("OPTIONS", preflight)
        self._streams = [app.router[name] for name in STREAMS]
        if self._config.ui == "on":
            ui.add_routes(app)
        return app

    def opens(self, request: web.Request) -> bool:
        """Opens the stream that is asked for, if nothing has to be waited for and nothing is against it. If not,
        nothing has happened, and the request is `application`'s to answer.
        """
        if self.draining or not self._ready():
            return False
        name = route(self._streams, request)
        if not name or (grant := self._recall(request)) is None:
            return False
        request[WHO] = trace.identify(request.headers)
        try:
            return self._open(request, STREAMS[name](request, grant), grant) is None
        except Problem:
            return False

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        grant = None if self.draining else await self._known(request)
        if grant is None or self.draining:  # which may have begun while the keys were waited for
            raise self._unavailable("this replica is going away")
        scope = STREAMS[route_name(request)](request, grant)
        return self._open(request, scope, grant) or web.Response()  # to nobody: the client isn't aiohttp's any more

    async def _state(self, request: web.Request) -> web.StreamResponse:
        grant = await self._known(request)
        shown = self._shown(operation_scope(request), grant)
        operation = max(shown, key=attrgetter("newest"), default=None)
        if operation is None or (state := state_of(operation)) is None:
            raise Problem(404, "nothing is known of this operation: it has not begun, or is long over")
        return json_response(state)

    async def _project_operations(self, request: web.Request) -> web.StreamResponse:
        grant = await self._known(request)
        id, ended = path_id(request, "projectId"), ended_wanted(request, 20)
        self._check(Scope("project", projects=frozenset((id,))), grant)
        history = self._terms.hub.history
        newest, project, found = history.newest, history.operations.project(id), list[Operation]()
        if project is not None:
            found = nlargest(LISTED, project.running.values(), key=attrgetter("newest"))
            found += islice(reversed(project.ended.values()), ended)
        states = []
        for number, operation in enumerate(found, 1):
            if history.operations.get(operation.key) is operation and (state := state_of(operation)) is not None:
                states.append(state)
            if number % PER_TURN == 0:
                await asyncio.sleep(0)
        return json_response({"id": format_id(newest), "operations": states})

    async def _known(self, request: web.Request) -> Grant:
        """The grant of a request for what is known, once that is."""
        if not self._ready():
            raise self._unavailable("the history is being loaded")
        return await self._grant(request)

    def _unavailable(self, why: str) -> Problem:
        return Problem(503, f"{why}: come back", Retry_After=str(math.ceil(self._config.retry)))

    async def _grant(self, request: web.Request) -> Grant:
        if self._verifier is None:
            return EVERYTHING
        tokens = self._tokens(request)
        if not tokens:
            where = f"Authorization: Bearer, the cookie {self._config.cookie} or the query parameter access_token"
            raise Problem(401, f"a token is needed, as {where}", WWW_Authenticate="Bearer")
        refusals: list[Problem] = []
        for token in tokens:  # the first that holds counts: a stale cookie is no reason to refuse a good parameter
            try:
                return await self._verifier.verify(token)
            except KeysUnavailable:
                refusals.insert(0, self._unavailable("the keys to verify tokens can't be fetched"))
            except InvalidToken as error:
                refusals.append(Problem(401, str(error), WWW_Authenticate='Bearer error="invalid_token"'))
        raise refusals[0]

    def _recall(self, request: web.Request) -> Grant | None:
        """The grant of a request whose first token is known to hold."""
        if self._verifier is None:
            return EVERYTHING
        tokens = self._tokens(request)
        return self._verifier.recall(tokens[0]) if tokens else None

    def _tokens(self, request: web.Request) -> list[str]:
        return find_tokens(request.headers, request.query, self._config.cookie)

    def _check(self, scope: Scope, grant: Grant) -> None:
        """Raises a Problem where the grant can't show what the scope names. What is known of it makes no difference."""
        if grant.projects is None:
            return
        projects = sorted(id for id in scope.projects if not grant.project(id))
        names = [name for name in scope.named() if not grant.may_see(name)]
        if projects or names:
            outside = {
                "projectId": projects,
                "operationId": sorted({name if isinstance(name, str) else name[1] for name in names}),
            }
            raise Problem(403, "the token does not grant what `outside` holds: ask for the rest", {"outside": outside})

    def _shown(self, scope: Scope, grant: Grant) -> list[Operation]:
        """The operations that a scope names and the grant shows. Raises a Problem where it can't show any."""
        self._check(scope, grant)
        called = self._terms.hub.history.operations.called
        return [each for name in scope.named() for each in called(name) if grant.sees(each.key)]

    def _open(self, request: web.Request, scope: Scope, grant: Grant) -> web.Response | None:
        """Makes a stream of the request's connection, or answers what is to be said instead, and then nothing has
        happened. Raises Problem.
        """
        self._check(scope, grant)
        if is_half_closed(request):
            # As Go's net/http and nginx have it: a tab that was closed looks the same, and must free its place at once.
            raise Problem(400, "a stream ends where its client closes its side: keep the connection open")
        now = time.time()
        wish = Wish(
            request.headers.get("Last-Event-ID") or request.query.get("lastEventId") or None,
            ended_wanted(request, 0),
            follow=request.query.get("follow") == "true",
            expires=self._expires(grant),
            chunked=request.version >= (1, 1),
            request_id=request[WHO]["request_id"],
            since=now,
        )
        if request.method == "HEAD":
            return web.Response(headers=HEADERS)
        if not wish.follow and self._is_over(scope, grant, wish.last_event_id):
            return web.Response(status=204)
        client = self._client(request, grant)
        began, who = time.monotonic(), request[WHO] if _log.isEnabledFor(logging.DEBUG) else None

        def on_close(reason: str) -> None:
            self._limits.release(client)
            self._metrics.connections[scope.kind] -= 1
            self._metrics.closed[reason] += 1
            if who is not None:
                lasted = round(time.monotonic() - began, 3)
                said = {"scope": scope.kind, "reason": reason, "seconds": lasted, "operations": list(scope.named())}
                _log.debug("stream closed", extra=said | {"projects": list(scope.projects)} | who)

        first = frame.first(now, self._config.heartbeat, spread(self._config.retry * 1000))
        opening = head(request, self.answers.headers(request)) + (first if wish.chunked else frame.unchunk(first))
        sees = None if grant.covers(scope) else grant.sees
        connection = Connection(self._terms, scope, sees, wish, opening, on_close)
        refused = self._limits.admit(client)
        if refused:
            why = "too many streams of this client" if refused == 429 else "too many streams"
            raise Problem(refused, f"{why}: come back", Retry_After=str(math.ceil(self._config.retry * CROWDED)))
        self._metrics.connections[scope.kind] += 1
        self._metrics.opened[scope.kind] += 1
        if not take_over(request, connection):
            on_close("client")
        return None

    def _is_over(self, scope: Scope, grant: Grant, last_event_id: str | None) -> bool:
        """Whether a browser comes back to a single operation whose end it has seen."""
        if scope.kind != "operation" or last_event_id is None or (id := parse_id(last_event_id)) is None:
            return False
        ends = [operation.end for operation in self._shown(scope, grant)]
        return bool(ends) and all(0 < end <= id for end in ends)

    def _expires(self, grant: Grant) -> float | None:
        now, ends = time.monotonic(), []
        if grant.expires is not None:
            left = grant.expires - time.time()
            ends.append(now + (left if left > 0 else left + self._config.jwt_leeway))
        if self._config.max_connection_age:
            ends.append(now + self._config.max_connection_age * random.uniform(0.9, 1.1))
        return min(ends, default=None)

    def _client(self, request: web.Request, grant: Grant) -> str:
        """Whose streams are counted; nobody's where one client may have any number."""
        if not self._config.max_connections_per_client:
            return ""
        if grant.subject:
            return f"sub {grant.subject}"
        peer = request.transport.get_extra_info("peername") if request.transport else None
        forwarded = {name: request.headers.getall(name, []) for name in ("X-Forwarded-For", "Forwarded")}
        return f"addr {client_address(peer[0] if peer else '', forwarded, self._config.trusted_proxies)}"
