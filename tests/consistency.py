"""`make consistency MINUTES=10`: what listeners saw against what survived in Redis, after failovers of every kind.

Three nodes that three sentinels watch, two gateways, listeners that hop between them with their ids, two workers that
send again what Redis may not have got. Nodes are killed, frozen, cut off from the sentinels, from the gateways, from
all; the clock steps. Afterwards: everything that survived and came after a listener's place was seen once and in order,
or a gap was told; and no gap was told to one that had lost nothing. Prints a table.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
import redis
import redis.asyncio

from tests.e2e.follower import connected, tasks
from tests.e2e.process import Process
from tests.eventsource import Parser
from tests.redis_groups import Watched, sentinel
from tests.redis_server import RedisServer

KEY = "github:sync:events"
LISTENERS = 20
PROJECTS = ("p-0", "p-1", "p-2", None)
"""What they listen to; None is everything."""
GATEWAY = (">gw", "~*", "-@all", "+xread", "+xrange", "+xinfo|stream")
SECRET = "only the operator knows"


@dataclass
class Run:
    """What one listener was given from a gap, or its beginning, to the next. `place` is the id after which everything
    is owed, once that is known; `ids` came after it. `masters` are what there was on nodes that took themselves for the
    master when the gap was told: what a failover lost may come back with the next one. Where one of them didn't say, a
    gap can't be called false.
    """

    gap: dict[str, Any] | None = None
    masters: list[dict[str, str]] | None = None
    place: str = ""
    ids: list[str] = field(default_factory=list)


class Listener:
    """An EventSource that hops between gateways."""

    def __init__(self, world: "World", project: str | None) -> None:
        self.world, self.project = world, project
        self.path = "/api/projects/stream" if project is None else f"/api/projects/{project}/stream"
        self.runs = [Run()]
        self.last = ""
        self.seen_at: dict[str, float] = {}

    async def run(self) -> None:
        while True:
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with asyncio.timeout(random.uniform(1, 8)):
                    await self._listen(random.choice(self.world.gateways).url + self.path)
            await asyncio.sleep(random.uniform(0.05, 0.3))

    async def _listen(self, url: str) -> None:
        asked = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self.last} if self.last else {})
        async with self.world.session.get(url, headers=asked) as response:
            parser = Parser(last_event_id=self.last)
            async for chunk in response.content.iter_any():
                for message in parser.feed(chunk):
                    run = self.runs[-1]
                    if message.type == "replay_gap":
                        self.runs.append(Run(message.json, await self.world.masters()))
                    elif message.type == "heartbeat":
                        run.place = run.place or message.last_event_id
                    elif message.type.startswith("github_sync_"):
                        self.seen_at[message.last_event_id] = time.monotonic()
                        if run.place:
                            run.ids.append(message.last_event_id)
                self.last = parser.last_event_id


class Worker:
    """Publishes operations of its projects to whom the sentinels name; sends again, with the same `seq`, until it is
    answered. What it holds to be written may be lost by a failover all the same.
    """

    def __init__(self, world: "World", number: int) -> None:
        self.world, self.number = world, number
        self.sent = 0

    async def run(self) -> None:
        for count in range(10**9):
            operation, run = f"op-{self.number}-{count}", uuid.uuid4().hex
            project = PROJECTS[random.randrange(3)]
            for seq, kind in enumerate(("started", "progress", "progress", "completed"), 1):
                body = {"operationId": operation, "projectId": project, "run": run, "seq": seq}
                await self.publish({"type": f"github_sync_{kind}", "data": json.dumps(body)})
                await asyncio.sleep(random.uniform(0, 0.03))

    async def publish(self, fields: dict[str, str]) -> str:
        while True:
            try:
                port = await self.world.master()
                async with self.world.client(port) as client, asyncio.timeout(1):
                    id = str(await client.xadd(KEY, fields))
                    self.sent += 1
                    return id
            except (redis.RedisError, OSError, TimeoutError):
                await asyncio.sleep(0.05)


@dataclass
class World:
    watched: Watched
    session: aiohttp.ClientSession
    gateways: list[Process]
    times: Counter[str] = field(default_factory=Counter)
    silence: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    held: dict[tuple[int, int, str], dict[str, str]] = field(default_factory=dict)
    found: list[dict[str, str]] | None = None
    asked: float = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def client(self, port: int) -> AbstractAsyncContextManager["redis.asyncio.Redis[str]"]:
        return connected(port=port, socket_timeout=1, socket_connect_timeout=1)

    async def master(self) -> int:
        """The port of the node that the most sentinels name."""
        named = Counter(filter(None, await asyncio.gather(*map(self._named, self.watched.ports))))
        if not named:
            raise OSError("no sentinel answers")
        return named.most_common(1)[0][0]

    async def _named(self, port: int) -> int | None:
        try:
            async with self.client(port) as client, asyncio.timeout(0.5):
                _, at = await client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")
                return int(at)
        except (redis.RedisError, OSError, TimeoutError):
            return None

    async def node(self) -> RedisServer:
        port = await self.master()
        return next(each for each in self.watched.nodes if each.port == port)

    async def bar(self, node: RedisServer, *, sentinels: bool, gateways: bool) -> None:
        """Cuts a node off from those who come as the default user (sentinels, replicas, workers) or as the gateways."""
        async with self.operator(node) as client:
            for user, word, barred in (("default", "nopass", sentinels), ("gateway", GATEWAY[0], gateways)):
                await client.execute_command("ACL", "SETUSER", user, "resetpass", f">{SECRET}" if barred else word)
                if barred:
                    for kind in ("normal", "pubsub", "replica"):
                        await client.execute_command("CLIENT", "KILL", "USER", user, "TYPE", kind, "SKIPME", "yes")

    async def masters(self) -> list[dict[str, str]] | None:
        """Id and project of every entry, of each node that takes itself for the master; None if one didn't answer."""
        async with self.turn:
            if time.monotonic() > self.asked + 0.2:
                found = await asyncio.gather(*map(self._held, self.watched.nodes))
                self.found = None if False in found else [each for each in found if isinstance(each, dict)]
                self.asked = time.monotonic()
            return self.found

    async def _held(self, node: RedisServer) -> dict[str, str] | Literal[False] | None:
        if node.process is None:
            return False  # it may have been the one
        try:
            async with self.operator(node) as client, asyncio.timeout(3):
                role = (await client.execute_command("ROLE"))[0]
                info = await client.xinfo_stream(KEY)
                key = node.port, info["entries-added"], info["last-generated-id"]
                if role == "master" and key not in self.held:
                    entries = await client.xrange(KEY)
                    self.held[key] = {id: json.loads(fields["data"])["projectId"] for id, fields in entries}
                return self.held[key] if role == "master" else None
        except (redis.RedisError, OSError, TimeoutError):
            return False

    def operator(self, node: RedisServer) -> AbstractAsyncContextManager["redis.asyncio.Redis[str]"]:
        return connected(port=node.port, username="operator", password=SECRET, socket_timeout=2)


