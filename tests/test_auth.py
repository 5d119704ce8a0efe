"""Who is let in, and what they see: every key type, every place of a token, every endpoint."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway import auth
from gateway.auth import Grant
from gateway.logs import JsonFormatter, TextFormatter
from gateway.scope import Scope
from tests.conftest import Gateway, Start, Worker

SECRET = "a secret of at least thirty-two bytes"
KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def token(key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, str] | None = None, **claims: Any) -> str:
    body = {"exp": time.time() + 60, "projects": ["p-1"]} | claims
    return jwt.encode(
        {name: value for name, value in body.items() if value is not None}, key, algorithm, headers=headers
    )


@pytest.fixture
async def guarded(start: Start) -> Gateway:
    return await start(SSE_AUTH="jwt", SSE_JWT_SECRET=SECRET)


async def status(gateway: Gateway, path: str = "/api/operations/nobody", **headers: str) -> int:
    return (await gateway.get(path, **headers)).status


async def test_a_token_comes_as_bearer_or_cookie_or_query_and_one_that_holds_is_enough(guarded: Gateway) -> None:
    good, bad = token(), token("another secret of thirty-two bytes or so")
    assert await status(guarded) == 401
    assert await status(guarded, Authorization=f"Bearer {good}") == 404
    assert await status(guarded, Cookie=f"sse_token={good}") == 404
    assert await status(guarded, f"/api/operations/nobody?access_token={good}") == 404
    assert await status(guarded, f"/api/operations/nobody?access_token={good}", Cookie=f"sse_token={bad}") == 404
    assert await status(guarded, Authorization=f"Bearer {bad}", Cookie=f"sse_token={good}") == 404
    assert await status(guarded, Authorization="Basic dXNlcjpwYXNz", Cookie=f"sse_token={good}") == 404


async def test_the_cookie_has_a_name_of_its_own(start: Start) -> None:
    gateway = await start(SSE_AUTH="jwt", SSE_JWT_SECRET=SECRET, SSE_COOKIE="session")
    assert await status(gateway, Cookie=f"session={token()}") == 404


async def test_401_tells_how(guarded: Gateway) -> None:
    response = await guarded.get("/api/projects/stream", Accept="text/event-stream")
    assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert "access_token" in json.loads(await response.text())["detail"]


@pytest.mark.parametrize(
    "bad",
    [
        token(exp=None),
        token(exp=time.time() - 40),
        token(exp=int("9" * 400)),
        token(iat=time.time() + 6000),
        token(exp="soon"),
        token(nbf=time.time() + 6000),
        token(projects="p-1"),
        token(operations=[1]),
        token(sub=7),
        token("", "none"),
        token(KEYS["RS256"], "RS256"),
        token(SECRET * 2, "HS512"),
        "not.a.token",
        "x" * 5000,
        "",
    ],
)
async def test_a_bad_token_is_refused(guarded: Gateway, bad: str) -> None:
    assert await status(guarded, Authorization=f"Bearer {bad}") == 401
    assert await guarded.metric("requests_rejected_total", status="401") == 1


async def test_issuer_and_audience_are_checked_when_configured(start: Start) -> None:
    settings = {"SSE_AUTH": "jwt", "SSE_JWT_SECRET": SECRET, "SSE_JWT_ISSUER": "us", "SSE_JWT_AUDIENCE": "sse"}
    gateway = await start(**settings)
    for claims, wanted in (({"iss": "us", "aud": "sse"}, 404), ({"iss": "us", "aud": ["a", "sse"]}, 404)):
        assert await status(gateway, Authorization=f"Bearer {token(**claims)}") == wanted
    for claims in ({}, {"iss": "us"}, {"aud": "sse"}, {"iss": "them", "aud": "sse"}, {"iss": "us", "aud": "web"}):
        assert await status(gateway, Authorization=f"Bearer {token(**claims)}") == 401


@pytest.mark.parametrize("algorithm", KEYS)
async def test_a_public_key_verifies_its_algorithm_only(start: Start, tmp_path: Path, algorithm: str) -> None:
    pem = KEYS[algorithm].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path = tmp_path / "key.pem"
    path.write_bytes(pem)
    gateway = await start(SSE_AUTH="jwt", SSE_JWT_PUBLIC_KEY=str(path))
    for other, key in KEYS.items():
        wanted = 404 if other == algorithm else 401
        assert await status(gateway, Authorization=f"Bearer {token(key, other)}") == wanted
    # The old trick: the public key, which everybody knows, as an HMAC secret.
    header, body = (
        jwt.utils.base64url_encode(json.dumps(part).encode()).decode()
        for part in ({"alg": "HS256", "typ": "JWT"}, {"exp": time.time() + 60, "projects": ["*"]})
    )
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(f"{header}.{body}".encode(), pem)
    forged = f"{header}.{body}.{jwt.utils.base64url_encode(signature).decode()}"
    assert await status(gateway, Authorization=f"Bearer {forged}") == 401


def _jwk(algorithm: str, key: Any = None) -> dict[str, str]:
    public = (key or KEYS[algorithm]).public_key()
    made: dict[str, str] = json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(public))
    return made


class Keys:
    """A JWKS endpoint whose keys and manners can be changed."""

    def __init__(self) -> None:
        self.keys: dict[str, str] = {"one": "RS256"}
        self.more: list[dict[str, str]] = []
        self.asked = 0
        self.broken = False
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.broken:
            return web.Response(status=500)
        keys = [_jwk(algorithm) | {"kid": kid, "use": "sig"} for kid, algorithm in self.keys.items()]
        keys += self.more
        keys.append(
            {"kty": "oct", "kid": "shared", "k": jwt.utils.base64url_encode(SECRET.encode()).decode(), "alg": "HS256"}
        )
        return web.json_response({"keys": keys})


@pytest.fixture
async def keys() -> AsyncIterator[Keys]:
    endpoint = Keys()
    app = web.Application()
    app.router.add_get("/jwks", endpoint.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    endpoint.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
    yield endpoint
    await runner.cleanup()


async def test_a_key_set_is_fetched_and_refreshed_on_an_unknown_kid_within_bounds(
    start: Start, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start(SSE_AUTH="jwt", SSE_JWKS_URL=keys.url)

    def signed(kid: str, algorithm: str) -> str:
        return token(KEYS[algorithm], algorithm, headers={"kid": kid})

    assert await status(gateway, Authorization=f"Bearer {signed('one', 'RS256')}") == 404
    assert keys.asked == 1
    keys.keys["two"] = "ES256"
    keys.keys["three"] = "EdDSA"
    for number in range(20):  # unknown kids can't make it ask again and again, and aren't told that they are wrong
        assert await status(gateway, Authorization=f"Bearer {signed(f'x{number}', 'RS256')}") == 503
    assert await status(gateway, Authorization=f"Bearer {signed('two', 'ES256')}") == 503
    assert keys.asked == 1
    monkeypatch.setattr("gateway.keys.JWKS_COOLDOWN", 0.0)
    assert await status(gateway, Authorization=f"Bearer {signed('two', 'ES256')}") == 404
    assert await status(gateway, Authorization=f"Bearer {signed('three', 'EdDSA')}") == 404
    assert keys.asked == 2
    monkeypatch.setattr("gateway.keys.JWKS_COOLDOWN", 60.0)
    for number in range(20):  # now the set is known to lack them
        assert await status(gateway, Authorization=f"Bearer {signed(f'x{number}', 'RS256')}") == 401
    assert await status(gateway, Authorization=f"Bearer {signed('new', 'RS256')}") == 503
    assert keys.asked == 2
    monkeypatch.setattr("gateway.keys.JWKS_COOLDOWN", 0.0)
    assert await status(gateway, Authorization=f"Bearer {token(SECRET, headers={'kid': 'shared'})}") == 401
    assert await status(gateway, Authorization=f"Bearer {signed('one', 'ES256')}") == 401
    keys.broken = True
    monkeypatch.setattr("gateway.keys.JWKS_MAX_AGE", 0.0)
    assert await status(gateway, Authorization=f"Bearer {signed('one', 'RS256')}") == 404
    keys.broken = False
    del keys.keys["one"]
    assert await status(gateway, Authorization=f"Bearer {signed('one', 'RS256')}") == 401


async def test_a_key_set_that_cannot_be_fetched_is_a_temporary_refusal(
    start: Start, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.broken = True
    gateway = await start(SSE_AUTH="jwt", SSE_JWKS_URL=keys.url)
    bearer = {"Authorization": f"Bearer {token(KEYS['RS256'], 'RS256', headers={'kid': 'one'})}"}
    assert (await gateway.get("/api/projects/p-1/stream", **bearer)).status == 503
    async with gateway.stream("/api/projects/p-1/stream", headers=bearer) as refused:
        assert [message.type for message in await refused.rest()] == ["refused"]
        assert refused.parser.retry is not None
    keys.broken = False
    monkeypatch.setattr("gateway.keys.JWKS_COOLDOWN", 0.0)
    assert await status(gateway, **bearer) == 404


async def test_of_keys_that_share_an_id_or_have_none_the_one_that_fits_counts(
    start: Start, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 7517 section 4.5."""
    other = rsa.generate_private_key(65537, 2048)
    keys.keys = {}
    keys.more = [_jwk("RS256") | {"kid": "a"}, _jwk("ES256") | {"kid": "a"}, _jwk("RS256", other) | {"kid": "a"}]
    keys.more += [_jwk("EdDSA")]
    gateway = await start(SSE_AUTH="jwt", SSE_JWKS_URL=keys.url)

    async def answered(key: Any, algorithm: str, **headers: str) -> int:
        return await status(gateway, Authorization=f"Bearer {token(key, algorithm, headers=headers)}")

    for key, algorithm in ((KEYS["RS256"], "RS256"), (KEYS["ES256"], "ES256"), (other, "RS256")):
        assert await answered(key, algorithm, kid="a") == 404
        assert await answered(key, algorithm) == 404  # it may leave its key out
    assert await answered(KEYS["EdDSA"], "EdDSA") == 404
    assert await answered(KEYS["EdDSA"], "EdDSA", kid="b") == 404  # the set may leave it out
    stranger = rsa.generate_private_key(65537, 2048)
    assert await answered(stranger, "RS256", kid="a") == 401
    assert await answered(stranger, "RS256") == 503  # a new key without an id? the next set tells
    monkeypatch.setattr("gateway.keys.JWKS_COOLDOWN", 0.0)
    assert await answered(stranger, "RS256") == 401
    keys.more.append(_jwk("RS256", stranger))
    assert await answered(stranger, "RS256") == 404


