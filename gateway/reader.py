"""Redis: the URL forms, and one reader that loads the stream, follows it, backs off and notices a reset.

The only file that imports redis, and it only reads. Owns one dedicated connection, discarded after any error: what a
half-read reply leaves behind is never trusted. Never knows who listens.
"""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import Sentinel
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from gateway import frame, schema
from gateway.event import ZERO, EntryId, Event, Rejected, decode, format_id
from gateway.hub import Hub
from gateway.logs import Limited
from gateway.metrics import Metrics, type_label
from gateway.shaping import Shaper

COUNT: Final = 512
"""Entries asked for at once."""
BLOCK_MS: Final = 1000
"""How long XREAD waits; also how soon a reset of an idle stream is noticed."""
TIMEOUT: Final = 4.0
"""Seconds without a reply after which a link counts as dead; above BLOCK_MS."""
BATCH_BYTES: Final = 256 * 1024
"""Bytes of frames published at once: no subscriber is ever given more in one piece."""
BACKOFF: Final = (0.1, 3.0)
"""Seconds waited after the first failure, and at the most; doubled each time, spread by half."""

UNAVAILABLE: Final = (RedisError, RedisClusterException, OSError)
"""What a Redis that can't be read raises."""

Link = AbstractConnection
Command = tuple[str | int, ...]
Entry = tuple[bytes, Sequence[bytes]]
_OPTIONS: Final[dict[str, Any]] = {
    "protocol": 2,
    "socket_timeout": TIMEOUT,
    "socket_connect_timeout": TIMEOUT,
    "driver_info": None,  # no CLIENT SETINFO: an ACL user that may only read the key can't run it
}
_LINK: Final = _OPTIONS | {"socket_timeout": None}  # `exchange` has its own: redis-py's may lose a cancellation
_log = logging.getLogger(__name__)


def entry_id(raw: bytes) -> EntryId:
    ms, _, seq = raw.partition(b"-")
    return EntryId(int(ms) << 64 | int(seq))


class Source:
    """Where the stream is: opens connections to the node that holds it. Raises RedisError or OSError where it can't."""

    def __init__(self, url: str, stream: str) -> None:
        self._url = url
        self._stream = stream

    async def connect(self) -> Link:
        """A connected connection; for Sentinel and Cluster the node is looked up anew each time."""
        scheme = urlsplit(self._url).scheme
        if scheme == "redis+sentinel":
            connection: Link = await self._by_sentinel()
        elif scheme == "redis+cluster":
            connection = await self._by_cluster()
        else:
            options: dict[str, Any] = dict(parse_url(self._url))
            connection = options.pop("connection_class", Connection)(**(options | _LINK))
        try:
            async with asyncio.timeout(TIMEOUT):
                await connection.connect()  # type: ignore[no-untyped-call]
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError  # lost on the way here: asyncio.wait_for does that before Python 3.12
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _by_sentinel(self) -> Link:
        nodes, options, path = self._parts(26379)
        name, _, db = path.partition("/")
        sentinel_options = {
            key: options.pop(f"sentinel_{key}") for key in ("username", "password") if f"sentinel_{key}" in options
        }
        tls = {key: value for key, value in options.items() if key.startswith("ssl")}
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            nodes, sentinel_kwargs=_OPTIONS | sentinel_options | tls
        )
        try:
            host, port = await sentinel.discover_master(name)
        finally:
            for client in sentinel.sentinels:
                await client.aclose()
        return _plain(host, port, {"db": int(db or 0)} | options)

    async def _by_cluster(self) -> Link:
        nodes, options, _ = self._parts(6379)
        cluster = RedisCluster(startup_nodes=[ClusterNode(host, port) for host, port in nodes], **options)
        try:
            await cluster.initialize()
            node = cluster.get_node_from_key(self._stream)
        finally:
            await cluster.aclose()
        if node is None:
            raise RedisError(f"no cluster node serves {self._stream}")
        return _plain(str(node.host), int(node.port), options)

    def _parts(self, default_port: int) -> tuple[list[tuple[str, int]], dict[str, Any], str]:
        url = urlsplit(self._url)
        user, _, hosts = url.netloc.rpartition("@")
        nodes = []
        for host in hosts.split(","):
            name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
            nodes.append((name.strip("[]"), int(port or default_port)))
        options: dict[str, Any] = dict(parse_qsl(url.query))
        if "ssl" in options:
            options["ssl"] = options["ssl"].lower() in ("1", "true", "yes")
        username, _, password = user.partition(":")
        if username:
            options["username"] = unquote(username)
        if password:
            options["password"] = unquote(password)
        return nodes, options, unquote(url.path.strip("/"))


def _plain(host: str, port: int, options: dict[str, Any]) -> Link:
    tls = options.pop("ssl", False)
    return (SSLConnection if tls else Connection)(host=host, port=port, **(options | _LINK))


async def exchange(connection: Link, *commands: Command) -> list[Any]:
    """Sends commands in one write and reads every reply. The first error reply is raised; the caller discards then."""
    try:
        async with asyncio.timeout(TIMEOUT):
            await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            return [await connection.read_response() for _ in commands]
    except TimeoutError:
        raise TimeoutError(f"no reply within {TIMEOUT:g} s") from None


async def _info(connection: Link, stream: str, *before: Command) -> tuple[list[Any], dict[bytes, Any] | None]:
    """The replies to `before` and to XINFO STREAM, asked in one write; [] and None where the key doesn't exist."""
    try:
        *replies, raw = await exchange(connection, *before, ("XINFO", "STREAM", stream))
    except ResponseError as error:
        if "no such key" in str(error):
            return [[] for _ in before], None
        raise
    return replies, dict(zip(raw[::2], raw[1::2], strict=True))


