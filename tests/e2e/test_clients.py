"""Clients that mean no good, or that just vanish: what they cost ends with them, and others don't notice."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import Start, Worker
from tests.e2e.conftest import Launch
from tests.e2e.process import Process
from tests.eventsource import Stream, connect
from tests.redis_server import RedisServer

STREAM = "/api/projects/p-1/stream"
SETTINGS = {"SSE_SLOW_CLIENT_TIMEOUT": "1s", "SSE_HEARTBEAT": "1s", "SSE_THROTTLE": "off"}
CROWD = int(os.environ.get("CROWD", "2000"))


def files(process: Process) -> int:
    return sum(1 for _ in Path(f"/proc/{process.popen.pid}/fd").iterdir())


def memory(process: Process) -> int:
    """Private bytes."""
    rollup = Path(f"/proc/{process.popen.pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Private_"))


def cpu_s(process: Process) -> float:
    return int(Path(f"/proc/{process.popen.pid}/schedstat").read_text().split()[0]) / 1e9


async def opened(process: Process, request: str, count: int = 1) -> list[socket.socket]:
    """Plain sockets that have sent `request`; nothing is read from them."""
    loop, sockets = asyncio.get_running_loop(), []
    for _ in range(count):
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", process.port))
        await loop.sock_sendall(sock, request.encode("latin-1"))
        sockets.append(sock)
    return sockets


def closed(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


async def answer(process: Process, request: str, timeout: float = 5) -> bytes:
    """All that comes back until the gateway closes, or until `timeout`."""
    [sock] = await opened(process, request)
    got = b""
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(timeout):
            while chunk := await asyncio.get_running_loop().sock_recv(sock, 65536):
                got += chunk
    sock.close()
    return got


def refused(got: bytes) -> bool:
    return got == b"" or b" 400 " in got.partition(b"\r\n")[0]


def get(path: str = STREAM, version: str = "1.1", *headers: str) -> str:
    return "\r\n".join([f"GET {path} HTTP/{version}", "Host: x", *headers, "", ""])


async def never_reads(process: Process, worker: Worker) -> None:
    sockets = await opened(process, get(), 50)
    for number in range(300):  # 300 x 16 KB for each: more than the kernel takes
        await worker.publish("progress", f"op-{number}", message="x" * 16_000)
    await asyncio.sleep(2.5)
    closed(sockets)


async def reads_a_byte_a_second(process: Process, worker: Worker) -> None:
    sockets = await opened(process, get(), 20)
    for _ in range(3):
        for number in range(100):
            await worker.publish("progress", f"op-{number}", message="x" * 16_000)
        for sock in sockets:
            with suppress(BlockingIOError, ConnectionError):
                sock.recv(1)
        await asyncio.sleep(1)
    closed(sockets)


async def half_closes(process: Process, worker: Worker) -> None:
    sockets = await opened(process, get(), 50)
    await asyncio.sleep(0.3)
    for sock in sockets:
        sock.shutdown(socket.SHUT_WR)
    await asyncio.sleep(1)
    closed(sockets)


async def come_in_a_crowd_and_leave(process: Process, worker: Worker) -> None:
    for _ in range(2):
        sockets = await opened(process, get(), CROWD)
        await asyncio.sleep(0.5)
        closed(sockets)


async def never_end_their_request_line(process: Process, worker: Worker) -> None:
    sockets = await opened(process, "GET /api/pro", 200)
    for _ in range(10):
        for sock in sockets:
            with suppress(ConnectionError, BlockingIOError):
                sock.send(b"x")
        await asyncio.sleep(0.1)
    closed(sockets)


async def pipeline(process: Process, worker: Worker) -> None:
    got = await answer(process, get("/api/operations/nobody") * 20 + get() * 3, timeout=1)
    assert got.count(b"HTTP/1.1 404") == 20
    assert got.count(b"text/event-stream") == 1, "a stream is the last answer on its connection"


async def send_huge_headers(process: Process, worker: Worker) -> None:
    for size in (9_000, 100_000, 1_000_000):
        got = await answer(process, get(STREAM, "1.1", "X-Huge: " + "x" * size))
        assert refused(got)
    many = [f"X-{number}: y" for number in range(20_000)]
    assert refused(await answer(process, get(STREAM, "1.1", *many), timeout=1))


async def send_huge_urls(process: Process, worker: Worker) -> None:
    for path in ("/api/projects/" + "x" * 1_000_000 + "/stream", STREAM + "?projectId=" + "x" * 1_000_000):
        got = await answer(process, get(path))
        assert refused(got)


async def send_what_is_not_http(process: Process, worker: Worker) -> None:
    for junk in (
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        "\0" * 5000,
        "GET\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        *(["GET / HTTP/9\r\n\r\n"] * 20),
    ):
        assert refused(await answer(process, junk, timeout=1))


async def speak_http_1_0(process: Process, worker: Worker) -> None:
    [sock] = await opened(process, get(STREAM, "1.0"))
    await asyncio.sleep(0.3)
    head = sock.recv(65536)
    assert head.startswith(b"HTTP/1.0 200")
    assert b"chunked" not in head.lower()
    sock.close()


async def say_connection_close(process: Process, worker: Worker) -> None:
    got = await answer(process, get("/api/operations/nobody", "1.1", "Connection: close"))
    assert got.startswith(b"HTTP/1.1 404")


async def send_bodies(process: Process, worker: Worker) -> None:
    body = "Content-Length: 1000000"
    sockets = await opened(process, get(STREAM, "1.1", body) + "x" * 1000, 20)
    await asyncio.sleep(1)
    closed(sockets)


HOSTILE: list[Callable[[Process, Worker], Awaitable[None]]] = [
    never_reads,
    reads_a_byte_a_second,
    half_closes,
    come_in_a_crowd_and_leave,
    never_end_their_request_line,
    pipeline,
    send_huge_headers,
    send_huge_urls,
    send_what_is_not_http,
    speak_http_1_0,
    say_connection_close,
    send_bodies,
]


@asynccontextmanager
async def bystander(process: Process, worker: Worker) -> AsyncIterator[Stream]:
    """Somebody who listens to another project meanwhile; at the end it still does, at once."""
    async with (
        aiohttp.ClientSession() as session,
        connect(session, process.url + "/api/projects/other/stream") as stream,
    ):
        yield stream
        began = time.monotonic()
        id = await worker.publish("started", "op-other", project="other")
        assert (await stream.until_id(id))[-1].last_event_id == id
        assert time.monotonic() - began < 1


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_they_leave_nothing_behind(
    worker: Worker,
    shared_redis: RedisServer,
    launch: Launch,
    hostile: Callable[[Process, Worker], Awaitable[None]],
) -> None:
    process = await asyncio.to_thread(launch, SSE_REDIS_URL=shared_redis.url, SSE_STREAM=worker.key, **SETTINGS)
    closed(await opened(process, get(), 200))  # what a process allocates once
    async with bystander(process, worker):
        await asyncio.sleep(0.5)
        before, held = files(process), memory(process)
        await hostile(process, worker)
        async with asyncio.timeout(10):
            while files(process) > before + 1:
                await asyncio.sleep(0.05)
        used = cpu_s(process)
        await asyncio.sleep(0.5)
        assert cpu_s(process) - used < 0.25, "it is busy with clients that are gone"
    print(
        f"\n{hostile.__name__:30} files {before} -> {files(process)}  memory {(memory(process) - held) / 1024:+.0f} KiB"
    )
    # The history holds what was published; the allocator keeps what one crowd needed for the next one.
    assert memory(process) - held < max(24 * 1024 * 1024, CROWD * 3 * 1024)
    assert 'sse_gateway_connections{scope="project"} 0.0' in await asyncio.to_thread(process.metrics)
    status, log = await asyncio.to_thread(process.stop)
    assert status == 0
    assert "Traceback" not in log
    assert log.count("malformed HTTP request refused") <= 5


async def test_descriptors_run_out_and_come_back(worker: Worker, shared_redis: RedisServer, launch: Launch) -> None:
    limit = 200
    process = await asyncio.to_thread(launch, SSE_REDIS_URL=shared_redis.url, SSE_STREAM=worker.key, **SETTINGS)
    subprocess.run(["prlimit", f"--nofile={limit}:{limit}", "--pid", str(process.popen.pid)], check=True)
    async with bystander(process, worker):
        sockets = await opened(process, get(), 3 * limit)
        await asyncio.sleep(1.5)
        used = cpu_s(process)
        await asyncio.sleep(1)
        assert cpu_s(process) - used < 0.3, "a busy loop"
        closed(sockets)
        await asyncio.sleep(0.5)
        assert (await answer(process, get(), timeout=0.5)).startswith(b"HTTP/1.1 200")
        assert f"\nprocess_max_fds {limit}.0\n" in await asyncio.to_thread(process.metrics)
    _, log = await asyncio.to_thread(process.stop)
    said = [line["message"] for line in map(json.loads, log.splitlines()) if line["level"] == "warning"]
    assert any("connections that wait are closed for new ones" in message for message in said)
    assert len(said) <= 6


async def test_streams_never_take_the_last_descriptors(
    worker: Worker, shared_redis: RedisServer, launch: Launch
) -> None:
    limit = ("prlimit", "--nofile=200:200")
    process = await asyncio.to_thread(launch, *limit, SSE_REDIS_URL=shared_redis.url, SSE_STREAM=worker.key, **SETTINGS)
    sockets = await opened(process, get(), 136)
    try:
        got = await answer(process, get(), timeout=1)
        assert got.startswith(b"HTTP/1.1 503")
        assert 'sse_gateway_requests_rejected_total{status="503"} 1.0' in await asyncio.to_thread(process.metrics)
    finally:
        closed(sockets)
    _, log = await asyncio.to_thread(process.stop)
    assert "only 200 file descriptors are allowed, so 136 streams" in log


@contextmanager
def namespace() -> Iterator[tuple[str, str]]:
    """A network namespace behind a cable of its own: its name, and the address of this side of the cable."""
    name = f"sse-{os.getpid()}"
    here, there = f"v{os.getpid()}a", f"v{os.getpid()}b"
    commands = (
        f"netns add {name}",
        f"link add {here} type veth peer name {there} netns {name}",
        f"addr add 10.213.7.1/30 dev {here}",
        f"link set {here} up",
        f"-n {name} addr add 10.213.7.2/30 dev {there}",
        f"-n {name} link set {there} up",
    )
    try:
        for command in commands:
            done = subprocess.run(["ip", *command.split()], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"no network namespaces here, they need root and iproute2: {done.stderr}")
        yield name, "10.213.7.1"
    finally:
        subprocess.run(["ip", "link", "del", here], capture_output=True)  # at once; with the namespace it is later
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.parametrize("events", [0, 50])
@pytest.mark.skipif(shutil.which("ip") is None, reason="no iproute2")
async def test_one_that_vanishes_without_a_fin_is_noticed(
    events: int, worker: Worker, shared_redis: RedisServer, launch: Launch
) -> None:
    listen = {"SSE_LISTEN": "0.0.0.0:0", "SSE_REDIS_URL": shared_redis.url, "SSE_STREAM": worker.key}
    process = await asyncio.to_thread(launch, **(SETTINGS | listen))
    with namespace() as (name, address):
        url = f"http://{address}:{process.port}{STREAM}"
        command = ["ip", "netns", "exec", name, "curl", "-sN", "-m", "60", url]
        curl = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        assert curl.stdout is not None
        try:
            async with asyncio.timeout(5):
                assert (await curl.stdout.readline()).startswith(b"retry:")
            before = files(process)
            subprocess.run(["ip", "-n", name, "link", "set", f"v{os.getpid()}b", "down"], check=True)
            async with asyncio.timeout(10):
                while files(process) >= before:
                    for _ in range(events):
                        await worker.publish("progress")
                    await asyncio.sleep(0.1)
        finally:
            curl.kill()
            await curl.wait()
    assert 'sse_gateway_connections_closed_total{reason="slow"} 1.0' in await asyncio.to_thread(process.metrics)


async def test_a_request_that_never_ends_is_cut(start: Start, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.door.KEEPALIVE", 1.0)
    gateway = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    began = time.monotonic()
    with suppress(ConnectionError):
        while not reader.at_eof() and time.monotonic() < began + 10:
            writer.write(b"G")
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await reader.read(1)
    writer.close()
    assert time.monotonic() - began < 5
