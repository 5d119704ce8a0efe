"""What every benchmark needs: pinned processes, a paced publisher, the load generator, CPU and memory of a process."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis

from tests.redis_server import RedisServer, free_port

HERE = Path(__file__).parent
BUILD = HERE.parent.parent / ".run" / "bench"
SERVER_CORE, LOAD_CORE = 0, (os.cpu_count() or 1) - 1
STREAM = "github:sync:events"


def build() -> None:
    """Compiles the C programs."""
    BUILD.mkdir(parents=True, exist_ok=True)
    for name in ("sseload", "floor"):
        source, target = HERE / f"{name}.c", BUILD / name
        if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            subprocess.run([os.environ.get("CC", "cc"), "-O2", "-Wall", "-o", str(target), str(source)], check=True)


def pinned(core: int) -> Any:
    return lambda: os.sched_setaffinity(0, {core})


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, user and system, of all its threads."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


class Process:
    """A server under measurement. `pid` is the process that serves, where it isn't the one that was started."""

    process: "subprocess.Popen[bytes]"
    port: int
    pid = 0

    def publish(self, events: Sequence[dict[str, str]]) -> None:
        """Hands the server events to fan out."""
        raise NotImplementedError

    def cpu_s(self) -> float:
        return cpu_s(self.pid or self.process.pid)

    def memory(self) -> int:
        """Private bytes: what would be given back if it went."""
        rollup = Path(f"/proc/{self.pid or self.process.pid}/smaps_rollup").read_text()
        return sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Private_"))

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


class Gateway(Process):
    """`python -m gateway` alone on its core, or another `module` that starts it."""

    def __init__(self, server: RedisServer, module: str = "gateway", **settings: str) -> None:
        self.port, self.admin = free_port(), free_port()
        self._redis = redis.Redis.from_url(server.url)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("SSE_")} | {
            "SSE_AUTH": "none",
            "SSE_REDIS_URL": server.url,
            "SSE_LISTEN": f"127.0.0.1:{self.port}",
            "SSE_ADMIN_LISTEN": f"127.0.0.1:{self.admin}",
            "SSE_DRAIN": "0",
            "SSE_LOG_LEVEL": "error",
            "SSE_MAX_CONNECTIONS": "100000",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            env=environ | settings,
            stdout=subprocess.PIPE,
            preexec_fn=pinned(SERVER_CORE),
        )
        self.began = time.monotonic()
        while not self._ready():
            assert self.process.poll() is None
            time.sleep(0.005)
        self.ready_s = time.monotonic() - self.began

    def _ready(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except OSError:
            return False
        return True

    def publish(self, events: Sequence[dict[str, str]]) -> None:
        add(self._redis, events)

    def total(self, name: str) -> float:
        """The sum of a metric over its labels."""
        return sum(self._samples(f"{name}{{"))

    def metric(self, sample: str) -> float:
        return sum(self._samples(f"{sample} "))

    def _samples(self, begin: str) -> list[float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=30) as response:
            lines = response.read().decode().splitlines()
        return [float(line.split()[-1]) for line in lines if line.startswith(f"sse_gateway_{begin}")]


def load(port: int, path: str, clients: int, seconds: float, *options: str) -> "subprocess.Popen[str]":
    """The load generator, when all its clients are connected."""
    process = subprocess.Popen(
        [str(BUILD / "sseload"), "127.0.0.1", str(port), path, str(clients), str(seconds), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=pinned(LOAD_CORE),
    )
    assert process.stderr is not None
    while not (line := process.stderr.readline()).startswith("open"):
        assert line, "the load generator failed"
    return process


def result(process: "subprocess.Popen[str]") -> dict[str, float]:
    out, _ = process.communicate(timeout=300)
    return json.loads(out)  # type: ignore[no-any-return]


def entry(operation: str, project: str, size: int) -> dict[str, str]:
    data = f'{{"operationId":"{operation}","projectId":"{project}","percent":45,"sent":{time.time_ns()},"message":"'
    return {"type": "github_sync_progress", "data": data + "x" * (size - len(data) - 2) + '"}'}


def add(client: redis.Redis, events: Sequence[dict[str, str]]) -> None:
    """XADDs events, as workers do."""
    pipe = client.pipeline(transaction=False)
    for event in events:
        pipe.xadd(STREAM, event, maxlen=100_000, approximate=True)  # type: ignore[arg-type]
    pipe.execute()


def steady(peer: Process, rate: float, seconds: float, topics: int = 1, size: int = 200) -> int:
    """Publishes `rate` events a second, each with its send time; topic `i` is operation `i` of project `p-1`. Above
    1,000 a second several leave at once.
    """
    began, number, step = time.monotonic(), 0, max(1, round(rate / 1000))
    while (elapsed := time.monotonic() - began) < seconds:
        if number < elapsed * rate:
            peer.publish([entry(str((number + each) % topics), "p-1", size) for each in range(step)])
            number += step
        else:
            time.sleep(0.0002)
    return number
