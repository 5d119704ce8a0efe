"""Find the token, verify it (PyJWT), and the grant it gives. Never logs a token, never puts one into an error."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from sys import getsizeof
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from gateway.config import Config, ConfigError
from gateway.event import Key
from gateway.keys import ASYMMETRIC, KeySet
from gateway.scope import Scope

CACHE: Final = 8 << 20
"""Bytes of verified tokens that are remembered, so that a crowd that returns costs no signatures."""
GRANT: Final = 1000
GRANTED: Final = 100
"""Bytes that a grant costs, and each id of it, beside their text (tests/bench measures)."""

_log = logging.getLogger(__name__)


class InvalidToken(Exception):
    """No token, or one that doesn't hold; the message says why and is safe to show."""


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
        self._jwks = KeySet(config.jwks_url, self._forget_all) if config.jwks_url else None
        self._cache: dict[str, Grant] = {}
        self._cached = 0  # bytes
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

    def recall(self, token: str) -> Grant | None:
        """The grant of a token that was verified before and still holds; None where that has to be seen by `verify`."""
        grant = self._cache.get(token)
        if grant is None or (self._jwks is not None and self._jwks.old):
            return None
        return None if grant.expires is not None and grant.expires + self._leeway <= time.time() else grant

    async def verify(self, token: str) -> Grant:
        """Raises InvalidToken, or KeysUnavailable. Waits only for a key set that has to be fetched."""
        if self._jwks is not None:
            await self._jwks.refresh()
        grant = self._cache.get(token)
        if grant is None:
            grant = await self._grant(token)
            if token not in self._cache:  # another request may have brought it meanwhile
                self._remember(token, grant)
        elif grant.expires is not None and grant.expires + self._leeway <= time.time():
            self._forget(token)
            raise InvalidToken("the token has expired")
        return grant

    async def close(self) -> None:
        if self._jwks is not None:
            await self._jwks.close()

    def _remember(self, token: str, grant: Grant) -> None:
        self._cache[token] = grant
        self._cached += _size(token, grant)
        while self._cached > CACHE:
            self._forget(next(iter(self._cache)))

    def _forget_all(self) -> None:
        """A key that was withdrawn may have signed any of them."""
        self._cache.clear()
        self._cached = 0

    def _forget(self, token: str) -> None:
        self._cached -= _size(token, self._cache.pop(token))

    async def _grant(self, token: str) -> Grant:
        try:
            if self._jwks is None:
                return self._decode(token, self._key)
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ASYMMETRIC:
                raise InvalidToken(f"a token is signed by one of {', '.join(ASYMMETRIC)}")
            # Keys need no id, and those of two types may share one (RFC 7517 section 4.5): the one that fits counts.
            for again in (False, True):
                for key in self._jwks.candidates(header):
                    try:
                        return self._decode(token, key)
                    except jwt.InvalidSignatureError:
                        pass
                if again or self._jwks.has(header):
                    break
                await self._jwks.renew(header, token)
        except jwt.ExpiredSignatureError:
            raise InvalidToken("the token has expired") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise InvalidToken(f"the token is not valid: {type(error).__name__}") from None
        raise InvalidToken("the token is signed by no key of the key set")

    def _decode(self, token: str, key: Any) -> Grant:
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


def _size(token: str, grant: Grant) -> int:
    ids = [*(grant.projects or ()), *(grant.operations or ()), *(id for pair in grant.pairs for id in pair)]
    return GRANT + getsizeof(token) + getsizeof(grant.subject) + len(ids) * GRANTED + sum(map(getsizeof, ids))


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
