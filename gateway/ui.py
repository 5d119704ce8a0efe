"""The live page (SSE_UI=on) and the npm package's browser files, served as they are under a strict policy."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from aiohttp import web

FILES: Final = {
    "/": ("ui/index.html", "text/html"),
    "/ui/live.js": ("ui/live.js", "text/javascript"),
    "/ui/live.css": ("ui/live.css", "text/css"),
    "/ui/watch.js": ("js/watch.js", "text/javascript"),
    "/ui/react.js": ("js/react.js", "text/javascript"),
}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_routes(app: web.Application) -> None:
    """Adds the page and its files. They hold no data: what it shows comes through the streams, with their auth."""
    folder = Path(__file__).parent
    for path, (name, kind) in FILES.items():
        app.router.add_get(path, _serve((folder / name).read_bytes(), kind))


def _serve(body: bytes, kind: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def serve(request: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)

    return serve