Fault = Callable[[World], Awaitable[None]]


def node_gone(number: signal.Signals) -> Fault:
    async def fault(world: World) -> None:
        node = await world.node()
        assert node.process is not None
        if number is signal.SIGKILL:
            await asyncio.to_thread(node.kill)
        else:
            node.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(random.choice((0.3, 2, 4)))
        if number is signal.SIGKILL:
            await asyncio.to_thread(node.start)
            await prepare(world, node)
        else:
            node.process.send_signal(signal.SIGCONT)

    return fault


def cut_off(*, sentinels: bool, gateways: bool) -> Fault:
    async def fault(world: World) -> None:
        node = await world.node()
        await world.bar(node, sentinels=sentinels, gateways=gateways)
        await asyncio.sleep(random.choice((0.5, 3, 6)))
        await world.bar(node, sentinels=False, gateways=False)

    return fault


async def split_brain(world: World) -> None:
    """The old master is cut off from the sentinels alone, and somebody still writes to it what nobody will keep."""
    node = await world.node()
    await world.bar(node, sentinels=True, gateways=False)
    ends = time.monotonic() + random.choice((1, 4))
    async with world.operator(node) as client:
        while time.monotonic() < ends:
            body = {"operationId": f"lost-{random.random()}", "projectId": random.choice(PROJECTS[:3])}
            with suppress(redis.RedisError, OSError):
                await client.xadd(KEY, {"type": "github_sync_started", "data": json.dumps(body)})
            await asyncio.sleep(0.05)
    await world.bar(node, sentinels=False, gateways=False)


