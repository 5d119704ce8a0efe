"""`make fuzz SECONDS=60`: coverage-guided, the decoder, the parsers and the HTTP face; a crash is a bug.

Properties by hypothesis are in the tests; this looks for what nobody thought of. The target alone fetches atheris.
"""

import asyncio
import logging
import socket
import sys
from contextlib import suppress

import atheris
import orjson
from aiohttp import web

with atheris.instrument_imports(include=["gateway"]):
    from gateway import frame, members, shaping, trace
    from gateway.api import Api
    from gateway.archive import Archive
    from gateway.auth import InvalidToken, Verifier, find_tokens
    from gateway.config import Config, ConfigError
    from gateway.door import Door
    from gateway.event import Rejected, decode, format_id, parse_id, valid_id
    from gateway.history import History
    from gateway.hub import Hub
    from gateway.limits import Limits, client_address
    from gateway.metrics import Metrics
    from gateway.source import Source
    from gateway.terms import Terms

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


class Face:
    """The public face over a history of a few events, and no Redis."""

    def __init__(self) -> None:
        config, self.metrics, self.errors = Config.load({"SSE_AUTH": "none"}), Metrics(), list[dict[str, object]]()
        history = History(100, 1 << 20, 1e9, throttle=False)
        for at in range(1, 9):
            text = b'{"operationId":"o","projectId":"p","percent":%d}' % at
            history.take(decode(parse_id(f"{at}-0") or 0, [b"type", b"github_sync_progress", b"data", text]), 0.0)
            history.newest = parse_id(f"{at}-0")
        hub = Hub(history, self.metrics)
        archive = Archive(Source(config.redis_url, config.stream), config.stream, hub)
        api = Api(config, Terms(hub, archive, 15, 60), Limits(100, 0), self.metrics, None, lambda: True)
        runner = web.AppRunner(api.application(), access_log=None, handler_cancellation=True)
        LOOP.run_until_complete(runner.setup())
        assert runner.server is not None
        self.door = Door(runner.server, api.answers, lambda: 100, api.opens)
        LOOP.set_exception_handler(lambda _, context: self.errors.append(context))

    async def answer(self, *pieces: bytes) -> bytes:
        """The first that comes to a request in pieces, from a client that is gone then."""
        mine, theirs = socket.socketpair()
        await LOOP.connect_accepted_socket(self.door, theirs)
        reader, writer = await asyncio.open_connection(sock=mine)
        for piece in pieces:
            writer.write(piece)
            for _ in range(3):
                await asyncio.sleep(0)
        try:
            async with asyncio.timeout(1 if b"\r\n\r\n" in b"".join(pieces) else 0.005):
                return await reader.read(1 << 16)
        except TimeoutError:
            return b""  # the request isn't whole
        finally:
            writer.close()
            for _ in range(9):
                await asyncio.sleep(0)


PATHS = [b"operations/o/stream", b"projects/p/stream", b"projects/stream?projectId=p", b"operations/o", b""]
NAMES = b"Accept Connection Content-Length Expect Last-Event-ID Origin Transfer-Encoding Upgrade X-Request-ID"
HEADERS = [b"", *(name + b": " for name in NAMES.split())]


def request(data: atheris.FuzzedDataProvider) -> None:
    """Whatever comes first on a connection is answered alike in one piece and in two, never by a 500, and leaves no
    place taken.
    """
    parts = [b"GET /api/", data.PickValueInList(PATHS), b" HTTP/1.1\r\n", b"Host: x\r\n", b"\r\n"]
    given = data.PickValueInList(HEADERS) + data.ConsumeBytes(data.ConsumeIntInRange(0, 64))
    parts.insert(data.ConsumeIntInRange(1, 5), given)
    whole = b"".join([*parts[:-1], data.PickValueInList([b"", b"\r\n"]), parts[-1]])
    cut = data.ConsumeIntInRange(0, len(whole))
    said = [LOOP.run_until_complete(FACE.answer(*each)) for each in ([whole], [whole[:cut], whole[cut:]])]
    heads = [each[:12] for each in said]
    if whole.find(b"\r\n\r\n") == len(whole) - 4:  # of what is behind a request, one piece may hold more than another
        assert heads[0] == heads[1], (whole, cut, heads)
    assert b" 5" not in heads[0], (whole, said)
    assert not FACE.errors, FACE.errors
    assert not any(FACE.metrics.connections.values()), whole


FACE = Face()


def one(given: bytes) -> None:
    data = atheris.FuzzedDataProvider(given)
    data.PickValueInList([entry, identifier, settings, token, request])(data)


if __name__ == "__main__":
    logging.disable()
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
