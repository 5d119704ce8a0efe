"""Every form of SSE_REDIS_URL, against servers of that form: unix socket, password, TLS, Sentinel, Cluster."""

import asyncio
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import aiohttp
import pytest

from gateway.config import ConfigError
from gateway.history import History
from gateway.hub import Hub
from gateway.metrics import Metrics
from gateway.reader import Reader
from gateway.source import Source
from tests.conftest import Worker, running, working
from tests.redis_groups import cluster, sentinel
from tests.redis_server import RedisServer, binary, free_port

KEY = "github:sync:events"


async def follows(session: aiohttp.ClientSession, url: str, worker: Worker, **settings: str) -> None:
    """A gateway on `url` loads what the worker wrote and follows it."""
    before = await worker.publish("started", "before")
    async with running(session, SSE_REDIS_URL=url, **settings) as gateway:
        async with asyncio.timeout(15):
            await gateway.server.ready()
        async with gateway.stream("/api/projects/stream") as stream:
            assert (await stream.next()).last_event_id == before
            after = await worker.publish("started", "after")
            assert (await stream.next()).last_event_id == after


async def test_unix_socket(session: aiohttp.ClientSession) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer("--unixsocket", f"{folder}/redis.sock").start()
        try:
            async with working(server.url) as worker:
                await follows(session, f"unix://{folder}/redis.sock", worker)
        finally:
            server.stop()


async def test_password_and_database(session: aiohttp.ClientSession) -> None:
    server = RedisServer("--requirepass", "p@ss/word").start()
    url = f"redis://:p%40ss%2Fword@127.0.0.1:{server.port}/3"
    try:
        async with working(url) as worker:
            await follows(session, url, worker)
    finally:
        server.stop()


def _has_tls() -> bool:
    done = subprocess.run([binary(), "--tls-port", "0", "--port", "0", "--version"], capture_output=True)
    help = subprocess.run(["strings", binary()], capture_output=True) if shutil.which("strings") else done
    return b"tls-cert-file" in help.stdout and b"SSL_CTX_new" in help.stdout


@pytest.mark.skipif(not _has_tls(), reason="this redis-server was built without TLS")
@pytest.mark.parametrize("clients", ["no", "yes"])
async def test_tls_with_a_private_ca_and_a_client_certificate(
    session: aiohttp.ClientSession, tmp_path: Path, clients: str
) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "crt"), "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, *files], check=True, capture_output=True)
    port = free_port()
    options = [
        "--tls-port",
        str(port),
        "--tls-cert-file",
        str(tmp_path / "crt"),
        "--tls-key-file",
        str(tmp_path / "key"),
    ]
    server = RedisServer(*options, "--tls-ca-cert-file", str(tmp_path / "crt"), "--tls-auth-clients", clients).start()
    url = f"rediss://localhost:{port}/0?ssl_ca_certs={tmp_path}/crt"
    if clients == "yes":
        url += f"&ssl_certfile={tmp_path}/crt&ssl_keyfile={tmp_path}/key"
    try:
        async with working(server.url) as worker:
            await follows(session, url, worker)
    finally:
        server.stop()


async def test_sentinel_and_its_failover(session: aiohttp.ClientSession) -> None:
    with sentinel() as watched:
        async with working(watched.master.url) as worker, running(session, SSE_REDIS_URL=watched.url) as gateway:
            async with asyncio.timeout(20):
                await gateway.server.ready()
            async with gateway.stream("/api/projects/stream") as stream:
                ids = [await worker.publish("started", f"op-{number}") for number in range(20)]
                seen = await stream.until_id(ids[-1])
                assert await worker.redis.execute_command("WAIT", 1, 5000) == 1
                await asyncio.to_thread(watched.wait_until_agreed)
                watched.master.kill()
                await asyncio.to_thread(watched.wait_until_promoted)
                async with working(watched.replica.url) as promoted:
                    ids += [await promoted.publish("started", f"new-{number}") for number in range(20)]
                    seen += await stream.until_id(ids[-1], timeout=30)
                assert [message.last_event_id for message in seen] == ids


async def test_cluster(session: aiohttp.ClientSession) -> None:
    with cluster(KEY) as made:
        async with working(made.servers[made.owner].url) as worker:
            await follows(session, made.url, worker)


async def test_the_reader_ends_when_it_is_cancelled_however_busy(shared_redis: RedisServer) -> None:
    """asyncio.wait_for, with which redis-py bounds its sending, loses cancellations before Python 3.12."""
    async with working(shared_redis.url, "busy") as worker:
        enough = asyncio.Event()

        async def publish() -> None:
            while not enough.is_set():  # a cancellation might be lost here just so
                await worker.publish("started")
                await asyncio.sleep(0.001)

        publishing = asyncio.create_task(publish())
        for _ in range(100):
            metrics = Metrics()
            hub = Hub(History(1000, 1 << 20, 60), metrics)
            reader = Reader(Source(shared_redis.url, "busy"), "busy", hub, metrics)
            running = asyncio.create_task(reader.run())
            await reader.ready.wait()
            await asyncio.sleep(random.uniform(0, 0.01))
            running.cancel()
            done, _ = await asyncio.wait([running], timeout=0.5)
            assert done, "it goes on reading"
        enough.set()
        await publishing


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1/0?db=x",
        "redis://127.0.0.1/0?no_such_option=1",
        "rediss://127.0.0.1?ssl_cert_reqs=bogus",
        "unix:///tmp/redis.sock?no_such_option=1",
        "redis+sentinel://h:port/MASTER",
        "redis+sentinel://h:1/MASTER/x",
        "redis+cluster://h:1,i:2?no_such_option=1",
    ],
)
def test_an_option_that_no_connection_takes_stops_the_start(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Source(url.replace("://", "://user:secret@", 1), "stream")
    assert str(raised.value).startswith("SSE_REDIS_URL='")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:secret@127.0.0.1:6379/3?socket_keepalive=yes",
        "rediss://h?ssl_ca_certs=/etc/ca.pem&ssl_certfile=/etc/crt.pem&ssl_keyfile=/etc/key.pem",
        "unix:///tmp/redis.sock?db=2",
        "redis+sentinel://user:secret@h,i:2/MASTER/1?sentinel_username=u&sentinel_password=p&ssl=true&ssl_ca_certs=/ca",
        "redis+cluster://user:secret@h:1,i:2/?ssl=true&ssl_ca_certs=/etc/ca.pem",
    ],
)
def test_every_option_that_is_known_is_taken(url: str) -> None:
    Source(url, "stream")
