"""A refusal, and how it is told: as a problem (RFC 9457), or in EventSource's own language where it is temporary."""

import random
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import web

from gateway import frame
from gateway.handshake import HEADERS


class Problem(Exception):
    """A refusal: its HTTP status, a `detail` that says what to do, `more` members (RFC 9457, 3.2), and its headers."""

    def __init__(self, status: int, detail: str, more: Mapping[str, Any] | None = None, **headers: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.more = more or {}
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def response(self, accept: str) -> web.Response:
        """The answer to a request whose Accept header is `accept`."""
        retry_after = self.headers.get("Retry-After")
        if retry_after is not None and "text/event-stream" in accept and "application/problem+json" not in accept:
            # Any status but 200 would make an EventSource give up for good.
            body = frame.refusal(spread(int(retry_after) * 1000), self.status, self.detail)
            return web.Response(body=body, headers=HEADERS)
        title = HTTPStatus(self.status).phrase
        return web.Response(
            status=self.status,
            body=orjson.dumps({"status": self.status, "title": title, "detail": self.detail, **self.more}),
            content_type="application/problem+json",
            headers=self.headers | {"Cache-Control": "no-store"},
        )


def spread(ms: float) -> int:
    """`ms` milliseconds ± 50 %, so that a crowd doesn't return at once."""
    return max(1, round(ms * random.uniform(0.5, 1.5)))
