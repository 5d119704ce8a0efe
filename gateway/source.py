"""Redis: the forms of its URL, connections to the node that holds the stream, and one exchange with it.

The only file that imports redis. Opens a connection at a time and hands it on; never reads the stream itself.
"""

import asyncio
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import Sentinel
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from gateway.config import ConfigError, shown

TIMEOUT: Final = 4.0
"""Seconds without a reply after which a link counts as dead; above the reader's BLOCK_MS."""

UNAVAILABLE: Final = (RedisError, RedisClusterException, OSError)
"""What a Redis that can't be read raises."""

Refused = ResponseError
"""What Redis itself answers where it refuses a command."""
Link = AbstractConnection
Command = tuple[str | int, ...]
_OPTIONS: Final[dict[str, Any]] = {
    "protocol": 2,
    "socket_timeout": TIMEOUT,
    "socket_connect_timeout": TIMEOUT,
    "driver_info": None,  # no CLIENT SETINFO: an ACL user that may only read the key can't run it
}
_LINK: Final = _OPTIONS | {"socket_timeout": None}  # `exchange` has its own: redis-py's may lose a cancellation


class Source:
    """Where the stream is: opens connections to the node that holds it. Raises ConfigError for a URL with options that
    no connection takes; `connect` raises UNAVAILABLE where it can't.
    """

    def __init__(self, url: str, stream: str) -> None:
        self._url = url
        self._stream = stream
        self._scheme = urlsplit(url).scheme
        try:
            self._try()
        except (ValueError, TypeError, RedisError) as error:
            raise ConfigError(f"SSE_REDIS_URL={shown('SSE_REDIS_URL', url)}: {error}") from None

    async def connect(self) -> Link:
        """A connected connection; for Sentinel and Cluster the node is looked up anew each time."""
        if self._scheme == "redis+sentinel":
            connection = await self._by_sentinel()
        elif self._scheme == "redis+cluster":
            connection = await self._by_cluster()
        else:
            connection = self._by_url()
        try:
            async with asyncio.timeout(TIMEOUT):
                await connection.connect()  # type: ignore[no-untyped-call]
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError  # lost on the way here: asyncio.wait_for does that before Python 3.12
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    def _try(self) -> None:
        """Makes a connection that is never opened, so that what is wrong shows at the start."""
        if self._scheme == "redis+sentinel":
            [node, *_], options, path = self._parts(26379)
            _of_sentinels(options)
            _plain(*node, {"db": _database(path)} | options)
        elif self._scheme == "redis+cluster":
            [node, *_], options, _ = self._parts(6379)
            _plain(*node, options)
        else:
            self._by_url()

    def _by_url(self) -> Link:
        options: dict[str, Any] = dict(parse_url(self._url))
        kind: type[Link] = options.pop("connection_class", Connection)
        return kind(**(options | _LINK))

    async def _by_sentinel(self) -> Link:
        nodes, options, path = self._parts(26379)
        name = path.partition("/")[0]
        sentinel_options = _of_sentinels(options)
        tls = {key: value for key, value in options.items() if key.startswith("ssl")}
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            nodes, sentinel_kwargs=_OPTIONS | sentinel_options | tls
        )
        try:
            host, port = await sentinel.discover_master(name)
        finally:
            for client in sentinel.sentinels:
                await client.aclose()
        return _plain(host, port, {"db": _database(path)} | options)

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


def _of_sentinels(options: dict[str, Any]) -> dict[str, Any]:
    """Takes out of `options` what is for the sentinels, not for the node that they name."""
    return {key: options.pop(f"sentinel_{key}") for key in ("username", "password") if f"sentinel_{key}" in options}


def _database(path: str) -> int:
    return int(path.partition("/")[2] or 0)


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
