"""Health, readiness and metrics, for the platform only: never through the ingress."""

from collections.abc import Callable

from aiohttp import web

from gateway.metrics import Metrics


def application(metrics: Metrics, ready: Callable[[], bool]) -> web.Application:
    """The admin face. `ready` is about this process (loaded, not draining), never about Redis: an outage there would
    take every replica out at once.
    """

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        return web.Response(text="ready\n") if ready() else web.Response(status=503, text="not ready\n")

    async def exposition(request: web.Request) -> web.Response:
        content_type = "text/plain; version=0.0.4; charset=utf-8"
        return web.Response(body=metrics.exposition(), headers={"Content-Type": content_type})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", exposition)
    return app
