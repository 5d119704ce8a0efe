"""Redis breaks, in every way that was thought of, under load: what listeners saw equals the stream, or they were told.

Each fault is a few lines against real servers; the table of what came of it is printed with `pytest -s`.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import redis.asyncio

from tests.e2e.conftest import Launch
from tests.e2e.follower import Follower, Publisher, compare, tasks
from tests.e2e.process import Process
from tests.proxy import Mode, Proxy, proxied
from tests.redis_server import RedisServer, binary, version

KEY = "github:sync:events"
FOLLOWERS = 10
AWAY = float(os.environ.get("AWAY", "1.5"))
"""Seconds that Redis is away; the reader's own patience is 4 s."""
FROZEN = max(AWAY, 6.0)


@dataclass
class World:
    server: RedisServer
    proxy: Proxy
    publisher: Publisher
    process: Process
    launch_redis: Callable[..., RedisServer]
    operator: "redis.asyncio.Redis[str]"
    trimmed: list[str] = field(default_factory=list)

    async def say(self, *words: str | int) -> object:
        """A command to Redis past the proxy, on a connection of its own that is open before new ones are refused."""
        return await self.operator.execute_command(*words)

    async def restart(self) -> None:
        await asyncio.to_thread(self.server.kill)
        await asyncio.sleep(AWAY)
        await asyncio.to_thread(self.server.start)

    async def cut_off(self) -> None:
        """Drops the gateway's connection; the next one is a new one."""
        self.proxy.cut("down")
        self.proxy.cut("up")


Fault = Callable[[World], Awaitable[None]]
COUNTS = version(binary()) >= (7, 0)
"""Whether Redis tells what was added and deleted."""
FAULTS: dict[str, tuple[Fault, str]] = {}
"""By name: the fault, and the gap that listeners have to be told of, if any."""


def fault(name: str, *, gap: str = "") -> Callable[[Fault], Fault]:
    def add(function: Fault) -> Fault:
        FAULTS[name] = function, gap
        return function

    return add


@fault("SIGKILL, back with its data")
async def _killed_with_data(world: World) -> None:
    for option, value in (("appendonly", "yes"), ("appendfsync", "always")):
        await world.say("CONFIG", "SET", option, value)
    async with asyncio.timeout(10):
        while (await world.publisher.client.info("persistence"))["aof_rewrite_in_progress"]:
            await asyncio.sleep(0.05)
    world.server.options = (*world.server.options, "--appendonly", "yes", "--appendfsync", "always")
    await world.restart()


@fault("SIGKILL, back empty", gap="reset")
async def _killed_without_data(world: World) -> None:
    await world.restart()


@fault("SIGSTOP")
async def _stopped(world: World) -> None:
    world.server.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(FROZEN)
    world.server.process.send_signal(signal.SIGCONT)


def network(mode: Mode) -> Fault:
    async def strike(world: World) -> None:
        world.proxy.cut(mode)
        await asyncio.sleep(AWAY)
        world.proxy.cut("up")

    return strike


fault("network cut")(network("down"))
fault("network that swallows replies")(network("mute"))
fault("network that closes mid-reply")(network("half"))
fault("network that delays")(network("slow"))


@fault("FLUSHALL", gap="reset")
async def _flushed(world: World) -> None:
    await world.say("FLUSHALL")


@fault("DEL", gap="reset")
async def _deleted(world: World) -> None:
    await world.say("DEL", KEY)


@fault("FLUSHALL while the gateway is cut off", gap="reset")
async def _flushed_unseen(world: World) -> None:
    world.proxy.cut("down")
    await world.say("FLUSHALL")
    await asyncio.sleep(0.5)
    world.proxy.cut("up")


@fault("XTRIM behind the cursor")
async def _trimmed(world: World) -> None:
    await _trim(world, 5)


@fault("XTRIM of everything that was read", gap="" if COUNTS else "reset")
async def _trimmed_to_nothing(world: World) -> None:
    await _trim(world, 0)


