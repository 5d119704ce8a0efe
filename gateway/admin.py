"""Health, readiness, metrics, one operation in full: for the platform and support only, never through the ingress."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

from aiohttp import web

from gateway.answers import Answers, json_response
from gateway.asked import operation_scope
from gateway.cursor import Mode
from gateway.event import Key, format_id
from gateway.hub import Hub
from gateway.metrics import Metrics
from gateway.problem import Problem
from gateway.state import entries_of, state_of

PER_TURN = 500
"""Listeners looked at in one turn."""
PATHS = "there are /healthz, /readyz, /metrics and /operations/{operationId}"


class Admin:
    """The admin face. `ready` is about this process (loaded, not draining), never about Redis: an outage there would
    take every replica out at once.
    """

    def __init__(self, metrics: Metrics, hub: Hub, ready: Callable[[], bool]) -> None:
        self.answers = Answers(PATHS, (), Counter())
        self._metrics = metrics
        self._hub = hub
        self._ready = ready

    def application(self) -> web.Application:
        app = web.Application()
        app.on_response_prepare.append(self.answers.prepare)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._exposition)
        app.router.add_get("/operations/{operationId:[^/]+}", self._operations)
        return app

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        return web.Response(text="ready\n") if self._ready() else web.Response(status=503, text="not ready\n")

    async def _exposition(self, request: web.Request) -> web.Response:
        content_type = "text/plain; version=0.0.4; charset=utf-8"
        return web.Response(body=self._metrics.exposition(), headers={"Content-Type": content_type})

    async def _operations(self, request: web.Request) -> web.Response:
        scope, history = operation_scope(request), self._hub.history
        known = [each for name in scope.named() for each in history.operations.called(name)]
        if not known:
            raise Problem(404, "nothing is known of this operation: it has not begun, or is long over")
        answer = [
            {
                "projectId": operation.key[0],
                "state": state_of(operation),
                "silentFor": max(0.0, round(time.monotonic() - operation.heard, 1)),
                "entries": await entries_of(operation, history),
                "listeners": await self._listeners(operation.key),
            }
            for operation in known
        ]
        return json_response(answer)

    async def _listeners(self, key: Key) -> list[dict[str, object]]:
        """Who listens to an operation: since when, how far told, and whether it reads slower than events come."""
        found: list[dict[str, object]] = []
        for number, subscriber in enumerate(list(self._hub.subscribers), 1):
            if subscriber in self._hub.subscribers and subscriber.cursor.follows(key):
                subscriber.settle()
                found.append(
                    {
                        "scope": subscriber.scope.kind,
                        "requestId": subscriber.wish.request_id,
                        "since": datetime.fromtimestamp(subscriber.wish.since, UTC).isoformat(timespec="milliseconds"),
                        "place": format_id(subscriber.cursor.place),
                        "lagging": subscriber.cursor.mode is Mode.LAGGING,
                    }
                )
            if number % PER_TURN == 0:
                await asyncio.sleep(0)
        return found