async def test_remembered_tokens_are_bounded_in_bytes(guarded: Gateway) -> None:
    verifier = guarded.server._verifier
    for number in range(300):
        many = token(SECRET, operations=[f"{number}-{each}" * 4 for each in range(300)])
        await verifier.verify(many)
    assert 0 < verifier._cached <= auth.CACHE
    assert len(verifier._cache) < 300
    for each in list(verifier._cache):
        verifier._forget(each)
    assert verifier._cached == 0


async def test_scopes_are_held_against_the_grant(guarded: Gateway, worker: Worker) -> None:
    await worker.publish("started", "mine", "p-1")
    await worker.publish("started", "theirs", "p-2")
    await guarded.read(await worker.publish("started", "lent", "p-2"))
    bearer = {"Authorization": f"Bearer {token(operations=['lent', 'later'])}"}
    for path in (
        "/api/projects/p-2/stream",
        "/api/projects/p-2/operations",
        "/api/operations/theirs/stream?projectId=p-2",
        "/api/operations/theirs?projectId=p-2",
        "/api/projects/stream?projectId=p-1&projectId=p-2",
    ):
        assert (await guarded.get(path, **bearer)).status == 403, path
    only_lent = {"Authorization": f"Bearer {token(projects=[], operations=['lent', ['p-3', 'paired']])}"}
    for path in ("/api/operations/theirs/stream", "/api/operations/theirs", "/api/projects/stream?operationId=theirs"):
        assert (await guarded.get(path, **only_lent)).status == 403, path
    union = "/api/projects/stream?operationId=theirs&operationId=lent&projectId=p-1&projectId=p-4"
    refused = await guarded.get(union, **only_lent)  # so that its client can ask for the rest
    assert (await refused.json())["outside"] == {"projectId": ["p-1", "p-4"], "operationId": ["theirs"]}
    for path, wanted in {
        "/api/projects/p-1/stream": {"mine"},
        "/api/operations/mine/stream": {"mine"},
        "/api/operations/lent/stream": {"lent"},
        "/api/projects/stream?operationId=lent&projectId=p-1": {"lent", "mine"},
        "/api/projects/stream": {"lent", "mine"},
        # Granted, for p-1 may have one of this id; of p-2's nothing is told, not even that it is there.
        "/api/operations/theirs/stream": set(),
        "/api/projects/stream?operationId=theirs": set(),
        "/api/operations/nobody/stream": set(),
    }.items():
        async with guarded.stream(path, headers=bearer) as stream:
            newest = guarded.server.hub.history.newest
            seen = await stream.until_id(f"{newest >> 64}-{newest & (1 << 64) - 1}")
            assert {message.json["operationId"] for message in seen} == wanted
    theirs, nobody = [await guarded.get(f"/api/operations/{id}", **bearer) for id in ("theirs", "nobody")]
    assert (theirs.status, await theirs.text()) == (nobody.status, await nobody.text()) == (404, await nobody.text())
    nothing = {"Authorization": f"Bearer {token(projects=[], operations=[])}"}
    assert (await guarded.get("/api/projects/stream", **nothing)).status == 403
    async with guarded.stream(
        "/api/projects/stream", headers={"Authorization": f"Bearer {token(projects=['*'])}"}
    ) as stream:
        assert len(await stream.take(3)) == 3


