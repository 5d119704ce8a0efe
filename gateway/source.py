"""Where the stream is: the forms of Redis's URL, and which node is the master now.

Opens a link at a time and hands it on; never reads the stream itself.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from redis.asyncio.connection import parse_url
from redis.exceptions import AskError, MovedError, RedisError

from gateway.config import ConfigError, shown
from gateway.link import UNAVAILABLE, Command, Link

ASK_TIMEOUT: Final = 1.0
"""Seconds that a sentinel or a cluster node has to say which node is the master; all are asked at once."""


class Source:
    """Where the stream is: opens links to the node that holds it. Raises ConfigError for a URL with options that no
    connection takes; `connect` raises UNAVAILABLE where it can't.

    `password` gives the password, asked at every connect, in place of the URL's.
    """

    def __init__(self, url: str, stream: str, password: Callable[[], str] | None = None) -> None:
        self._stream = stream
        self._password = password
        self._epoch = 0  # of what was connected to last
        self._hint: tuple[str, int, bool] | None = None  # where Redis itself sent us, and whether to ask there
        self._form = urlsplit(url).scheme
        try:
            self._split(url)
            Link(self._node("localhost", 0) if self._nodes else self._options())
        except (ValueError, TypeError, AttributeError, RedisError) as error:
            raise ConfigError(f"SSE_REDIS_URL={shown('SSE_REDIS_URL', url)}: {error}") from None

    async def connect(self) -> Link:
        """An open link; for Sentinel and Cluster the node is looked up anew each time."""
        if not self._nodes:
            return await self._made(self._options()).open()
        hint, self._hint = self._hint, None
        if hint is None:
            self._epoch, host, port = await self._master()
            asking = False
        else:
            host, port, asking = hint
        return await self._made(self._node(host, port), asking=asking).open()

    def sent_on(self, error: Exception) -> bool:
        """Whether Redis itself said that the stream is elsewhere (a cluster that moves slots): `connect` goes there."""
        if isinstance(error, AskError):
            self._hint = error.host, error.port, not isinstance(error, MovedError)
            return True
        return False

    async def has_moved(self, link: Link) -> bool:
        """Whether the sentinels or the cluster name another master now than the one that `link` leads to.

        Nobody who can't be asked says so.
        """
        if not self._nodes:
            return False
        try:
            epoch, *master = await self._master()
        except UNAVAILABLE:
            return False
        if tuple(master) == link.address:
            link.asking = False
            return False
        return epoch >= self._epoch and not link.asking

    def _split(self, url: str) -> None:
        """Takes the URL apart. redis-py's own parser reads the options, as it does those of a plain URL."""
        self._url = url
        self._nodes: list[tuple[str, int]] = []
        if self._form not in ("redis+sentinel", "redis+cluster"):
            return
        parts = urlsplit(url)
        user, at, hosts = parts.netloc.rpartition("@")
        for host in hosts.split(","):
            name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
            self._nodes.append((name.strip("[]"), int(port or (26379 if self._form == "redis+sentinel" else 6379))))
        self._name, _, database = unquote(parts.path.strip("/")).partition("/")
        number = int(database or 0) if self._form == "redis+sentinel" else 0
        options: dict[str, Any] = dict(parse_url(f"redis://{user}{at}host/{number}?{parts.query}"))
        self._sentinel = {
            key: options.pop(f"sentinel_{key}") for key in ("username", "password") if f"sentinel_{key}" in options
        }
        del options["host"]
        if str(options.pop("ssl", False)).lower() in ("1", "true", "yes"):
            options |= {"connection_class": parse_url("rediss://host")["connection_class"]}
        if self._form == "redis+cluster":
            options.pop("db")
        self._shared = options

    def _options(self) -> dict[str, Any]:
        return dict(parse_url(self._url))

    def _node(self, host: str, port: int) -> dict[str, Any]:
        return self._shared | {"host": host, "port": port}

    def _made(self, options: dict[str, Any], *, asking: bool = False) -> Link:
        if self._password is not None:
            options["password"] = self._password()
        return Link(options, asking=asking)

    async def _master(self) -> tuple[int, str, int]:
        """The newest epoch that somebody knows, and the address of the node that holds the stream in it.

        Raises UNAVAILABLE.
        """
        ask = self._ask_sentinel if self._form == "redis+sentinel" else self._ask_cluster
        said = await asyncio.gather(*(ask(*node) for node in self._nodes), return_exceptions=True)
        known = [each for each in said if isinstance(each, tuple)]
        if not known:
            error = next(each for each in said if isinstance(each, BaseException))
            raise error if isinstance(error, UNAVAILABLE) else RedisError(f"no master: {error!r}") from None
        return max(known)

    async def _ask_sentinel(self, host: str, port: int) -> tuple[int, str, int]:
        options = {key: value for key, value in self._shared.items() if key.startswith(("ssl", "connection_class"))}
        link = Link(options | self._sentinel | {"host": host, "port": port})
        [reply] = await _ask(link, ("SENTINEL", "MASTER", self._name))
        state = dict(zip(reply[::2], reply[1::2], strict=True))
        return int(state[b"config-epoch"]), state[b"ip"].decode(), int(state[b"port"])

    async def _ask_cluster(self, host: str, port: int) -> tuple[int, str, int]:
        """Redis, "CLUSTER NODES": a line a node, its slots at the end."""
        link = self._made(self._node(host, port))
        slot, nodes = await _ask(link, ("CLUSTER", "KEYSLOT", self._stream), ("CLUSTER", "NODES"))
        for line in nodes.decode().splitlines():
            _, address, flags, _, _, _, epoch, _, *slots = line.split()
            if "master" in flags and any(_holds(each, slot) for each in slots):
                name, _, at = address.partition("@")[0].rpartition(":")
                return int(epoch), name or host, int(at)
        raise RedisError(f"{host}:{port} knows no cluster node that serves {self._stream}")


async def _ask(link: Link, *commands: Command) -> list[Any]:
    await link.open(ASK_TIMEOUT)
    try:
        return await link.exchange(*commands, seconds=ASK_TIMEOUT)
    finally:
        await link.close()


def _holds(slots: str, slot: int) -> bool:
    first, _, last = slots.partition("-")
    return first.isdigit() and int(first) <= slot <= int(last or first)
