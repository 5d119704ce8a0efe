"""Builds everything once; start, signals, drain, exit status. Read top-down, it is the life of the process."""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import Final

from aiohttp import web

import gateway
from gateway import logs
from gateway.admin import Admin
from gateway.api import Api
from gateway.archive import Archive
from gateway.auth import Verifier
from gateway.config import Config
from gateway.door import Door
from gateway.history import History
from gateway.hub import Hub
from gateway.limits import Limits
from gateway.metrics import Metrics
from gateway.reader import Reader
from gateway.source import Source
from gateway.terms import Terms

BACKLOG: Final = 4096
"""Connections that the kernel holds until they are accepted: a crowd that returns at once."""
ACCEPTS: Final = 16
"""Connections accepted in one turn, so that those that have to go for them are gone by the next."""
SPARE_FILES: Final = 64
"""File descriptors for all that is no stream."""
OWN_FILES: Final = 40
"""Of those, descriptors that no client of the public face gets: the links to Redis, the admin face, the key set."""

COLLECT: Final = (1000, 5, 1_000_000)
"""The collector's thresholds: a young collection has few objects to look at, a second one five thousand, and there is
no full one (`_freeze`)."""

_log = logging.getLogger(__name__)


class Server:
    """One gateway: `start`, then `run` until `stop`.

    Raises ConfigError where a key is unusable, OSError where a port is taken.
    """

    def __init__(self, config: Config) -> None:
        self.metrics = Metrics()
        self._config = config
        history = History(
            config.replay_max_events,
            config.replay_max_bytes,
            config.replay_max_age,
            stalled_after=config.stalled_after,
            throttle=config.throttle == "on",
        )
        self.hub = Hub(history, self.metrics)
        password = _reading(config.redis_password_file) if config.redis_password_file else None
        source = Source(config.redis_url, config.stream, password)
        archive = Archive(source, config.stream, self.hub)
        self._reader = Reader(source, config.stream, self.hub, self.metrics)
        self._runs = (self._reader.run, archive.run, self.hub.run)
        self._verifier = Verifier(config) if config.auth == "jwt" else None
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self.metrics.connections_limit = self._fit()
        limits = Limits(self.metrics.connections_limit, config.max_connections_per_client)
        terms = Terms(self.hub, archive, config.heartbeat, config.slow_client_timeout)
        self._api = Api(config, terms, limits, self.metrics, self._verifier, self._reader.ready.is_set)
        self._admin = Admin(self.metrics, self.hub, self._ready)
        self._runners: list[web.AppRunner] = []
        self._doors: list[Door] = []
        self._listening: list[asyncio.Server] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self.metrics.log_events = lambda: len(self.hub.history)
        self.metrics.log_bytes = lambda: self.hub.history.bytes
        self.metrics.operations = self._operations
        self.metrics.log_lines_dropped = logs.dropped

    @property
    def addresses(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """The public and the admin address that are listened on."""
        public, admin = (server.sockets[0].getsockname()[:2] for server in self._listening)
        return public, admin

    async def start(self) -> None:
        """Listens, and begins to load the history; readiness follows."""
        config, public, admin = self._config, self._api, self._admin
        await self._serve("SSE_LISTEN", config.listen, public, self._room, public.opens)
        await self._serve("SSE_ADMIN_LISTEN", config.admin_listen, admin, lambda: SPARE_FILES, lambda _: False)
        self._tasks = [asyncio.create_task(run()) for run in self._runs]

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    async def ready(self) -> None:
        """Waits until the history is loaded."""
        await self._reader.ready.wait()

    def stop(self) -> None:
        """Asks `run` to drain and return."""
        self._stopping.set()

    async def run(self) -> None:
        """Serves until `stop`, then drains. Raises what a background task fails of: that is a bug, and the end."""
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([*self._tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        try:
            for task in self._tasks:
                if task.done():
                    task.result()
            self._api.draining = True
            _log.info("draining", extra={"streams": len(self.hub.subscribers), "seconds": self._config.drain})
            await self.hub.drain(self._config.drain)
        finally:
            stopping.cancel()
            await self.close()

    async def close(self) -> None:
        """Ends everything at once."""
        for subscriber in list(self.hub.subscribers):
            subscriber.abort("drain")
        for task in self._tasks:
            while not task.done():  # its failure was raised by `run`
                task.cancel()  # again, should a library have swallowed it
                await asyncio.wait([task], timeout=1)
        if self._verifier is not None:
            await self._verifier.close()
        for listening in self._listening:
            listening.close()
        for door in self._doors:
            door.close()
        for runner in self._runners:
            await runner.cleanup()

    def _ready(self) -> bool:
        return self._reader.ready.is_set() and not self._stopping.is_set()

    def _operations(self) -> dict[str, int]:
        known = self.hub.history.operations
        return {"running": len(known.running) - known.silence.stalled, "stalled": known.silence.stalled}

    def _fit(self) -> int:
        """How many streams there is room for."""
        wanted, files = self._config.max_connections, _files()
        fit = max(1, files - SPARE_FILES)
        if fit >= wanted:
            return wanted
        message = "SSE_MAX_CONNECTIONS=%d, but only %d file descriptors are allowed, so %d streams: raise ulimit -n"
        _log.warning(message, wanted, files, fit)
        return fit

    def _room(self) -> int:
        """How many clients there is room for beside the streams."""
        most = min(_files() - OWN_FILES, self.metrics.connections_limit + BACKLOG)
        return most - len(self.hub.subscribers)

    async def _serve(
        self,
        variable: str,
        at: tuple[str, int],
        face: Api | Admin,
        room: Callable[[], int],
        opens: Callable[[web.Request], bool],
    ) -> None:
        runner = web.AppRunner(face.application(), shutdown_timeout=1.0)
        await runner.setup()
        self._runners.append(runner)
        assert runner.server is not None
        door = Door(runner.server, face.answers, room, opens)
        try:
            listening = self._listen(*at)
        except OSError as error:
            raise OSError(f"{variable}={at[0]}:{at[1]}: {error.strerror or error}") from None
        loop = asyncio.get_running_loop()
        self._listening.append(await loop.create_server(door, sock=listening, backlog=ACCEPTS))
        self._doors.append(door)
        listening.listen(BACKLOG)

    def _listen(self, host: str, port: int) -> socket.socket:
        """A listening socket. What is set here, the connections that it accepts inherit."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: one that vanished acknowledges nothing (RFC 5482)
            milliseconds = round(self._config.slow_client_timeout * 1000)
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        return listening


def _files() -> int:
    """How many file descriptors the process may have: that can be changed while it runs (prlimit)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


async def serve(config: Config) -> None:
    """Runs one gateway until SIGTERM or SIGINT; a second one ends the process at once."""
    server = Server(config)
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if server.stopping:
            os._exit(128 + number)
        server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    await server.start()
    (host, port), (admin_host, admin_port) = server.addresses
    urls = f"http://{_url(host)}:{port}, admin on http://{_url(admin_host)}:{admin_port}"
    print(f"sse-gateway {gateway.__version__} listens on {urls}", flush=True)
    gc.collect()
    gc.set_threshold(*COLLECT)
    gc.callbacks.append(_freeze)
    await server.run()


def _freeze(phase: str, info: dict[str, int]) -> None:
    """Lets the collector forget what it has looked at twice: that is the history and the open streams, which leave no
    cycles. A full collection would walk all of it, 75 ms for 100,000 events.
    """
    if phase == "stop" and info["generation"] > 0:
        gc.freeze()


def _reading(path: str) -> Callable[[], str]:
    """What the file holds now, without a line break at its end."""

    def read() -> str:
        with open(path, encoding="utf-8") as file:
            return file.read().removesuffix("\n").removesuffix("\r")

    return read


def _url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
