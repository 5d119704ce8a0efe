"""Find the token, verify it (PyJWT), and the grant it gives. Never logs a token, never puts one into an error."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from gateway.config import Config, ConfigError
from gateway.event import Key
from gateway.logs import Limited
from gateway.scope import Scope

ASYMMETRIC: Final[tuple[str, ...]] = ("RS256", "ES256", "EdDSA")
JWKS_TIMEOUT: Final = 5.0
JWKS_MAX_BYTES: Final = 256 * 1024
JWKS_MAX_AGE: Final = 600.0
"""Seconds after which the key set is fetched again, so that a withdrawn key goes out of use."""
JWKS_COOLDOWN: Final = 10.0
"""Seconds between two fetches, however many unknown key ids are shown."""
BAD_KEY_SET: Final = (jwt.PyJWTError, ValueError, TypeError, AttributeError, LookupError, RecursionError)
"""What PyJWT raises for a document that is no key set, whatever it is instead."""
CACHE: Final = 4096
"""Verified tokens remembered, so that a crowd that returns costs no signatures."""

_log = logging.getLogger(__name__)


class InvalidToken(Exception):
    """No token, or one that doesn't hold; the message says why and is safe to show."""


class KeysUnavailable(Exception):
    """Whether a token holds can't be told now: the key set can't be fetched. No fault of the token's."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token permits. None for `projects` or `operations` means all of them; a bare id among the `operations`
    grants that operation of every project, `pairs` name theirs. `expires` is in epoch seconds.
    """

    projects: frozenset[str] | None
    operations: frozenset[str] | None
    pairs: frozenset[Key] = frozenset()
    subject: str | None = None
    expires: float | None = None

    @property
    def unlimited(self) -> bool:
        return self.projects is None or self.operations is None

    def scope(self) -> Scope:
        """Everything that it permits. Where nothing is, that is everything: ask for `nothing` first."""
        if self.unlimited:
            return Scope("multi")
        return Scope("multi", self.operations or frozenset(), self.projects or frozenset(), self.pairs)

    @property
    def nothing(self) -> bool:
        return not (self.unlimited or self.projects or self.operations or self.pairs)

    def project(self, id: str) -> bool:
        """Whether all of a project may be seen."""
        return self.projects is None or id in self.projects

    def sees(self, key: Key) -> bool:
        """Whether this operation may be seen: a project grants its operations."""
        return self.project(key[0]) or self.operations is None or key[1] in self.operations or key in self.pairs

    def covers(self, scope: Scope) -> bool:
        """Whether every event in `scope` may be seen, so that none needs a look."""
        if self.unlimited:
            return True
        bare = self.operations or frozenset()
        return (
            scope.size > 0
            and all(map(self.project, scope.projects))
            and scope.operations <= bare
            and all(map(self.sees, scope.pairs))
        )

    def may_see(self, name: str | Key) -> bool:
        """Whether an operation of this bare id, or this pair, may turn out to be granted, whoever has heard of it."""
        if not isinstance(name, str):
            return self.sees(name)
        if self.unlimited or self.projects:
            return True
        return name in (self.operations or ()) or any(operation == name for _, operation in self.pairs)


EVERYTHING: Final = Grant(None, None)


def find_tokens(headers: Mapping[str, str], query: Mapping[str, str], cookie: str) -> list[str]:
    """The tokens of a request, in the order in which they count: `Authorization: Bearer`, the cookie, then the query
    parameter `access_token`. Of two cookies of one name the first is the more specific (RFC 6265 section 5.4).
    """
    scheme, _, bearer = headers.get("Authorization", "").partition(" ")
    cookies = (pair.strip().partition("=") for pair in headers.get("Cookie", "").split(";"))
    named = (value.strip().strip('"') for name, _, value in cookies if name.strip() == cookie)
    found = (bearer if scheme.lower() == "bearer" else "", next(named, ""), query.get("access_token", ""))
    return [token.strip() for token in found if token.strip()]


