"""The live page (SSE_UI=on) and the npm package's browser files, served as they are under a strict policy."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from aiohttp import web

KINDS: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_routes(app: web.Application) -> None:
    """Adds the page and its files. They hold no data: what it shows comes through the streams, with their auth."""
    folder = Path(__file__).parent
    app.router.add_get("/", _serve(folder / "ui" / "index.html"))
    for pattern in ("ui/*.js", "ui/*.css", "js/*.js"):
        for path in folder.glob(pattern):
            app.router.add_get(f"/ui/{path.name}", _serve(path))


def _serve(path: Path) -> Callable[[web.Request], Awaitable[web.Response]]:
    body, kind = path.read_bytes(), KINDS[path.suffix]

    async def serve(request: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)

    return serve