async def sentinel_frozen(world: World) -> None:
    process = random.choice(world.watched.sentinels)
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(random.choice((1, 5)))
    process.send_signal(signal.SIGCONT)


def gateway_gone(number: signal.Signals) -> Fault:
    async def fault(world: World) -> None:
        process = random.choice(world.gateways)
        if number is signal.SIGSTOP:
            process.signal(signal.SIGSTOP)
            await asyncio.sleep(random.choice((1, 6)))
            process.signal(signal.SIGCONT)
        else:
            process.signal(number)
            await asyncio.to_thread(process.wait, 30)
            await asyncio.to_thread(process.start)

    return fault


async def clock_steps(world: World) -> None:
    """A clock that was ahead: its ids stay, and those of the next seconds count on in one millisecond."""
    async with world.client(await world.master()) as client:
        ahead = f"{int(time.time() * 1000) + random.choice((500, 3000))}-{random.randrange(3)}"
        body = {"operationId": f"ahead-{ahead}", "projectId": random.choice(PROJECTS[:3])}
        with suppress(redis.RedisError, OSError):
            await client.xadd(KEY, {"type": "github_sync_started", "data": json.dumps(body)}, id=ahead)


FAULTS: dict[str, Fault] = {
    "master SIGKILL": node_gone(signal.SIGKILL),
    "master frozen": node_gone(signal.SIGSTOP),
    "master cut off from the sentinels": cut_off(sentinels=True, gateways=False),
    "master cut off from the gateways": cut_off(sentinels=False, gateways=True),
    "master cut off from all": cut_off(sentinels=True, gateways=True),
    "split brain": split_brain,
    "sentinel frozen": sentinel_frozen,
    "gateway SIGKILL": gateway_gone(signal.SIGKILL),
    "gateway SIGTERM": gateway_gone(signal.SIGTERM),
    "gateway frozen": gateway_gone(signal.SIGSTOP),
    "clock steps": clock_steps,
}


async def prepare(world: World, node: RedisServer) -> None:
    """The users that a node doesn't keep over a restart."""
    async with world.client(node.port) as client:
        await client.execute_command("ACL", "SETUSER", "gateway", "on", "reset", "on", *GATEWAY)
        await client.execute_command("ACL", "SETUSER", "operator", "on", f">{SECRET}", "~*", "&*", "+@all")


async def strike(world: World, worker: Worker, listeners: list[Listener], name: str) -> None:
    world.times[name] += 1
    with suppress(redis.RedisError, OSError, StopIteration, TimeoutError):
        await FAULTS[name](world)
    mended = time.monotonic()
    for project in PROJECTS[:3]:  # a mark that lives: until one is seen by all
        while True:
            body = {"operationId": f"mark-{random.random()}", "projectId": project}
            mark = await worker.publish({"type": "github_sync_started", "data": json.dumps(body)})
            waiting = [each for each in listeners if each.project in (project, None)]
            seen = time.monotonic() + 3
            while time.monotonic() < seen and not all(mark in each.seen_at for each in waiting):
                await asyncio.sleep(0.02)
            if all(mark in each.seen_at for each in waiting):
                break
            assert time.monotonic() < mended + 60, f"{name}: listeners are stuck"
    world.silence[name] = max(world.silence[name], time.monotonic() - mended)


def survivors(entries: list[tuple[str, dict[str, str]]]) -> list[tuple[str, str]]:
    """Id and project of every event that a listener is owed: of what was sent twice, the first."""
    seen: set[tuple[str, int]] = set()
    kept = []
    for id, fields in entries:
        data = json.loads(fields["data"])
        sent = data.get("run"), data.get("seq")
        if sent[0] is None or sent not in seen:
            seen.add(sent)
            kept.append((id, data["projectId"]))
    return kept


def at(id: str) -> tuple[int, int]:
    ms, _, seq = id.partition("-")
    return int(ms), int(seq or 0)


