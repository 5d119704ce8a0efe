"""`make run`: an embedded Redis, the gateway without auth, and the sample worker; Ctrl-C ends them all."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from tests.redis_server import RedisServer, free_port


@contextmanager
def child(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A Python module as a process of its own session, ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], env=os.environ | environment, start_new_session=True, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def port(wanted: int) -> int:
    """`wanted`, or another where something listens there already."""
    with socket.socket() as probe:
        return free_port() if probe.connect_ex(("127.0.0.1", wanted)) == 0 else wanted


def main() -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    redis = None if os.environ.get("SSE_REDIS_URL") else RedisServer().start()
    try:
        environment = {"SSE_REDIS_URL": redis.url} if redis else {}
        public, admin = port(8080), port(8081)
        settings = {
            "SSE_LISTEN": f"127.0.0.1:{public}",
            "SSE_ADMIN_LISTEN": f"127.0.0.1:{admin}",
            "SSE_AUTH": "none",
            "SSE_UI": "on",
            "SSE_LOG_FORMAT": "text",
            "SSE_DRAIN": "1s",
        }
        with child("gateway", **(settings | environment)) as gateway, child("tests.worker", **environment) as worker:
            wait_for(f"http://127.0.0.1:{admin}/readyz", gateway, stop)
            url = f"http://127.0.0.1:{public}"
            print(
                f"\n  The live page:          {url}/"
                f"\n  Watch every event:      curl -N {url}/api/projects/stream"
                f"\n  One project's:          curl -N {url}/api/projects/sample/stream"
                f"\n  Metrics and readiness:  http://127.0.0.1:{admin}/metrics  http://127.0.0.1:{admin}/readyz"
                f"\n  Redis:                  {redis.url if redis else os.environ['SSE_REDIS_URL']}"
                "\n\n  The sample worker syncs a real git repository now, over and over. Ctrl-C ends it all.\n",
                flush=True,
            )
            while not stop.wait(0.5):
                for process, name in ((gateway, "the gateway"), (worker, "the worker")):
                    if process.poll() is not None:
                        sys.exit(f"{name} ended by itself with status {process.returncode}")
    finally:
        if redis:
            redis.stop()


def wait_for(url: str, gateway: "subprocess.Popen[str]", stop: threading.Event) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not stop.is_set():
        if gateway.poll() is not None:
            sys.exit(f"the gateway ended with status {gateway.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    if not stop.is_set():
        sys.exit("the gateway is not ready after 30 s: see its lines above")


main()
