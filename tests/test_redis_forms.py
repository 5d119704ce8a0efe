"""Every form of SSE_REDIS_URL, against servers of that form: unix socket, password, TLS, Sentinel, Cluster."""

import asyncio
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
import redis

from tests.conftest import Worker, running, working
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
async def test_tls_with_a_private_ca(session: aiohttp.ClientSession, tmp_path: Path) -> None:
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
    server = RedisServer(*options, "--tls-ca-cert-file", str(tmp_path / "crt"), "--tls-auth-clients", "no").start()
    try:
        async with working(server.url) as worker:
            await follows(session, f"rediss://localhost:{port}/0?ssl_ca_certs={tmp_path}/crt", worker)
    finally:
        server.stop()


@pytest.fixture
def sentinel() -> Iterator[tuple[RedisServer, RedisServer, list[int]]]:
    """A master, its replica, and three sentinels that watch them; the ports of the sentinels."""
    master = RedisServer().start()
    replica = RedisServer("--replicaof", "127.0.0.1", str(master.port)).start()
    folder = Path(tempfile.mkdtemp(prefix="sse-sentinel-"))
    ports, processes = [free_port() for _ in range(3)], []
    for port in ports:
        conf = folder / f"{port}.conf"
        conf.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor main 127.0.0.1 {master.port} 2\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
        )
        processes.append(subprocess.Popen([binary(), str(conf), "--sentinel"], stdout=subprocess.DEVNULL))
    yield master, replica, ports
    for process in processes:
        process.kill()
        process.wait()
    master.stop()
    replica.stop()
    shutil.rmtree(folder, ignore_errors=True)


async def test_sentinel_and_its_failover(
    session: aiohttp.ClientSession, sentinel: tuple[RedisServer, RedisServer, list[int]]
) -> None:
    master, replica, ports = sentinel
    hosts = ",".join(f"127.0.0.1:{port}" for port in (free_port(), *ports))  # the first is down
    url = f"redis+sentinel://{hosts}/main/0"
    async with working(master.url) as worker, running(session, SSE_REDIS_URL=url) as gateway:
        async with asyncio.timeout(20):
            await gateway.server.ready()
        async with gateway.stream("/api/projects/stream") as stream:
            ids = [await worker.publish("started", f"op-{number}") for number in range(20)]
            seen = await stream.until_id(ids[-1])
            assert await worker.redis.execute_command("WAIT", 1, 5000) == 1
            watched = redis.Redis(port=ports[0], decode_responses=True)
            async with asyncio.timeout(20):
                while (
                    watched.sentinel_master("main")["num-slaves"] < 1
                    or watched.sentinel_master("main")["num-other-sentinels"] < 2
                ):
                    await asyncio.sleep(0.1)
            watched.close()
            master.kill()
            async with working(replica.url) as promoted:
                async with asyncio.timeout(30):
                    while not await is_master(promoted):
                        await asyncio.sleep(0.1)
                ids += [await promoted.publish("started", f"new-{number}") for number in range(20)]
                seen += await stream.until_id(ids[-1], timeout=30)
            assert [message.last_event_id for message in seen] == ids


async def is_master(worker: Worker) -> bool:
    try:
        return (await worker.redis.info("replication"))["role"] == "master"
    except redis.ConnectionError:  # a replica that is promoted closes its clients' connections
        return False


async def test_cluster(session: aiohttp.ClientSession) -> None:
    # The cluster's own port is 10,000 higher, and has to be one.
    ports = itertools.islice((port for port in iter(free_port, 0) if port < 50_000), 3)
    options = ("--cluster-enabled", "yes", "--cluster-config-file", "nodes")
    servers = [RedisServer(*options, port=port).start() for port in ports]
    try:
        clients = [redis.Redis(port=server.port, decode_responses=True) for server in servers]
        for number, client in enumerate(clients):
            start, end = number * 5462, min(16384, (number + 1) * 5462)
            client.execute_command("CLUSTER", "ADDSLOTS", *range(start, end))
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", servers[0].port)
        slot = clients[0].execute_command("CLUSTER", "KEYSLOT", KEY)
        owner = servers[slot // 5462]
        async with asyncio.timeout(20):
            while any("cluster_state:ok" not in client.execute_command("CLUSTER", "INFO") for client in clients):
                await asyncio.sleep(0.1)
        for client in clients:
            client.close()
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
        async with working(owner.url) as worker:
            await follows(session, f"redis+cluster://{hosts}", worker)
    finally:
        for server in servers:
            server.stop()