async def _trim(world: World, keep: int) -> None:
    world.publisher.paused = True
    await asyncio.sleep(0.2)
    world.trimmed = await world.publisher.held()
    await world.say("XTRIM", KEY, "MAXLEN", keep)
    world.publisher.paused = False
    await world.publisher.publish_now(3)  # before the gateway looks


@fault("XTRIM past the cursor", gap="trimmed" if COUNTS else "reset")
async def _trimmed_past(world: World) -> None:
    world.proxy.cut("down")
    await asyncio.sleep(0.5)
    world.trimmed = await world.publisher.held()
    await world.say("XTRIM", KEY, "MAXLEN", 5)
    world.proxy.cut("up")


@fault("XSETID forward")
async def _set_id(world: World) -> None:
    await world.say("XSETID", KEY, f"{int(time.time() * 1000) + 60_000}-7")


@fault("ids that go backwards", gap="reset")
async def _backwards(world: World) -> None:
    world.publisher.paused = True
    await asyncio.sleep(0.1)
    await world.say("DEL", KEY)
    await world.publisher.publish("5-1")
    world.publisher.paused = False


@fault("another type at the key", gap="reset")
async def _wrong_type(world: World) -> None:
    await world.say("DEL", KEY)
    await world.say("SET", KEY, "a string")
    await asyncio.sleep(AWAY)
    await world.say("DEL", KEY)


@fault("OOM")
async def _out_of_memory(world: World) -> None:
    await world.say("CONFIG", "SET", "maxmemory", "1")
    await asyncio.sleep(AWAY)
    await world.say("CONFIG", "SET", "maxmemory", "0")


@fault("LOADING")
async def _loading(world: World) -> None:
    world.publisher.paused = True
    await asyncio.sleep(0.1)
    await world.say("DEBUG", "POPULATE", 4000)
    await world.say("SAVE")
    slowly = ("--key-load-delay", "500", "--loading-process-events-interval-bytes", "1024")
    world.server.options = (*world.server.options, *slowly)
    await world.restart()
    async with asyncio.timeout(20):
        while True:
            try:
                await world.say("XLEN", KEY)
                break
            except redis.ConnectionError:  # BusyLoadingError is one
                await asyncio.sleep(0.05)
    world.publisher.paused = False


@fault("READONLY")
async def _read_only(world: World) -> None:
    await world.say("CONFIG", "SET", "min-replicas-to-write", "1")
    await asyncio.sleep(AWAY)
    await world.say("CONFIG", "SET", "min-replicas-to-write", "0")


@fault("NOAUTH")
async def _no_auth(world: World) -> None:
    await world.say("CONFIG", "SET", "requirepass", "secret")
    await world.cut_off()
    await asyncio.sleep(AWAY)
    await world.say("CONFIG", "SET", "requirepass", "")


@fault("NOPERM")
async def _no_permission(world: World) -> None:
    await world.say("ACL", "SETUSER", "default", "-xread", "-xrange")
    await asyncio.sleep(AWAY)
    await world.say("ACL", "SETUSER", "default", "+@all")


@fault("maxclients")
async def _max_clients(world: World) -> None:
    await world.say("CONFIG", "SET", "maxclients", "1")
    await world.cut_off()
    await asyncio.sleep(AWAY)
    await world.say("CONFIG", "SET", "maxclients", "10000")


@fault("a replica promoted without the newest entries", gap="reset")
async def _replica(world: World) -> None:
    replica = world.launch_redis("--replicaof", "127.0.0.1", str(world.server.port))
    async with redis.asyncio.Redis.from_url(replica.url, decode_responses=True) as client:
        async with asyncio.timeout(20):
            while (await client.info("replication"))["master_link_status"] != "up":
                await asyncio.sleep(0.05)
        await client.execute_command("REPLICAOF", "NO", "ONE")
        await asyncio.sleep(0.5)  # the newest entries: the gateway reads them from the old master
        world.publisher.paused = True
        await asyncio.sleep(0.1)
        world.proxy.cut("down")
        await asyncio.to_thread(world.server.kill)
        world.proxy.target = replica.port
        pool = world.publisher.client.connection_pool
        pool.connection_kwargs["port"] = replica.port
        world.publisher.paused = False
        await asyncio.sleep(0.2)
        world.proxy.cut("up")


