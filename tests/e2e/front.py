"""Real proxies in front of gateways: nginx and HAProxy, where the system has them."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.redis_server import free_port

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
needs_nginx = pytest.mark.skipif(
    NGINX is None, reason="no nginx found: install it (Debian: apt-get install nginx-light)"
)
needs_haproxy = pytest.mark.skipif(
    HAPROXY is None, reason="no HAProxy found: install it (Debian: apt-get install haproxy)"
)

# What ingress-nginx writes for a location by default (its template, controller 1.x), the buffering that it turns off
# included; `ingress` lays a chart's annotations over it.
INGRESS = """
proxy_http_version 1.1;
proxy_set_header Host $host;
proxy_set_header X-Request-ID $request_id;
proxy_set_header X-Real-IP $remote_addr;
proxy_set_header X-Forwarded-For $remote_addr;
proxy_set_header Connection "";
proxy_connect_timeout 5s;
proxy_send_timeout 60s;
proxy_read_timeout 60s;
proxy_buffering off;
proxy_buffer_size 4k;
proxy_buffers 4 4k;
proxy_max_temp_file_size 1024m;
proxy_request_buffering on;
proxy_next_upstream error timeout;
proxy_next_upstream_tries 3;
"""


def ingress(annotations: Mapping[str, str]) -> str:
    """What ingress-nginx makes of an Ingress's annotations: over its defaults, the directive of each one's name."""
    directives = dict(line.rstrip(";").split(" ", 1) for line in INGRESS.strip().splitlines() if "header" not in line)
    for name, value in annotations.items():
        directive = name.removeprefix("nginx.ingress.kubernetes.io/").replace("-", "_")
        assert directive in directives, f"{name} is no annotation of ingress-nginx that this knows"
        directives[directive] = value + ("s" if directive.endswith("_timeout") else "")
    headers = [line for line in INGRESS.splitlines() if "header" in line]
    return "\n".join([*headers, *(f"{name} {value};" for name, value in directives.items())])


def listening(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Waits until somebody listens on `port`; fails with the log where the process has ended."""
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)


@contextmanager
def _run(command: list[str], folder: Path, port: int) -> Iterator[int]:
    log = folder / "log"
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        listening(port, process, log)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(5)
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(folder, ignore_errors=True)


class Nginx:
    """nginx before gateways: `route` says before which."""

    def __init__(self, folder: Path, location: str, server: str, listen: str, paths: Sequence[str]) -> None:
        self.port = free_port()
        self._folder = folder
        self._location = location
        self._server = f"listen 127.0.0.1:{self.port} {listen} backlog=4096; {server}"
        self._paths = paths

    def route(self, upstreams: Sequence[int]) -> None:
        """Sends new connections to the gateways at those ports; who is connected stays where it is."""
        servers = " ".join(f"server 127.0.0.1:{each} max_fails=0;" for each in upstreams)
        temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = " ".join(f"{name}_temp_path {self._folder};" for name in temporary)
        locations = "\n".join(
            f"location {path} {{ proxy_pass http://gateways;\n{self._location}\n}}" for path in self._paths
        )
        (self._folder / "conf").write_text(
            "daemon off; worker_processes 1; pid nginx.pid; error_log stderr warn;\n"
            "events { worker_connections 8192; }\n"
            f"http {{ access_log off; {paths}\n"
            f"upstream gateways {{ {servers} keepalive 32; }}\n"
            f"server {{ {self._server}\n{locations} }} }}\n"
        )
        if (self._folder / "nginx.pid").exists():
            os.kill(int((self._folder / "nginx.pid").read_text()), signal.SIGHUP)


@contextmanager
def routing(
    upstreams: Sequence[int], location: str = INGRESS, server: str = "", listen: str = "", paths: Sequence[str] = ("/",)
) -> Iterator[Nginx]:
    """nginx that goes before other gateways later. `location` and `server` are directives."""
    folder = Path(tempfile.mkdtemp(prefix="sse-nginx-"))
    front = Nginx(folder, location, server, listen, paths)
    front.route(upstreams)
    assert NGINX is not None
    with _run([NGINX, "-p", str(folder), "-c", str(folder / "conf"), "-e", "stderr"], folder, front.port):
        yield front


@contextmanager
def nginx(upstreams: Sequence[int], location: str = INGRESS, server: str = "", listen: str = "") -> Iterator[int]:
    """nginx before the gateways at those ports; its own port."""
    with routing(upstreams, location, server, listen) as front:
        yield front.port


@contextmanager
def haproxy(upstreams: Sequence[int], more: str = "") -> Iterator[int]:
    """HAProxy before the gateways at those ports; its own port. `more` goes into the backend."""
    folder, port = Path(tempfile.mkdtemp(prefix="sse-haproxy-")), free_port()
    servers = "\n".join(f"  server s{each} 127.0.0.1:{each}" for each in upstreams)
    (folder / "conf").write_text(
        "global\n  maxconn 8192\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n"
        "  timeout server 60s\n  option http-no-delay\n  retry-on conn-failure empty-response\n  option redispatch\n"
        f"frontend f\n  bind 127.0.0.1:{port}\n  default_backend b\nbackend b\n  balance leastconn\n{more}\n{servers}\n"
    )
    assert HAPROXY is not None
    with _run([HAPROXY, "-db", "-f", str(folder / "conf")], folder, port) as found:
        yield found
