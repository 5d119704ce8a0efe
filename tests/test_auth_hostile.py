"""Forged tokens, hostile key sets, spoofed addresses and origins; and that a listener sees its grant, never more."""

import asyncio
import base64
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth import Grant, InvalidToken, Verifier, find_tokens
from gateway.config import Config
from gateway.cursor import Cursor, Mode
from gateway.event import ZERO, Event
from gateway.history import History
from gateway.scope import Scope
from tests import strategies
from tests.conftest import Gateway, Start, Worker
from tests.test_auth import KEYS, SECRET, status, token


def forged(header: dict[str, Any], claims: dict[str, Any] | None = None, signature: bytes = b"") -> str:
    body = claims or {"exp": time.time() + 60, "projects": ["*"]}
    parts = [json.dumps(header).encode(), json.dumps(body).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@asynccontextmanager
async def serving(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """A web server whose every path is answered by `answer`; its URL."""
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
    finally:
        await runner.cleanup()


def key_set(*kids: str) -> dict[str, Any]:
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEYS["RS256"].public_key()))
    return {"keys": [public | {"kid": kid, "use": "sig"} for kid in kids]}


def signed(kid: str = "one") -> dict[str, str]:
    return {"Authorization": f"Bearer {token(KEYS['RS256'], 'RS256', headers={'kid': kid})}"}


async def test_what_a_tokens_header_says_never_chooses_the_key(start: Start) -> None:
    asked: list[str] = []

    async def attacker(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response(key_set("evil"))

    async def ours(request: web.Request) -> web.Response:
        return web.json_response(key_set("one"))

    async with serving(attacker) as evil, serving(ours) as url:
        gateway = await start(SSE_AUTH="jwt", SSE_JWKS_URL=url)
        own = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEYS["ES256"].public_key()))
        headers: list[dict[str, Any]] = [
            *({"alg": name} for name in ("none", "None", "NONE", "nOnE", "", "HS256", "RS256", "rs256")),
            *({"alg": "none", "kid": kid} for kid in ("one", "../../../dev/null", "' or 1=1", "x" * 4000)),
            *({"alg": "RS256", "kid": kid} for kid in (None, 1, ["one"], {"a": 1}, True)),
            {"alg": "RS256", "kid": "evil", "jku": evil, "x5u": evil},
            {"alg": "ES256", "kid": "one", "jwk": own},
            {"alg": "RS256", "kid": "one", "crit": ["exp"]},
            {"alg": ["RS256"], "kid": "one"},
            {"alg": "RS256", "kid": "one", "b64": False},
        ]
        for header in headers:
            forgery = forged(header, signature=b"x" * 256)
            assert await status(gateway, Authorization=f"Bearer {forgery}") in (401, 503), header
        assert asked == []
        assert await status(gateway, **signed()) == 404


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
def test_no_text_is_a_token_by_chance_or_breaks_the_verifier(text: str) -> None:
    verifier = Verifier(Config.load({"SSE_JWT_SECRET": SECRET}))
    for candidate in (text, token()[:-5] + text, forged({"alg": "HS256"}) + text, f"{text}.{text}.{text}"):
        with pytest.raises(InvalidToken) as caught:
            asyncio.run(verifier.verify(candidate))
        assert not text.strip() or len(text) < 12 or text not in str(caught.value)


@given(st.dictionaries(st.sampled_from(["exp", "nbf", "iat", "sub", "projects", "operations", "aud"]), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
)))  # fmt: skip
def test_any_signed_claims_are_a_grant_or_refused(claims: dict[str, Any]) -> None:
    verifier = Verifier(Config.load({"SSE_JWT_SECRET": SECRET}))
    header, body, _ = forged({"alg": "HS256", "typ": "JWT"}, claims or {"a": 1}).split(".")
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signature = base64.urlsafe_b64encode(algorithm.sign(f"{header}.{body}".encode(), SECRET.encode()))
    try:
        grant = asyncio.run(verifier.verify(f"{header}.{body}.{signature.rstrip(b'=').decode()}"))
    except InvalidToken:
        return
    assert grant.expires is not None
    assert grant.expires > time.time() - 1
    assert grant.projects is not None or "*" in claims["projects"]
    assert grant.operations is not None or "*" in claims["operations"]


@given(st.dictionaries(st.sampled_from(["Authorization", "X"]), st.text(max_size=30)), st.text(max_size=10))
def test_find_token_takes_any_header(headers: dict[str, str], cookie: str) -> None:
    found = find_tokens(headers | {"Cookie": f"c={cookie}"}, {"access_token": cookie}, "c")
    assert all(token.strip() for token in found)