async def test_an_unknown_operation_may_be_awaited_but_not_seen_when_it_is_anothers(
    guarded: Gateway, worker: Worker
) -> None:
    bearer = {"Authorization": f"Bearer {token()}"}
    async with (
        guarded.stream("/api/operations/new/stream", headers=bearer) as awaited,
        guarded.stream("/api/operations/other/stream", headers=bearer) as foreign,
    ):
        await worker.publish("started", "other", "p-2")
        await worker.publish("started", "new", "p-1")
        assert (await awaited.next()).json["operationId"] == "new"
        assert await foreign.quiet(0.1)
    only_operations = {"Authorization": f"Bearer {token(projects=None, operations=['a'])}"}
    assert (await guarded.get("/api/operations/b/stream", **only_operations)).status == 403


async def test_a_stream_ends_when_its_token_expires(guarded: Gateway) -> None:
    bearer = {"Authorization": f"Bearer {token(exp=time.time() + 1)}"}
    async with guarded.stream("/api/projects/p-1/stream", headers=bearer) as stream:
        assert await stream.rest() == []
    assert await guarded.metric("connections_closed_total", reason="expired") == 1


async def test_clocks_may_be_apart_by_the_leeway(start: Start) -> None:
    gateway = await start(SSE_AUTH="jwt", SSE_JWT_SECRET=SECRET, SSE_JWT_LEEWAY="1500ms")
    now = time.time()
    for good in ({"nbf": now + 1}, {"iat": now + 1}):
        assert await status(gateway, Authorization=f"Bearer {token(**good)}") == 404
    for bad in ({"nbf": now + 9}, {"iat": now + 9}, {"exp": now - 3}):
        assert await status(gateway, Authorization=f"Bearer {token(**bad)}") == 401
    late = {"Authorization": f"Bearer {token(exp=time.time() - 0.5)}"}
    async with gateway.stream("/api/projects/p-1/stream", headers=late) as stream:
        assert await stream.rest() == []  # at the leeway's end
    assert (await gateway.get("/api/projects/p-1/stream", **late)).status == 401