@pytest.fixture
def launch_redis() -> AsyncIterator[Callable[..., RedisServer]]:
    started: list[RedisServer] = []

    def begin(*options: str) -> RedisServer:
        started.append(RedisServer(*options).start())
        return started[-1]

    yield begin
    for server in started:
        server.stop()


@asynccontextmanager
async def world(launch: Launch, launch_redis: Callable[..., RedisServer]) -> AsyncIterator[World]:
    # Redis 7 keeps DEBUG, which fills a database in one command, to those who ask for it.
    server = launch_redis(*(("--enable-debug-command", "yes") if version(binary()) >= (7, 0) else ()))
    async with (
        proxied(server.port) as proxy,
        redis.asyncio.Redis.from_url(server.url, decode_responses=True, socket_timeout=1) as client,
        redis.asyncio.Redis.from_url(server.url, single_connection_client=True) as operator,
    ):
        url = f"redis://127.0.0.1:{proxy.port}/0"
        process = await asyncio.to_thread(launch, SSE_REDIS_URL=url, SSE_THROTTLE="off")
        yield World(server, proxy, Publisher(client, KEY), process, launch_redis, operator)


if not COUNTS:
    del FAULTS["LOADING"]  # Redis 6 can't be made to load slowly


@pytest.mark.parametrize("name", FAULTS)
async def test_redis_breaks_and_nobody_is_deceived(
    launch: Launch, launch_redis: Callable[..., RedisServer], session: aiohttp.ClientSession, name: str
) -> None:
    strike, gap = FAULTS[name]
    async with world(launch, launch_redis) as it:
        await it.publisher.publish_now(50)
        url = it.process.url + "/api/projects/p-1/stream"
        followers = [Follower(session, url) for _ in range(FOLLOWERS)]
        for follower in followers:
            follower.last = "0-0"  # from the very first event on
        async with tasks(*(follower.run for follower in followers), it.publisher.run):
            for follower in followers:
                await follower.reach(it.publisher.newest, 10)
            await asyncio.sleep(0.3)
            used, began = cpu_s(it.process), time.monotonic()
            await strike(it)
            mended = time.monotonic()
            first = (await it.publisher.publish_now(1))[0]
            for follower in followers:
                await follower.reach(first, 20)
            recovered = max(follower.seen_at[first] for follower in followers) - mended
            await asyncio.sleep(max(0.0, began + 1 - time.monotonic()))
            load = (cpu_s(it.process) - used) / (time.monotonic() - began)
            it.publisher.paused = True
            await asyncio.sleep(0.05)
            after = await it.publisher.publish_now(20)
            for follower in followers:
                await follower.reach(after[-1], 10)
        held = list(dict.fromkeys((() if gap == "reset" else tuple(it.trimmed)) + tuple(await it.publisher.held())))
        verdicts = [compare(follower, held, after) for follower in followers]
        gaps = [[told["reason"] for told in follower.gaps] for follower in followers]
        opens = sum(len(follower.opened) - 1 for follower in followers)
        lost, doubled = sum(each.lost for each in verdicts), sum(each.doubled for each in verdicts)
        strange = sum(each.strange for each in verdicts)
        print(
            f"\n{name:46} sent {it.publisher.sent:5}  lost {lost}  doubled {doubled}  gaps {sum(map(len, gaps))}"
            f"  reconnects {opens}  recovered {recovered:.2f} s  core {load:.0%}"
        )
        assert (lost, doubled, strange) == (0, 0, 0)
        assert gaps == [[gap] if gap else []] * FOLLOWERS
        assert opens == 0, "Redis being away is no reason to drop a listener"
        assert load < 0.7, "the gateway spins"
        assert "sse_gateway_redis_up 1.0" in await asyncio.to_thread(it.process.metrics)
        status, log = await asyncio.to_thread(it.process.stop)
        assert status == 0
        assert [line for line in map(json.loads, log.splitlines()) if line["level"] in ("error", "critical")] == []


def cpu_s(process: Process) -> float:
    fields = Path(f"/proc/{process.popen.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