async def test_thousands_of_bad_tokens_cost_no_memory_and_no_fetch(start: Start) -> None:
    asked = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.json_response(key_set("one"))

    async with serving(answer) as url:
        gateway = await start(SSE_AUTH="jwt", SSE_JWKS_URL=url)
        assert await status(gateway, **signed()) == 404
        for number in range(1000):
            bad = forged({"alg": "RS256", "kid": f"k{number}" if number % 2 else "one"}, signature=b"%256d" % number)
            assert await status(gateway, Authorization=f"Bearer {bad}") == (503 if number % 2 else 401)
        assert asked == 1
        verifier = gateway.server._verifier
        assert len(verifier._cache) == 1
        assert await status(gateway, Authorization="Bearer " + "x" * 9000) == 400  # aiohttp's limit of a header


HOSTILE: dict[str, Any] = {
    "not JSON": b"<html>",
    "not UTF-8": b"\xff\xfe",
    "no object": b"[1, 2]",
    "no keys": b"{}",
    "keys that are no list": b'{"keys": 7}',
    "keys of nothing": b'{"keys": [null, 1, "a", [], {}]}',
    "a broken key": b'{"keys": [{"kty": "RSA", "kid": "one", "n": "!", "e": "AQAB"}]}',
    "deeply nested": b'{"keys": ' + b"[" * 100_000,
    "a megabyte": b" " * 1_000_000 + json.dumps(key_set("one")).encode(),
    "nothing": b"",
}


@pytest.mark.parametrize("name", [*HOSTILE, "a redirect", "one that never answers", "one that never ends"])
async def test_a_hostile_key_set_changes_nothing(start: Start, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("gateway.keys.JWKS_COOLDOWN", 0.0)
    monkeypatch.setattr("gateway.keys.JWKS_TIMEOUT", 0.5)
    hostile = False

    async def answer(request: web.Request) -> web.StreamResponse:
        if not hostile or request.path == "/elsewhere":
            return web.json_response(key_set("one"))
        if name in HOSTILE:
            return web.Response(body=HOSTILE[name])
        if name == "a redirect":
            raise web.HTTPFound("/elsewhere")
        if name == "one that never answers":
            await asyncio.sleep(5)
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.05)

    async with serving(answer) as url:
        gateway = await start(SSE_AUTH="jwt", SSE_JWKS_URL=url)
        assert await status(gateway, **signed()) == 404
        hostile = True
        monkeypatch.setattr("gateway.keys.JWKS_MAX_AGE", 0.0)
        began = time.monotonic()
        assert await status(gateway, **signed()) == 404, "the keys there are stay in use"
        assert await status(gateway, **signed("unknown")) == 503, "whether it holds can't be told"
        assert time.monotonic() - began < 4


async def test_a_key_set_may_come_in_pieces(start: Start) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        body = json.dumps(key_set("one")).encode()
        for start_at in range(0, len(body), 50):
            await response.write(body[start_at : start_at + 50])
            await asyncio.sleep(0.01)
        return response

    async with serving(answer) as url:
        gateway = await start(SSE_AUTH="jwt", SSE_JWKS_URL=url)
        assert await status(gateway, **signed()) == 404