class Reader:
    """Follows the stream into the hub, for ever. `ready` once everything that Redis held at the start is loaded."""

    def __init__(self, source: Source, stream: str, hub: Hub, shaper: Shaper | None, metrics: Metrics) -> None:
        self.ready = asyncio.Event()
        self._source = source
        self._stream = stream
        self._hub = hub
        self._shaper = shaper
        self._metrics = metrics
        self._limited = Limited(_log)
        self._stale = True  # nothing is loaded yet, or what is loaded is of a stream that is no more
        self._cursor = ZERO  # the last entry read
        self._added: int | None = None  # Redis's own count of entries ever added, as of the cursor (Redis 7)
        self._at_end = time.monotonic()
        metrics.stream_lag = self._lag

    async def run(self) -> None:
        """Reads until cancelled. Any failure of Redis is logged, counted and waited out."""
        delay, first = BACKOFF[0], True
        while True:
            try:
                connection = await self._source.connect()
                try:
                    self._metrics.reconnects += not first
                    first = False
                    while True:
                        await (self._load if self._stale else self._follow)(connection)
                        delay = BACKOFF[0]
                finally:
                    self._metrics.redis_up = False
                    await connection.disconnect(nowait=True)
            except UNAVAILABLE as error:
                message = f"Redis can't be read, trying again: {type(error).__name__}: {error}"
                self._limited.warning("redis", message, stream=self._stream)
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))
            delay = min(delay * 2, BACKOFF[1])

    def _lag(self) -> float:
        silence = time.monotonic() - self._at_end
        return silence if silence > BLOCK_MS / 1000 + 0.5 else 0.0

    async def _load(self, connection: Link) -> None:
        """Reads the whole stream from its start."""
        self._cursor, self._added = ZERO, None
        [oldest] = await exchange(connection, ("XRANGE", self._stream, "-", "+", "COUNT", 1))
        if self._shaper is not None:
            self._shaper.reset()
        self._hub.history.begin(entry_id(oldest[0][0]) if oldest else ZERO)
        start = "-"
        while True:
            read = ("XRANGE", self._stream, start, "+", "COUNT", COUNT)
            [entries], info = await _info(connection, self._stream, read)
            self._take(entries, self._hub.load)
            if len(entries) < COUNT:
                break
            start = f"({format_id(self._cursor)}"
        if info is None:
            self._added = 0
        elif not info[b"length"] or entry_id(info[b"last-generated-id"]) == self._cursor:
            self._added = info.get(b"entries-added")
        self._metrics.redis_up = True
        self._at_end = time.monotonic()
        _log.info("history loaded", extra={"stream": self._stream, "events": len(self._hub.history)})
        self._stale = False
        if self.ready.is_set():
            self._hub.restart()
        self.ready.set()

    async def _follow(self, connection: Link) -> None:
        """One blocking read, and a look whether the entry before it is still there: that is how a reset shows."""
        cursor = format_id(self._cursor)
        reply, witness = await exchange(
            connection,
            ("XREAD", "COUNT", COUNT, "BLOCK", BLOCK_MS, "STREAMS", self._stream, cursor),
            ("XRANGE", self._stream, cursor, cursor),
        )
        self._metrics.redis_up = True
        if self._cursor and not witness and await self._was_reset(connection):
            self._stale = True
            message = "the stream was emptied or went backwards: reading it anew, and telling every listener"
            _log.warning(message, extra={"stream": self._stream, "last": cursor})
            return
        entries = reply[0][1] if reply else []
        self._take(entries, self._hub.publish)
        if len(entries) < COUNT:
            self._at_end = time.monotonic()

    async def _was_reset(self, connection: Link) -> bool:
        """Whether the missing of the cursor's entry means more than that trimming has passed it."""
        _, info = await _info(connection, self._stream)
        if info is None:
            return True
        last, length = entry_id(info[b"last-generated-id"]), info[b"length"]
        if last == self._cursor:
            return False  # trimmed or deleted, and nothing came after it
        if last < self._cursor or (length and entry_id(info[b"first-entry"][0]) < self._cursor):
            return True
        # All that is held is newer. Was everything that was ever added after the cursor kept? Redis 7 counts.
        added = info.get(b"entries-added")
        return added is None or self._added is None or added - self._added != length

    def _take(self, entries: Sequence[Entry], into: Any) -> None:
        """Decodes, shapes and frames a reply's entries, and hands them on in batches of bounded size."""
        batch: list[Event] = []
        first, size = ZERO, 0
        for raw_id, fields in entries:
            self._cursor = id = entry_id(raw_id)
            first = first or id
            event = self._accept(id, fields)
            if event is not None:
                batch.append(event)
                size += len(event.frame)
                if size > BATCH_BYTES:
                    into(batch, first, id)
                    batch, first, size = [], ZERO, 0
        if first:
            into(batch, first, self._cursor)
        if self._added is not None:
            self._added += len(entries)

    def _accept(self, id: EntryId, fields: Sequence[bytes]) -> Event | None:
        metrics = self._metrics
        try:
            event = decode(id, fields)
            wrong = schema.violation(event.type, event.data)
            if wrong is not None:
                metrics.nonconforming[type_label(event.type)] += 1
                self._limited.warning(
                    "nonconforming", "nonconforming event", entry=format_id(id), type=event.type, detail=wrong
                )
            metrics.consumed[type_label(event.type)] += 1
            if self._shaper is not None and not self._shaper.shape(event):
                metrics.throttled += 1
                return None
            return frame.seal(event)
        except Rejected as rejected:
            metrics.rejected[rejected.reason] += 1
            self._limited.warning(
                rejected.reason, "entry rejected", entry=format_id(id), reason=rejected.reason, detail=str(rejected)
            )
            return None
