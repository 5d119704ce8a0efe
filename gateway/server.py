"""Builds everything once; start, signals, drain, exit status. Read top-down, it is the life of the process."""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable

from aiohttp import web

import gateway
from gateway import admin
from gateway.api import Api
from gateway.archive import Archive
from gateway.auth import Verifier
from gateway.config import Config
from gateway.history import History
from gateway.hub import Hub
from gateway.limits import Limits
from gateway.logs import Limited
from gateway.metrics import Metrics
from gateway.reader import Reader
from gateway.source import Source
from gateway.terms import Terms

KEEPALIVE: float = 75.0
"""Seconds that a connection may wait between requests, or for its first."""
BACKLOG: int = 4096
"""Connections that the kernel holds until they are accepted: a crowd that returns at once."""
SPARE_FILES: int = 64
"""File descriptors for all that is no stream."""

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
        self._runs = (self._reader.run, archive.run, self.hub.run, self._watch_files)
        self._verifier = Verifier(config) if config.auth == "jwt" else None
        self.metrics.connections_limit = self._raise_file_limit()
        limits = Limits(self.metrics.connections_limit, config.max_connections_per_client)
        terms = Terms(self.hub, archive, config.heartbeat, config.slow_client_timeout)
        self._api = Api(config, terms, limits, self.metrics, self._verifier, self._reader.ready.is_set)
        self._public = self._runner(self._api.application())
        self._admin = self._runner(admin.application(self.metrics, self._ready))
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self.metrics.log_events = lambda: len(self.hub.history)
        self.metrics.log_bytes = lambda: self.hub.history.bytes
        self.metrics.operations = self._operations

    @property
    def addresses(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """The public and the admin address that are listened on."""
        return self._public.addresses[0][:2], self._admin.addresses[0][:2]

    async def start(self) -> None:
        """Listens, and begins to load the history; readiness follows."""
        for runner, (host, port) in ((self._public, self._config.listen), (self._admin, self._config.admin_listen)):
            await runner.setup()
            await web.SockSite(runner, self._listen(host, port), backlog=BACKLOG).start()
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
        await self._public.cleanup()
        await self._admin.cleanup()

    def _ready(self) -> bool:
        return self._reader.ready.is_set() and not self._stopping.is_set()

    def _operations(self) -> dict[str, int]:
        known = self.hub.history.operations
        return {"running": len(known.running) - known.silence.stalled, "stalled": known.silence.stalled}

    def _raise_file_limit(self) -> int:
        """Takes all file descriptors that the system allows. How many streams there is room for."""
        wanted = self._config.max_connections
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        if most == resource.RLIM_INFINITY or most >= wanted + SPARE_FILES:
            return wanted
        fit = max(1, most - SPARE_FILES)
        message = "SSE_MAX_CONNECTIONS=%d, but only %d file descriptors are allowed, so %d streams: raise ulimit -n"
        _log.warning(message, wanted, most, fit)
        return fit

    async def _watch_files(self) -> None:
        """Says that descriptors have run out: the event loop closes what it can't accept, and says nothing."""
        limited = Limited(_log)
        while True:
            await asyncio.sleep(1)
            try:
                socket.socket().close()
            except OSError as error:
                message = f"no file descriptor is left, new connections are closed: raise ulimit -n ({error})"
                limited.warning("files", message, streams=len(self.hub.subscribers))

    def _listen(self, host: str, port: int) -> socket.socket:
        """A listening socket. What is set here, the connections that it accepts inherit."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: one that vanished acknowledges nothing (RFC 5482)
            milliseconds = round(self._config.slow_client_timeout * 1000)
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        return listening

    @staticmethod
    def _runner(app: web.Application) -> web.AppRunner:
        return web.AppRunner(app, access_log=None, keepalive_timeout=KEEPALIVE, shutdown_timeout=1.0)


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
    # What start-up left is for good: the collector need not walk it again. A full collection walks the whole history,
    # 75 ms for 100,000 events: a fifth as often as by default. Streams leave it no cycles, malformed requests do.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], 50)
    await server.run()


def _reading(path: str) -> Callable[[], str]:
    """What the file holds now, without a line break at its end."""

    def read() -> str:
        with open(path, encoding="utf-8") as file:
            return file.read().removesuffix("\n").removesuffix("\r")

    return read


def _url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