class Verifier:
    """Makes a Grant of a token, by one static key or by a key set at a URL. Raises ConfigError for an unusable key."""

    def __init__(self, config: Config) -> None:
        self._issuer = config.jwt_issuer or None
        self._leeway = config.jwt_leeway
        self._audience = config.jwt_audience or None
        self._jwks = KeySet(config.jwks_url) if config.jwks_url else None
        self._cache: dict[str, Grant] = {}
        self._key: Any = None
        self._algorithms = ASYMMETRIC
        if config.jwt_public_key:
            self._key, algorithm = _public_key(config.jwt_public_key)
            self._algorithms = (algorithm,)
        elif config.jwt_secret:
            self._key, self._algorithms = config.jwt_secret, ("HS256",)
            if len(config.jwt_secret.encode()) < 32:
                _log.warning("SSE_JWT_SECRET is shorter than 32 bytes: it can be guessed (RFC 7518 section 3.2)")
        elif self._jwks is None:
            raise ConfigError("SSE_AUTH=jwt has no key")

    async def verify(self, token: str) -> Grant:
        """Raises InvalidToken, or KeysUnavailable. Waits only for a key set that has to be fetched."""
        if self._jwks is not None and await self._jwks.refreshed():
            self._cache.clear()
        grant = self._cache.get(token)
        if grant is None:
            grant = await self._decode(token)
            if len(self._cache) >= CACHE:
                del self._cache[next(iter(self._cache))]
            self._cache[token] = grant
        elif grant.expires is not None and grant.expires + self._leeway <= time.time():
            del self._cache[token]
            raise InvalidToken("the token has expired")
        return grant

    async def close(self) -> None:
        if self._jwks is not None:
            await self._jwks.close()

    async def _decode(self, token: str) -> Grant:
        try:
            key = self._key
            if self._jwks is not None:
                key = await self._jwks.key(jwt.get_unverified_header(token))
            claims = jwt.decode(
                token,
                key,
                algorithms=self._algorithms,
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._leeway,
                options={"require": ["exp"], "verify_aud": self._audience is not None},
            )
            expires = float(claims["exp"])
        except jwt.ExpiredSignatureError:
            raise InvalidToken("the token has expired") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise InvalidToken(f"the token is not valid: {type(error).__name__}") from None
        subject = claims.get("sub")
        operations = claims.get("operations", [])
        pairs = [each for each in operations if _is_pair(each)] if isinstance(operations, list) else []
        bare = {**claims, "operations": [each for each in operations if each not in pairs]} if pairs else claims
        return Grant(
            _ids(claims, "projects"),
            _ids(bare, "operations"),
            frozenset((project, operation) for project, operation in pairs),
            subject,
            expires,
        )


def _ids(claims: Mapping[str, Any], claim: str) -> frozenset[str] | None:
    ids = claims.get(claim, [])
    if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
        more = ', of pairs ["projectId", "operationId"]' if claim == "operations" else ""
        raise InvalidToken(f'the claim {claim} must be an array of ids{more}, or ["*"]')
    return None if "*" in ids else frozenset(ids)


def _is_pair(item: object) -> bool:
    return isinstance(item, list) and len(item) == 2 and all(isinstance(id, str) for id in item)


def _public_key(pem: str) -> tuple[Any, str]:
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(
            "SSE_JWT_PUBLIC_KEY: expected a public key in PEM form (-----BEGIN PUBLIC KEY-----)"
        ) from None
    if isinstance(key, RSAPublicKey):
        return key, "RS256"
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return key, "ES256"
    if isinstance(key, Ed25519PublicKey):
        return key, "EdDSA"
    raise ConfigError("SSE_JWT_PUBLIC_KEY: expected an RSA, P-256 or Ed25519 key")


class KeySet:
    """The keys at a JWKS URL (RFC 7517), fetched at need: on an unknown `kid`, and when they are old. What was fetched
    last stays in use while the URL can't be reached.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched = -JWKS_MAX_AGE
        self._tried = -JWKS_COOLDOWN
        self._failing = False
        self._turn = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._limited = Limited(_log)

    async def key(self, header: Mapping[str, Any]) -> jwt.PyJWK:
        """The key that signs for a token's header. Raises InvalidToken where the set has none, KeysUnavailable where
        the newest set could not be fetched.
        """
        kid = header.get("kid")
        if kid not in self._keys and not (kid is None and len(self._keys) == 1):
            await self._fetch()
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        if kid not in self._keys:
            if self._failing:
                raise KeysUnavailable
            raise InvalidToken("the token is signed by a key that is not in the key set")
        return self._keys[kid]

    async def refreshed(self) -> bool:
        """Fetches the set again when it is old. Whether that was so."""
        if time.monotonic() - self._fetched < JWKS_MAX_AGE:
            return False
        return await self._fetch()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _fetch(self) -> bool:
        async with self._turn:  # whoever waited here finds the set fetched
            if time.monotonic() - self._tried < JWKS_COOLDOWN:
                return False
            self._tried = time.monotonic()
            self._failing = True
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
                return False
            self._keys = {key.key_id: key for key in keys if key.algorithm_name in ASYMMETRIC}
            self._fetched = time.monotonic()
            self._failing = False
            _log.info("key set fetched", extra={"url": self._url, "keys": len(self._keys)})
            return True
