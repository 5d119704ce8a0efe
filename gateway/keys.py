"""The keys that tokens are signed with: a JSON Web Key Set at a URL (RFC 7517), fetched at need. Verifies no token."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

import aiohttp
import jwt

from gateway.logs import Limited

ASYMMETRIC: Final[tuple[str, ...]] = ("RS256", "ES256", "EdDSA")
JWKS_TIMEOUT: Final = 5.0
JWKS_MAX_BYTES: Final = 256 * 1024
JWKS_MAX_AGE: Final = 600.0
"""Seconds after which the key set is fetched again, so that a withdrawn key goes out of use."""
JWKS_COOLDOWN: Final = 10.0
"""Seconds between two fetches, however many unknown keys are shown."""
BAD_KEY_SET: Final = (jwt.PyJWTError, ValueError, TypeError, AttributeError, LookupError, RecursionError)
"""What PyJWT raises for a document that is no key set, whatever it is instead."""
TRIES: Final = 8
"""Keys that one token is tried with."""
ASKED: Final = 10_000
"""Unknown keys whose first sight is remembered."""

_log = logging.getLogger(__name__)


class KeysUnavailable(Exception):
    """Whether a token holds can't be told before the key set is fetched anew. No fault of the token's."""


class KeySet:
    """The keys at a URL, fetched when a token is signed by none of them, and when they are old. What was fetched last
    stays in use while the URL can't be reached. `changed` is called when it isn't what it was.
    """

    def __init__(self, url: str, changed: Callable[[], None]) -> None:
        self._url = url
        self._changed = changed
        self._document = b""
        self._keys: list[jwt.PyJWK] = []
        self._fetched = -JWKS_MAX_AGE  # when the fetch began that brought them
        self._tried = -JWKS_COOLDOWN
        self._asked: dict[int, float] = {}  # when an unknown key was first asked for
        self._turn = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._limited = Limited(_log)

    def candidates(self, header: Mapping[str, Any]) -> Iterator[jwt.PyJWK]:
        """The keys that may have signed for a token's header: those of its `kid`, or that have none, and its type."""
        kid, algorithm = header.get("kid"), header.get("alg")
        fitting = (key for key in self._keys if key.algorithm_name == algorithm)
        return islice((key for key in fitting if kid is None or key.key_id in (kid, None)), TRIES)

    def has(self, header: Mapping[str, Any]) -> bool:
        """Whether the key that a token's header names is known."""
        return header.get("kid") is not None and any(key.key_id == header["kid"] for key in self._keys)

    async def renew(self, header: Mapping[str, Any], token: str) -> None:
        """Sees to it that the set is newer than the first sight of an unknown key: of its `kid`, or where there is
        none, of the token. Raises KeysUnavailable while it isn't.
        """
        name = hash(header.get("kid") or token)
        asked = self._asked.setdefault(name, time.monotonic())
        if len(self._asked) > ASKED:
            del self._asked[next(iter(self._asked))]
        await self._fetch()
        if self._fetched < asked:
            raise KeysUnavailable

    @property
    def old(self) -> bool:
        """Whether it is time to fetch the set again."""
        return time.monotonic() - self._fetched >= JWKS_MAX_AGE

    async def refresh(self) -> None:
        """Fetches the set again when it is old."""
        if self.old:
            await self._fetch()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _fetch(self) -> None:
        async with self._turn:  # whoever waited here finds the set fetched
            began = time.monotonic()
            if began - self._tried < JWKS_COOLDOWN:
                return
            self._tried = began
            if self._session is None:
                self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=JWKS_TIMEOUT))
            try:
                async with self._session.get(self._url, allow_redirects=False) as response:
                    response.raise_for_status()
                    body = b""
                    async for chunk in response.content.iter_any():
                        body += chunk
                        if len(body) > JWKS_MAX_BYTES:
                            raise ValueError(f"more than {JWKS_MAX_BYTES} bytes")
                keys = jwt.PyJWKSet.from_json(body.decode()).keys
            except (*BAD_KEY_SET, aiohttp.ClientError, TimeoutError) as error:
                message = f"the key set can't be fetched, keeping the {len(self._keys)} keys there are: {error!r}"
                self._limited.warning("jwks", message, url=self._url)
                return
            self._keys = [key for key in keys if key.algorithm_name in ASYMMETRIC]
            self._fetched = began
            _log.info("key set fetched", extra={"url": self._url, "keys": len(self._keys)})
            if body != self._document:
                self._document = body
                self._changed()