def check(listener: Listener, entries: list[tuple[str, dict[str, str]]]) -> list[str]:
    """What is wrong with what it was told."""
    wrong = []
    known = {id for id, _ in entries}
    owed = [id for id, project in survivors(entries) if listener.project in (project, None)]
    for number, run in enumerate(listener.runs):
        if run.ids != sorted(set(run.ids), key=at):
            wrong.append(f"run {number}: doubled or out of order")
        if not run.place:
            continue
        last = number == len(listener.runs) - 1
        end = run.ids[-1] if run.ids and not last else owed[-1] if owed else "0-0"
        due = [id for id in owed if at(run.place) < at(id) <= at(end)]
        missing, strange = set(due) - set(run.ids), set(run.ids) - set(owed)
        if last and (missing or strange):
            wrong.append(
                f"the last run: {len(missing)} missing, {len(strange)} that are not there: {sorted(missing)[:3]}"
            )
        if not last:
            following = listener.runs[number + 1]
            gap = following.gap or {}
            if missing or strange or gap["lastEventId"] not in known:
                continue
            masters = following.masters
            if masters and not any(_differs(run, gap["lastEventId"], listener.project, each) for each in masters):
                wrong.append(f"cried wolf after run {number}: {gap}")
    return wrong


def _differs(run: Run, last: str, project: str | None, held: dict[str, str]) -> bool:
    """Whether a master lacked what the listener had been given, or had what it was not."""
    between = {id for id, of in held.items() if project in (of, None) and at(run.place) < at(id) <= at(last)}
    return last not in held or bool(set(run.ids) ^ between)


async def consistency(minutes: float) -> tuple[World, list[str], int, int]:
    """Runs it. Returns what is wrong, how many gaps were told and how many events were checked."""
    options = ("--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0")
    with ExitStack() as stack:
        watched = stack.enter_context(sentinel(*options, replicas=2))
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        ) as session:
            await asyncio.to_thread(watched.wait_until_agreed)
            url = watched.url.replace("://", "://gateway:gw@")
            settings = {"SSE_REDIS_URL": url, "SSE_THROTTLE": "off", "SSE_LOG_LEVEL": "error", "SSE_HEARTBEAT": "2s"}
            world = World(watched, session, [Process(**settings) for _ in range(2)])
            for node in watched.nodes:
                await prepare(world, node)
            for process in world.gateways:
                stack.callback(process.kill)
                await asyncio.to_thread(process.start)
            listeners = [Listener(world, PROJECTS[number % 4]) for number in range(LISTENERS)]
            workers = [Worker(world, number) for number in range(2)]
            ends, left = time.monotonic() + minutes * 60, list(FAULTS)
            async with tasks(*(each.run for each in listeners)):
                async with tasks(*(each.run for each in workers)) as running:
                    await asyncio.sleep(2)
                    while time.monotonic() < ends:
                        if not left:
                            left = random.sample(list(FAULTS), len(FAULTS))
                        await strike(world, workers[0], listeners, left.pop())
                        for task in running:
                            if task.done():
                                task.result()
                        await asyncio.sleep(random.uniform(0, 1))
                await strike(world, workers[0], listeners, "clock steps")  # all have caught up
                await asyncio.sleep(3)
            async with world.client(await world.master()) as client:
                entries = await client.xrange(KEY)
    wrong = [f"{each.path}: {line}" for each in listeners for line in check(each, entries)]
    gaps = sum(len(each.runs) - 1 for each in listeners)
    return world, wrong, gaps, sum(len(run.ids) for each in listeners for run in each.runs)


def main() -> None:
    random.seed(seed := int(os.environ.get("SEED", time.time())))
    world, wrong, gaps, checked = asyncio.run(consistency(float(os.environ.get("MINUTES", "10"))))
    print(f"{'fault':36} {'times':>5} {'longest silence afterwards':>27}")
    for name in FAULTS:
        print(f"{name:36} {world.times[name]:5} {world.silence[name]:25.1f} s")
    print(f"seed {seed}  events checked {checked:,}  gaps told {gaps}  wrong {len(wrong)}")
    print("\n".join(wrong[:40]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
