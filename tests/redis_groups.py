"""Real servers that belong together: a master watched by sentinels, and a cluster."""

import asyncio
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.proxy import Proxy, proxied
from tests.redis_server import RedisServer, binary, free_port

SLOTS = 16384


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Until it holds; what Redis raises while it changes its mind counts as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except redis.RedisError:
            pass
        assert time.monotonic() < deadline, "the servers did not come together"
        time.sleep(0.05)


@dataclass
class Watched:
    """A master, its replicas, and the ports of three sentinels that watch them under the name `main`."""

    master: RedisServer
    replicas: list[RedisServer]
    ports: list[int]
    sentinels: list["subprocess.Popen[bytes]"]

    @property
    def replica(self) -> RedisServer:
        return self.replicas[0]

    @property
    def nodes(self) -> list[RedisServer]:
        return [self.master, *self.replicas]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in (free_port(), *self.ports))  # the first is down
        return f"redis+sentinel://{hosts}/main/0"

    def cut_master_off(self) -> None:
        """From the sentinels and its replica, not from who has a user of its own: they may not ask it any more."""
        with redis.Redis(port=self.master.port) as client:
            client.execute_command("ACL", "SETUSER", "default", "resetpass", ">only the operator knows")
            client.execute_command("CLIENT", "KILL", "SKIPME", "yes", "TYPE", "normal")
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    def wait_until_agreed(self) -> None:
        """Until the sentinels know each other and the replica: only then can they fail over."""
        with redis.Redis(port=self.ports[0], decode_responses=True) as client:

            def agreed() -> bool:
                state = client.sentinel_master("main")
                return bool(state["num-slaves"] >= 1 and state["num-other-sentinels"] >= 2)

            wait_for(agreed)

    def wait_until_promoted(self) -> None:
        with redis.Redis(port=self.replica.port, decode_responses=True) as client:
            wait_for(lambda: client.info("replication")["role"] == "master")


@contextmanager
def sentinel(*options: str, replicas: int = 1) -> Iterator[Watched]:
    master = RedisServer(*options).start()
    followers = [RedisServer(*options, "--replicaof", "127.0.0.1", str(master.port)).start() for _ in range(replicas)]
    folder = Path(tempfile.mkdtemp(prefix="sse-sentinel-"))
    ports, processes = [free_port() for _ in range(3)], []
    for port in ports:
        conf = folder / f"{port}.conf"
        conf.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor main 127.0.0.1 {master.port} 2\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
        )
        processes.append(subprocess.Popen([binary(), str(conf), "--sentinel"], stdout=subprocess.DEVNULL))
    try:
        for port in ports:
            with redis.Redis(port=port) as client:
                wait_for(client.ping)
        yield Watched(master, followers, ports, processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for server in (master, *followers):
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Cluster:
    """Three masters, and after them one replica of the first that owns `key`, where it was asked for."""

    servers: list[RedisServer]
    clients: list["redis.Redis[str]"]
    slot: int
    owner: int
    """The index of the server that held the key at first."""

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:3])

    def id(self, number: int) -> str:
        return str(self.clients[number].execute_command("CLUSTER", "MYID"))

    def migrate(self, key: str, to: int) -> None:
        """Moves the key's slot from its owner to another master, as `redis-cli --cluster reshard` does."""
        self.begin_to_migrate(key, to)
        self.end_to_migrate(to)

    def begin_to_migrate(self, key: str, to: int) -> None:
        """The key is there, the slot not yet: its owner sends on who asks for it."""
        source, target, port = self.clients[self.owner], self.clients[to], self.servers[to].port
        target.execute_command("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self.id(self.owner))
        source.execute_command("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self.id(to))
        source.execute_command("MIGRATE", "127.0.0.1", port, key, 0, 5000)

    def end_to_migrate(self, to: int) -> None:
        for client in (self.clients[to], self.clients[self.owner]):
            client.execute_command("CLUSTER", "SETSLOT", self.slot, "NODE", self.id(to))


@contextmanager
def cluster(key: str, *, replica: bool = False) -> Iterator[Cluster]:
    options = ("--cluster-enabled", "yes", "--cluster-config-file", "nodes", "--cluster-node-timeout", "2000")
    servers = [RedisServer(*options) for _ in range(3 + replica)]
    clients = [redis.Redis(port=server.port, decode_responses=True) for server in servers]
    try:
        for server in servers:
            server.start()
        for number, client in enumerate(clients):
            start, end = number * 5462, min(SLOTS, (number + 1) * 5462)
            if number < 3:
                client.execute_command("CLUSTER", "ADDSLOTS", *range(start, end))
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", servers[0].port)
        slot = int(clients[0].execute_command("CLUSTER", "KEYSLOT", key))
        made = Cluster(servers, clients, slot, slot // 5462)
        wait_for(
            lambda: all("cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO")) for client in clients)
        )
        if replica:
            wait_for(lambda: bool(clients[3].execute_command("CLUSTER", "REPLICATE", made.id(made.owner))))
            wait_for(lambda: clients[3].info("replication")["master_link_status"] == "up")
            wait_for(lambda: len(clients[0].execute_command("CLUSTER", "REPLICAS", made.id(made.owner))) == 1)
        yield made
    finally:
        for client in clients:
            client.close()
        for server in servers:
            server.stop()


@asynccontextmanager
async def lossy_cluster() -> AsyncIterator[tuple[RedisServer, Proxy]]:
    """A cluster of one node, which names the proxy before it as its address: nobody finds a way around."""
    server = RedisServer("--cluster-enabled", "yes", "--cluster-config-file", "nodes")
    async with proxied(server.port) as proxy:
        announced = ("--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", str(proxy.port))
        server.options = (*server.options, *announced)
        server.start()
        client = redis.Redis(port=server.port)
        try:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(SLOTS))
            await asyncio.to_thread(
                wait_for, lambda: "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO"))
            )
            yield server, proxy
        finally:
            client.close()
            server.stop()