async def test_the_first_token_that_holds_counts(guarded: Gateway) -> None:
    good, stale = token(), token(exp=time.time() - 99)
    path = "/api/operations/nobody"
    for headers, query, wanted in (
        ({"Cookie": f"sse_token={stale}"}, good, 404),
        ({"Authorization": f"Bearer {stale}", "Cookie": f"a=b; sse_token={good}"}, "", 404),
        ({"Cookie": f"sse_token={good}; sse_token={stale}"}, "", 404),
        ({"Cookie": f"sse_token={stale}; sse_token={good}"}, "", 401),  # of two the first, and it is stale
        ({"Cookie": f"sse_token={stale}"}, stale, 401),
    ):
        response = await guarded.get(path + (f"?access_token={query}" if query else ""), **headers)
        assert response.status == wanted, (headers, query)


async def test_a_client_is_its_token_subject_before_its_address(start: Start) -> None:
    gateway = await start(SSE_AUTH="jwt", SSE_JWT_SECRET=SECRET, SSE_MAX_CONNECTIONS_PER_CLIENT="1")
    ann, bob = ({"Authorization": f"Bearer {token(sub=name)}"} for name in ("ann", "bob"))
    async with (
        gateway.stream("/api/projects/p-1/stream", headers=ann),
        gateway.stream("/api/projects/p-1/stream", headers=bob),
    ):
        assert (await gateway.get("/api/projects/p-1/stream", **ann)).status == 429


async def test_tokens_never_reach_a_log(guarded: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    good = token()
    for sent in (good, good[:-3]):
        await guarded.get(f"/api/operations/x?access_token={sent}&follow=%ff", Authorization=f"Bearer {sent}")
    reader, writer = await asyncio.open_connection("127.0.0.1", guarded.port)
    writer.write(f"GET /?access_token={good} BROKEN\r\n\r\n".encode())
    await reader.read()
    writer.close()
    for formatter in (JsonFormatter(), TextFormatter()):
        for record in caplog.records:
            assert good[10:30] not in formatter.format(record)


@pytest.mark.parametrize(
    ("grant", "scope", "covered"),
    [
        (Grant(None, frozenset()), Scope("multi"), True),
        (Grant(frozenset({"p"}), frozenset()), Scope("multi"), False),
        (Grant(frozenset({"p"}), frozenset()), Scope("project", projects=frozenset({"p"})), True),
        (Grant(frozenset({"p"}), frozenset()), Scope("operation", operations=frozenset({"o"})), False),
        (Grant(frozenset(), frozenset({"o"})), Scope("operation", operations=frozenset({"o"})), True),
        (Grant(frozenset({"p"}), frozenset({"o"})), Scope("multi", frozenset({"o"}), frozenset({"p", "q"})), False),
    ],
)
def test_a_grant_covers_a_scope_or_each_event_is_looked_at(grant: Grant, scope: Scope, covered: bool) -> None:
    assert grant.covers(scope) is covered