async def test_keys_rotate_without_a_gap(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.keys.JWKS_COOLDOWN", 0.05)
    monkeypatch.setattr("gateway.keys.JWKS_MAX_AGE", 0.1)
    kids = ["a"]

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(key_set(*kids))

    async with serving(answer) as url:
        gateway = await start(SSE_AUTH="jwt", SSE_JWKS_URL=url)
        for new in ("b", "c", "d"):
            kids.append(new)  # published before it signs, as RFC 7517 key rotation goes
            await asyncio.sleep(0.1)
            for _ in range(20):
                for kid in (kids[-2], new):
                    assert await status(gateway, **signed(kid)) == 404
            old = kids.pop(0)
            await asyncio.sleep(0.2)
            assert await status(gateway, **signed(new)) == 404
            while (answered := await status(gateway, **signed(old))) != 401:  # once the set is known to lack it
                assert answered == 503


async def test_what_a_withdrawn_key_signed_is_refused_as_soon_as_the_set_is_known_to_lack_it(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often others have it fetched: that must not keep what was verified before."""
    monkeypatch.setattr("gateway.keys.JWKS_COOLDOWN", 0.05)
    kids = ["a", "b"]

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(key_set(*kids))

    async with serving(answer) as url:
        gateway = await start(SSE_AUTH="jwt", SSE_JWKS_URL=url)
        assert await status(gateway, **signed("a")) == 404
        kids.remove("a")
        await asyncio.sleep(0.1)
        while (answered := await status(gateway, **signed("unknown"))) != 401:
            assert answered == 503
        while (answered := await status(gateway, **signed("a"))) != 401:
            assert answered == 503


async def test_a_stream_that_waited_for_keys_while_the_drain_began_is_turned_away(start: Start) -> None:
    asked, may = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        asked.set()
        await may.wait()
        return web.json_response(key_set("a"))

    async with serving(answer) as url:
        gateway = await start(SSE_AUTH="jwt", SSE_JWKS_URL=url)
        waiting = asyncio.create_task(gateway.get("/api/projects/p-1/stream", **signed("a")))
        await asked.wait()
        gateway.server._api.draining = True
        may.set()
        response = await waiting
        assert response.status == 503
        gateway.server._api.draining = False


IDS = st.frozensets(st.sampled_from(["o0", "o1", "o2", "o3", "o4"]), max_size=3)
PROJECTS = st.frozensets(st.sampled_from(["p0", "p1"]), max_size=2)
PAIRS = st.frozensets(st.tuples(st.sampled_from(["p0", "p1"]), st.sampled_from(["o0", "o1", "o2"])), max_size=2)
GRANTS = st.builds(Grant, st.none() | PROJECTS, st.none() | IDS, PAIRS)
SCOPES = st.builds(lambda *parts: Scope("multi", *parts), IDS, PROJECTS, PAIRS)


def taken(cursor: Cursor) -> list[Event]:
    events: list[Event] = []
    while cursor.behind():
        events += cursor.take().events
    return events


@given(strategies.entries(), GRANTS, SCOPES, st.integers(0, 40))
def test_a_listener_never_gets_an_event_outside_its_grant(
    entries: list[strategies.Entry], grant: Grant, scope: Scope, at: int
) -> None:
    history = History(1000, 1 << 20, 3600)
    stream = strategies.take(history, entries)
    sees = None if grant.covers(scope) else grant.sees

    def named(event: Event, operations: frozenset, projects: frozenset, pairs: frozenset) -> bool:
        return event.operation in operations or event.project in projects or event.key in pairs

    def granted(events: list[Event]) -> list[Event]:  # in other words than the gateway's
        return [
            event
            for event in events
            if (not scope.size or named(event, scope.operations, scope.projects, scope.pairs))
            and (
                None in (grant.projects, grant.operations)
                or named(event, grant.operations, grant.projects, grant.pairs)
            )
        ]

    begin = entries[at][0] if at < len(entries) else ZERO
    for mode in (Mode.REPLAY, Mode.LAGGING):
        cursor = Cursor(history, scope, sees)
        cursor.replay(begin)
        cursor.mode = mode
        got = taken(cursor)
        wanted = granted([event for event in stream if event.id > begin])
        assert got == wanted if mode is Mode.REPLAY else set(map(id, got)) <= set(map(id, wanted))
    cursor = Cursor(history, scope, sees)
    cursor.snapshot(ended=3)
    assert taken(cursor) == granted(taken(cursor_of(history, scope, cursor)))


def cursor_of(history: History, scope: Scope, like: Cursor) -> Cursor:
    """The same snapshot for who may see all."""
    cursor = Cursor(history, scope)
    cursor.snapshot()
    cursor._since = like._since
    return cursor


async def test_by_chance_no_endpoint_shows_more_than_the_grant(guarded: Gateway, worker: Worker) -> None:
    pick = random.Random(7)
    owner = {f"o{number}": f"p{number % 4}" for number in range(12)}
    for operation, project in owner.items():
        newest = await worker.publish("started", operation, project)
    await guarded.read(newest)
    for _ in range(150):
        projects = pick.sample(["p0", "p1", "p2", "p3"], pick.randint(0, 2))
        operations = pick.sample(sorted(owner), pick.randint(0, 3))
        bearer = {"Authorization": f"Bearer {token(projects=projects, operations=operations)}"}
        allowed = {id for id, project in owner.items() if project in projects or id in operations}
        one, home = pick.choice(sorted(owner)), pick.choice(["p0", "p1", "p2", "p3"])
        names = [*(f"operationId={id}" for id in pick.sample(sorted(owner), pick.randint(0, 3)))]
        names += [f"projectId={id}" for id in pick.sample(["p0", "p1", "p2", "p3"], pick.randint(0, 2))]
        for path in (
            f"/api/operations/{one}/stream",
            f"/api/projects/{home}/stream",
            "/api/projects/stream?" + "&".join(names),
        ):
            for begin in ({}, {"Last-Event-ID": "0-0"}):
                async with guarded.session.get(guarded.url + path, headers=bearer | begin) as response:
                    assert response.status in (200, 403)
                    if response.status == 200:
                        text = ""
                        while f"id: {newest}\n\n" not in text and f"id: {newest}\nevent" not in text:
                            text += (await response.content.readany()).decode()
                            if begin and "id:" in text:
                                break
                        told = [json.loads(line[6:]) for line in text.split("\n") if line[:6] == "data: "]
                        assert {each["operationId"] for each in told if "operationId" in each} <= allowed
        # Of another project's operation nothing is told, not even that it is there: a project may have one of this id.
        status = 200 if one in allowed else 404 if projects else 403
        assert (await guarded.get(f"/api/operations/{one}", **bearer)).status == status


@pytest.fixture
async def guarded(start: Start) -> Gateway:
    return await start(SSE_AUTH="jwt", SSE_JWT_SECRET=SECRET)


async def test_a_spoofed_forwarded_header_buys_no_place(start: Start) -> None:
    path = "/api/projects/p-1/stream"
    direct = await start(SSE_MAX_CONNECTIONS_PER_CLIENT="1")
    behind = await start(SSE_MAX_CONNECTIONS_PER_CLIENT="1", SSE_TRUSTED_PROXIES="127.0.0.0/8")
    async with direct.stream(path):
        for spoofed in ("9.9.9.9", "9.9.9.9, 8.8.8.8", "127.0.0.1", "::1", "junk"):
            assert (await direct.get(path, X_Forwarded_For=spoofed)).status == 429
    async with behind.stream(path, headers={"X-Forwarded-For": "1.1.1.1"}):
        for spoofed in ("9.9.9.9, 1.1.1.1", "127.0.0.1, 1.1.1.1, 127.0.0.2", "junk, 1.1.1.1"):
            assert (await behind.get(path, X_Forwarded_For=spoofed)).status == 429
        async with behind.stream(path, headers={"X-Forwarded-For": "1.1.1.1, 2.2.2.2"}):
            pass


@pytest.mark.parametrize(
    ("allowed", "origin", "answered"),
    [
        ("", "https://a.example", None),
        ("https://a.example", "https://a.example", "https://a.example"),
        ("https://a.example", "https://A.example", None),
        ("https://a.example", "http://a.example", None),
        ("https://a.example", "https://a.example:8443", None),
        ("https://a.example", "https://a.example.evil.com", None),
        ("https://a.example", "https://evil.com/https://a.example", None),
        ("https://a.example", "https://b.a.example", None),
        ("https://a.example", "null", None),
        ("https://a.example", "", None),
        ("*", "https://a.example", "*"),
        ("*", "null", "*"),
    ],
)
async def test_origins(start: Start, allowed: str, origin: str, answered: str | None) -> None:
    gateway = await start(SSE_CORS_ORIGINS=allowed)
    for path in ("/api/operations/x", "/api/projects/stream?" + "&".join(["projectId=x"] * 200), "/nowhere"):
        response = await gateway.get(path, Origin=origin)
        assert response.headers.get("Access-Control-Allow-Origin") == answered
        credentials = "true" if answered not in (None, "*") else None
        assert response.headers.get("Access-Control-Allow-Credentials") == credentials
        assert response.headers.get("Vary") == ("Origin" if allowed not in ("", "*") else None)


async def test_every_answer_has_the_headers_that_keep_browsers_safe(guarded: Gateway) -> None:
    bearer = {"Authorization": f"Bearer {token()}"}
    for path, headers in (
        ("/nowhere", {}),
        ("/api/projects/stream", {}),
        ("/api/projects/p-2/stream", bearer),
        ("/api/operations/x", bearer),
    ):
        response = await guarded.get(path, **headers)
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Content-Type"] == "application/problem+json"
        assert "aiohttp" not in response.headers["Server"]
    async with guarded.stream("/api/projects/p-1/stream", headers=bearer) as stream:
        assert stream.response.headers["X-Content-Type-Options"] == "nosniff"
        assert "no-store" in stream.response.headers["Cache-Control"]
