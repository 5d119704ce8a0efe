"""`make fuzz SECONDS=60`: coverage-guided, the decoder and the parsers of what others send; a crash is a bug.

Properties by hypothesis are in the tests; this looks for what nobody thought of. The target alone fetches atheris.
"""

import asyncio
import sys
from contextlib import suppress

import atheris
import orjson

with atheris.instrument_imports(include=["gateway"]):
    from gateway import frame, members, shaping, trace
    from gateway.auth import InvalidToken, Verifier, find_tokens
    from gateway.config import Config, ConfigError
    from gateway.event import Rejected, decode, format_id, parse_id, valid_id
    from gateway.limits import client_address
    from gateway.source import Source

SECRET = "0123456789abcdef0123456789abcdef"
VERIFIER = Verifier(Config.load({"SSE_JWT_SECRET": SECRET}))
TRACK = shaping.Track()
LOOP = asyncio.new_event_loop()


def entry(data: atheris.FuzzedDataProvider) -> None:
    """Whatever an entry holds, it is rejected, or is one frame of its own."""
    given = data.ConsumeBytes(1 << 12)
    if data.ConsumeBool():
        given = b'{"operationId":"o","projectId":"p","percent":' + given + b"}"
    try:
        event = decode(parse_id("1-1") or 0, [b"type", b"github_sync_progress", b"data", given])
        _, percent = shaping.shape(TRACK, event)
        sealed = frame.seal(event, percent).frame
    except Rejected:
        return
    block = frame.unchunk(sealed)
    assert block.count(b"\n\n") == 1, block
    assert block.endswith(b"\n\n"), block
    assert b"\r" not in block, block
    said = members.members(frame.data(sealed))
    assert orjson.loads(said["operationId"]) == event.operation
    assert orjson.loads(said["timestamp"]) is not None


def identifier(data: atheris.FuzzedDataProvider) -> None:
    text = data.ConsumeUnicode(64)
    id = parse_id(text)
    assert id is None or format_id(id) == text
    valid_id(text)
    trace.identify({"X-Request-ID": text, "traceparent": text})
    client_address(
        "10.0.0.1",
        {"X-Forwarded-For": [text]},
        Config.load({"SSE_AUTH": "none", "SSE_TRUSTED_PROXIES": "10.0.0.0/8"}).trusted_proxies,
    )


def settings(data: atheris.FuzzedDataProvider) -> None:
    """A setting is taken or refused with a word, never with another exception; so is what Redis's URL makes of it."""
    names = (
        "SSE_HEARTBEAT",
        "SSE_REPLAY_MAX_BYTES",
        "SSE_LISTEN",
        "SSE_CORS_ORIGINS",
        "SSE_TRUSTED_PROXIES",
        "SSE_DRAIN",
    )
    text = data.ConsumeUnicode(64)
    with suppress(ConfigError):
        Config.load({"SSE_AUTH": "none"} | dict.fromkeys(names, text))
    scheme = data.PickValueInList(["redis", "rediss", "unix", "redis+sentinel", "redis+cluster"])
    with suppress(ConfigError):
        Source(Config.load({"SSE_AUTH": "none", "SSE_REDIS_URL": f"{scheme}://{text}"}).redis_url, "stream")


def token(data: atheris.FuzzedDataProvider) -> None:
    """No bytes are a token."""
    text = data.ConsumeUnicode(256)
    for found in find_tokens({"Authorization": text, "Cookie": text}, {"access_token": text}, "sse_token"):
        try:
            LOOP.run_until_complete(VERIFIER.verify(found))
        except InvalidToken:
            continue
        raise AssertionError(found)


def one(given: bytes) -> None:
    data = atheris.FuzzedDataProvider(given)
    data.PickValueInList([entry, identifier, settings, token])(data)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
