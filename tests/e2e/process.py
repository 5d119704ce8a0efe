"""The gateway as a process of its own, as it runs in production."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests.redis_server import free_port


class Process:
    """`python -m gateway` on free ports, or another `command` in `cwd` that starts it; `url` and `admin` from the line
    it prints. `before` are words of a command that runs it.
    """

    def __init__(self, *before: str, command: Sequence[str] = (), cwd: Path | None = None, **settings: str) -> None:
        self._command = [*before, *(command or (sys.executable, "-m", "gateway"))]
        self._cwd = cwd
        self.popen: subprocess.Popen[str] | None = None
        self.settings = {
            "SSE_AUTH": "none",
            "SSE_LISTEN": f"127.0.0.1:{free_port()}",
            "SSE_ADMIN_LISTEN": "127.0.0.1:0",
            "SSE_DRAIN": "1s",
        } | settings

    def start(self) -> None:
        """Starts it (again), on the port it had before."""
        # Another folder has its own code.
        gone = ("SSE_", "PYTHONPATH") if self._cwd else ("SSE_",)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(gone)}
        self.popen = subprocess.Popen(
            self._command,
            cwd=self._cwd,
            env=clean | self.settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.popen.stdout is not None
        self.line = self.popen.stdout.readline()
        found = re.fullmatch(r"sse-gateway \S+ listens on (http://\S+), admin on (http://\S+)\n", self.line)
        assert found, (self.line, self.popen.stderr and self.popen.stderr.read())
        self.url, self.admin = found[1], found[2]
        self.port = int(self.url.rpartition(":")[2])
        deadline = time.monotonic() + 20
        while not self.ready():
            assert time.monotonic() < deadline, "not ready after 20 s"
            time.sleep(0.02)

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.admin + "/readyz", timeout=5) as response:
                return int(response.status) == 200
        except urllib.error.HTTPError as error:
            error.close()
            return False

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def wait(self, timeout: float = 15) -> tuple[int, str]:
        """The exit status, and what was logged."""
        _, stderr = self.popen.communicate(timeout=timeout)
        return self.popen.returncode, stderr

    def kill(self) -> None:
        if self.popen is not None and self.popen.returncode is None:
            self.popen.kill()
            self.popen.communicate()

    def stop(self) -> tuple[int, str]:
        self.signal(signal.SIGTERM)
        return self.wait()

    def metrics(self) -> str:
        with urllib.request.urlopen(self.admin + "/metrics", timeout=5) as response:
            return str(response.read().decode())
