"""Every form of SSE_REDIS_URL, against servers of that form: unix socket, password, TLS, Sentinel, Cluster."""

import asyncio
import json
import random
import shutil
import signal
import subprocess
import tempfile
import time
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


READ = ("-@all", "+xread", "+xrange", "+xinfo|stream")
"""The README's rights."""
MORE = {"database": ("+select",), "cluster": ("+cluster|nodes", "+cluster|keyslot", "+asking")}
SENTINEL = ("-@all", "+sentinel|master")


def test_the_documented_rights_are_those_that_are_tested() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    for rights in (READ, *MORE.values(), SENTINEL[1:]):
        assert " ".join(rights) in readme


async def permit(worker: Worker, *rights: str, key: str = KEY) -> None:
    await worker.redis.execute_command("ACL", "SETUSER", "gateway", "on", ">pw", f"~{key}", *rights)


async def test_a_database_other_than_0_under_the_documented_rights(session: aiohttp.ClientSession) -> None:
    server = RedisServer().start()
    try:
        async with working(f"{server.url[:-1]}3") as worker:
            await permit(worker, *READ, *MORE["database"])
            await follows(session, f"redis://gateway:pw@127.0.0.1:{server.port}/3", worker)
            assert await worker.redis.execute_command("ACL", "LOG") == []
    finally:
        server.stop()


async def test_sentinels_under_the_documented_rights(session: aiohttp.ClientSession) -> None:
    with sentinel() as watched:
        for port in watched.ports:
            async with working(f"redis://127.0.0.1:{port}/0") as asked:
                await asked.redis.execute_command("ACL", "SETUSER", "asker", "on", ">pw2", *SENTINEL)
        async with working(watched.master.url) as worker:
            await permit(worker, *READ)
            url = watched.url.replace("://", "://gateway:pw@") + "?sentinel_username=asker&sentinel_password=pw2"
            await follows(session, url, worker)
            assert await worker.redis.execute_command("ACL", "LOG") == []


async def test_a_master_that_the_sentinels_have_given_up_is_left_though_it_answers(
    session: aiohttp.ClientSession,
) -> None:
    """The old master is cut off from the sentinels, not from the gateway: it answers for ever, with nothing new."""
    with sentinel() as watched:
        async with working(watched.master.url) as old, working(watched.replica.url) as new:
            for each in (old, new):
                await permit(each, *READ)
            url = watched.url.replace("://", "://gateway:pw@")
            async with running(session, SSE_REDIS_URL=url) as gateway:
                async with asyncio.timeout(20):
                    await gateway.server.ready()
                await asyncio.to_thread(watched.wait_until_agreed)
                async with gateway.stream("/api/projects/stream") as stream:
                    before = await old.publish("started", "before")
                    await stream.until_id(before)
                    assert await old.redis.execute_command("WAIT", 1, 5000) == 1
                    await asyncio.to_thread(watched.cut_master_off)
                    await asyncio.to_thread(watched.wait_until_promoted)
                    promoted = time.monotonic()
                    await new.redis.connection_pool.disconnect()  # a promotion closes what was open
                    ids = [await new.publish("started", f"op-{number}") for number in range(20)]
                    seen = await stream.until_id(ids[-1], timeout=20)
                    assert [message.last_event_id for message in seen] == ids
                    assert time.monotonic() - promoted < 10


async def test_a_frozen_sentinel_costs_a_second_and_not_a_minute(session: aiohttp.ClientSession) -> None:
    with sentinel() as watched:
        watched.sentinels[0].send_signal(signal.SIGSTOP)
        async with working(watched.master.url) as worker:
            began = time.monotonic()
            await follows(session, watched.url, worker)
            assert time.monotonic() - began < 6


async def test_a_slot_that_is_being_moved_is_followed(session: aiohttp.ClientSession) -> None:
    """While it is in ASK state, for as long as that takes."""
    with cluster(KEY) as made:
        async with working(made.servers[made.owner].url) as worker:
            await worker.publish("started", "before")
            async with running(session, SSE_REDIS_URL=made.url) as gateway:
                async with asyncio.timeout(15):
                    await gateway.server.ready()
                async with gateway.stream("/api/projects/stream") as stream:
                    await stream.next()
                    to = (made.owner + 1) % 3
                    await asyncio.to_thread(made.begin_to_migrate, KEY, to)
                    began = time.monotonic()
                    data = {"operationId": "moved", "projectId": "p-1", "direction": "to_github"}
                    client = made.clients[to]
                    pipe = client.pipeline(transaction=False)
                    pipe.execute_command("ASKING")
                    pipe.xadd(KEY, {"type": "github_sync_started", "data": json.dumps(data)})
                    _, id = await asyncio.to_thread(pipe.execute)
                    assert (await stream.next()).last_event_id == id
                    assert time.monotonic() - began < 4
                    await asyncio.to_thread(made.end_to_migrate, to)
                    async with working(made.servers[to].url) as there:
                        id = await there.publish("completed", "moved")
                        assert (await stream.next(10)).last_event_id == id
                    assert await stream.quiet(2.5)


async def test_a_cluster_under_the_documented_rights(session: aiohttp.ClientSession) -> None:
    with cluster(KEY) as made:
        for client in made.clients:
            client.execute_command("ACL", "SETUSER", "gateway", "on", ">pw", f"~{KEY}", *READ, *MORE["cluster"])
        async with working(made.servers[made.owner].url) as worker:
            await follows(session, made.url.replace("://", "://gateway:pw@"), worker)
        for client in made.clients:
            assert client.execute_command("ACL", "LOG") == []


async def test_a_password_that_rotates_needs_no_restart_and_costs_no_event(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    server = RedisServer().start()
    file = tmp_path / "password"
    file.write_text("pw\n")
    try:
        async with working(server.url) as worker:
            await permit(worker, *READ)
            url = f"redis://gateway:stale@127.0.0.1:{server.port}/0"
            async with running(session, SSE_REDIS_URL=url, SSE_REDIS_PASSWORD_FILE=str(file)) as gateway:
                await gateway.server.ready()
                async with gateway.stream("/api/projects/stream") as stream:
                    ids = [await worker.publish("started", "op-1")]
                    await worker.redis.execute_command("ACL", "SETUSER", "gateway", "resetpass", ">rotated")
                    await worker.redis.execute_command("CLIENT", "KILL", "USER", "gateway")
                    ids += [await worker.publish("started", f"op-{number}") for number in range(2, 10)]
                    await asyncio.sleep(0.3)  # it fails with the old one
                    file.write_text("rotated")
                    assert [message.last_event_id for message in await stream.until_id(ids[-1], timeout=10)] == ids
    finally:
        server.stop()


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
        "redis+sentinel://h:1/MASTER/2?health_check_interval=10&socket_keepalive=yes&ssl=true&ssl_check_hostname=false",
        "redis+cluster://h:1/?health_check_interval=10&socket_keepalive=yes&ssl=true&ssl_check_hostname=false",
    ],
)
def test_every_option_that_is_known_is_taken_for_what_it_is(url: str) -> None:
    source = Source(url, "stream")
    options = source._shared if source._nodes else source._options()
    for name, value in {"health_check_interval": 10, "socket_keepalive": True, "ssl_check_hostname": False}.items():
        assert name not in options or (options[name] == value and type(options[name]) is type(value))
