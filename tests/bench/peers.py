"""The servers measured beside the gateway, each alone on its core: what people write, and what is there in C."""

import http.client
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import redis

from tests.bench.harness import BUILD, HERE, SERVER_CORE, STREAM, Gateway, Process, add, pinned
from tests.redis_server import RedisServer, free_port

NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")


class Peer(Process):
    """A server of /api/projects/p-1/stream that is fed from the Redis stream."""

    def __init__(self, server: RedisServer, command: list[str], cwd: Path | None = None) -> None:
        self.port = free_port()
        self._redis = redis.Redis.from_url(server.url)
        self.process = subprocess.Popen(
            [*command, str(self.port), server.url, STREAM],
            cwd=cwd,
            stdout=subprocess.PIPE,
            preexec_fn=pinned(SERVER_CORE),
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline(), f"{command[0]} did not start"

    def publish(self, events: Sequence[dict[str, str]]) -> None:
        add(self._redis, events)


def naive(server: RedisServer) -> Peer:
    """Plain aiohttp-sse, a queue and a task a client."""
    return Peer(server, [sys.executable, "-m", "tests.bench.naive"])


def better_sse(server: RedisServer) -> Peer:
    """better-sse on Node."""
    if not (HERE / "node_modules" / "better-sse").exists():
        flags = ["--no-package-lock", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(["npm", "install", *flags], cwd=HERE, check=True, stdout=subprocess.DEVNULL, timeout=300)
    return Peer(server, ["node", "better_sse.mjs"], HERE)


def go(server: RedisServer) -> Peer:
    """net/http and go-redis."""
    binary = BUILD / "go"
    subprocess.run(["go", "build", "-o", str(binary), "."], cwd=HERE / "go", check=True, timeout=300)
    return Peer(server, [str(binary)])


class Nchan(Process):
    """Nchan in nginx, published to over HTTP."""

    def __init__(self, server: RedisServer) -> None:
        self.port = free_port()
        folder = Path(tempfile.mkdtemp(dir=BUILD))
        conf = folder / "nginx.conf"
        conf.write_text((HERE / "nchan.conf").read_text().replace("PORT", str(self.port)))
        command = ["/usr/sbin/nginx", "-p", str(folder), "-c", str(conf)]
        self.process = subprocess.Popen(command, preexec_fn=pinned(SERVER_CORE))
        while not (found := Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()):
            assert self.process.poll() is None, "nginx did not start"
        self.pid = int(found[0])
        self._publisher = http.client.HTTPConnection("127.0.0.1", self.port)

    def publish(self, events: Sequence[dict[str, str]]) -> None:
        for event in events:
            ids = json.loads(event["data"])
            body, headers = event["data"], {"X-EventSource-Event": event["type"]}
            self._publisher.request("POST", f"/publish/{ids['projectId']}/{ids['operationId']}", body, headers)
            self._publisher.getresponse().read()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def gateway(server: RedisServer) -> Gateway:
    """What this is about."""
    return Gateway(server, SSE_THROTTLE="off")


SERVERS: dict[str, Callable[[RedisServer], Process]] = {"gateway": gateway, "aiohttp-sse": naive}
"""By the name in tables and plots; those that are installed."""
if shutil.which("npm"):
    SERVERS["better-sse"] = better_sse
if shutil.which("go"):
    SERVERS["Go"] = go
if NCHAN.exists():
    SERVERS["Nchan"] = Nchan
