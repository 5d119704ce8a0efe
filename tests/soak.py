"""`make soak MINUTES=60`: random clients and faults, and a checker that knows the stream; memory and descriptors flat.

A witness reads Redis by itself; what each listener was given must be the witness's stream without a hole, from where
the listener began, or a `replay_gap` must have come in between. Prints a table; figures and plot go to .run/soak/.
LISTENERS=100 at a time, RATE=100 events a second, FAULTS=… some of those below.
"""

import asyncio
import json
import os
import random
import signal
import socket
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import redis
import redis.asyncio

from tests.e2e.follower import Follower, Publisher, tasks
from tests.e2e.process import Process
from tests.proxy import Mode, Proxy, proxied
from tests.redis_server import RedisServer

KEY = "github:sync:events"
LISTENERS = int(os.environ.get("LISTENERS", "100"))
RATE = float(os.environ.get("RATE", "100"))
CHOSEN = [name for name in os.environ.get("FAULTS", "").split(",") if name]
OUT = Path(".run/soak")


@dataclass
class Tally:
    times: int = 0
    recovered: list[float] = field(default_factory=list)
    late: int = 0
    """Listeners that saw nothing new for 60 s after the fault was mended."""


@dataclass
class Soak:
    server: RedisServer
    proxy: Proxy
    process: Process
    publisher: Publisher
    session: aiohttp.ClientSession
    truth: list[str] = field(default_factory=list)
    at: dict[str, int] = field(default_factory=dict)
    live: list[Follower] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    samples: list[tuple[float, int, int]] = field(default_factory=list)  # seconds, private bytes, descriptors
    listeners: int = 0
    checked: int = 0
    lost: int = 0
    doubled: int = 0
    gaps: int = 0

    async def witness(self) -> None:
        """Reads the stream past the proxy, as another reader would."""
        async with redis.asyncio.Redis.from_url(self.server.url, decode_responses=True, socket_timeout=3) as client:
            last = "0-0"
            while True:
                try:
                    for _, entries in await client.xread({KEY: last}, count=500, block=500):
                        for last, _ in entries:
                            self.at[last] = len(self.truth)
                            self.truth.append(last)
                except (redis.RedisError, OSError, TimeoutError, RuntimeError):  # as follower.CLOSED says
                    await asyncio.sleep(0.05)

    async def listen(self) -> None:
        """One listener after another, each for a while, from somewhere in what Redis still holds."""
        while True:
            follower = Follower(self.session, self.process.url + "/api/projects/p-1/stream", random.uniform(0.1, 1))
            recent = max(0, len(self.truth) - 2000)
            follower.last = random.choice(self.truth[recent:]) if self.truth else "0-0"
            begin = follower.last
            running = asyncio.create_task(follower.run())
            self.live.append(follower)
            self.listeners += 1
            try:
                await asyncio.sleep(random.uniform(20, 120))
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                self.live.remove(follower)
            while follower.last not in self.at:
                await asyncio.sleep(0.2)  # the witness may be behind
            self.check(follower, begin)

    def check(self, follower: Follower, begin: str) -> None:
        """Each run without a hole and without a double. After a gap it begins with a snapshot, in order, whose events
        are older than what the gap's moment brings: from there on without a hole.
        """
        self.gaps += len(follower.gaps)
        for number, run in enumerate(follower.runs):
            self.checked += len(run)
            self.doubled += len(run) - len(set(run))
            places = [self.at[id] for id in run if id in self.at]
            assert places == sorted(places), "out of order"
            if number:
                told = follower.gap_at[number - 1]
                places = [place for place in places if follower.seen_at[self.truth[place]] > told + 1]
            else:
                places.insert(0, self.at.get(begin, -1))
            if places:
                self.lost += places[-1] - places[0] + 1 - len(set(places))

    async def annoy(self) -> None:
        """Clients that don't read, that die by RST, that never finish a request."""
        while True:
            sockets = []
            for _ in range(random.randint(1, 20)):
                with suppress(OSError):
                    sock = socket.create_connection(("127.0.0.1", self.process.port), timeout=1)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    whole = "GET /api/projects/p-1/stream HTTP/1.1\r\nHost: x\r\nLast-Event-ID: 0-0\r\n\r\n"
                    sock.send(whole[: random.choice((10, len(whole)))].encode())
                    sockets.append(sock)
            await asyncio.sleep(random.uniform(0.1, 8))
            for sock in sockets:
                sock.close()

    async def sample(self) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(5)
            with suppress(OSError):  # it is being restarted
                proc = Path(f"/proc/{self.process.popen.pid}")
                rollup = (proc / "smaps_rollup").read_text()
                private = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))
                files = sum(1 for _ in (proc / "fd").iterdir())
                self.samples.append((time.monotonic() - began, private * 1024, files))

    async def trim(self) -> None:
        """As workers do by MAXLEN: older than anybody is behind."""
        while True:
            await asyncio.sleep(5)
            with suppress(redis.RedisError, OSError, TimeoutError, RuntimeError):
                await self.publisher.client.xtrim(KEY, maxlen=20_000, approximate=True)

    async def strike(self, name: str, fault: Callable[["Soak"], Awaitable[None]]) -> None:
        tally = self.tallies[name]
        tally.times += 1
        await fault(self)
        mended = time.monotonic()
        mark = (await self.publisher.publish_now(1))[0]
        for follower in list(self.live):
            while follower in self.live and follower.seen_at.get(mark, 0) <= mended:
                if time.monotonic() > mended + 60:
                    tally.late += 1
                    break
                await asyncio.sleep(0.02)
        tally.recovered.append(time.monotonic() - mended)


def network(mode: Mode) -> Callable[[Soak], Awaitable[None]]:
    async def fault(soak: Soak) -> None:
        soak.proxy.cut(mode)
        await asyncio.sleep(random.uniform(0.2, 4))
        soak.proxy.cut("up")

    return fault


def ended(number: signal.Signals) -> Callable[[Soak], Awaitable[None]]:
    async def fault(soak: Soak) -> None:
        soak.process.signal(number)
        await asyncio.to_thread(soak.process.wait, 30)
        await asyncio.to_thread(soak.process.start)

    return fault


async def redis_killed(soak: Soak) -> None:
    await asyncio.to_thread(soak.server.kill)
    await asyncio.sleep(random.uniform(0.1, 3))
    await asyncio.to_thread(soak.server.start)


async def redis_stopped(soak: Soak) -> None:
    assert soak.server.process is not None
    soak.server.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(random.choice((1, 3, 6, 30)))
    soak.server.process.send_signal(signal.SIGCONT)


async def emptied(soak: Soak) -> None:
    soak.publisher.paused = True
    await asyncio.sleep(1)  # the witness reads the last of it
    await soak.publisher.client.delete(KEY)
    soak.publisher.paused = False


FAULTS: dict[str, tuple[int, Callable[[Soak], Awaitable[None]]]] = {  # by name: how often among the others, and what
    "nothing": (2, lambda soak: asyncio.sleep(1)),
    "network cut": (3, network("down")),
    "replies swallowed": (2, network("mute")),
    "closed mid-reply": (2, network("half")),
    "delayed": (2, network("slow")),
    "Redis SIGKILL": (2, redis_killed),
    "Redis SIGSTOP": (1, redis_stopped),
    "stream deleted": (1, emptied),
    "gateway SIGKILL": (1, ended(signal.SIGKILL)),
    "gateway SIGTERM": (1, ended(signal.SIGTERM)),
}


async def soak(minutes: float) -> Soak:
    server = RedisServer("--appendonly", "yes", "--appendfsync", "always").start()
    # A history that is soon full: from then on memory has no reason to grow.
    settings = {
        "SSE_REPLAY_MAX_EVENTS": "5000",
        "SSE_THROTTLE": "off",
        "SSE_DRAIN": "2s",
        "SSE_LOG_LEVEL": "error",
        "SSE_SLOW_CLIENT_TIMEOUT": "5s",
    }
    try:
        async with (
            proxied(server.port) as proxy,
            redis.asyncio.Redis.from_url(server.url, decode_responses=True, socket_timeout=1) as client,
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
            ) as session,
        ):
            process = Process(SSE_REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0", **settings)
            await asyncio.to_thread(process.start)
            it = Soak(server, proxy, process, Publisher(client, KEY, RATE), session)
            runs = [it.publisher.run, it.witness, it.annoy, it.sample, it.trim, *[it.listen] * LISTENERS]
            ends, shown = time.monotonic() + minutes * 60, 0.0
            try:
                async with tasks(*runs) as running:
                    await asyncio.sleep(2)
                    while time.monotonic() < ends:
                        names = CHOSEN or list(FAULTS)
                        [name] = random.choices(names, [FAULTS[name][0] for name in names])
                        await it.strike(name, FAULTS[name][1])
                        await asyncio.sleep(random.uniform(0, 3))
                        for task in running:
                            if task.done():
                                task.result()
                        if time.monotonic() > shown + 60:
                            shown = time.monotonic()
                            print(report(it), flush=True)
            finally:
                process.kill()
    finally:
        server.stop()
    return it


def report(it: Soak) -> str:
    lines = [f"{'fault':20} {'times':>5} {'recovered, median':>18} {'worst':>7} {'listeners lost':>15}"]
    for name, tally in sorted(it.tallies.items()):
        if tally.recovered:
            median, worst = statistics.median(tally.recovered), max(tally.recovered)
            lines.append(f"{name:20} {tally.times:5} {median:16.2f} s {worst:5.1f} s {tally.late:15}")
    memory = [sample[1] / (1 << 20) for sample in it.samples] or [0.0]
    files = max((sample[2] for sample in it.samples), default=0)
    lines.append(
        f"events {it.publisher.sent:,}  listeners {it.listeners:,}  deliveries checked {it.checked:,}"
        f"  lost {it.lost}  doubled {it.doubled}  gaps told {it.gaps:,}"
        f"  memory {memory[0]:.0f} -> {memory[-1]:.0f} MiB  descriptors at most {files}"
    )
    return "\n".join(lines) + "\n"


def plot(samples: list[tuple[float, int, int]]) -> str:
    """Memory and descriptors over time, as SVG."""
    width, height = 900, 260
    end = samples[-1][0]
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 140} {height + 40}" font-size="12">',
        f'<rect width="{width + 140}" height="{height + 40}" fill="#fff"/>',
    ]
    for along, colour, unit in ((1, "#0b7a4b", 1 << 20), (2, "#b4690e", 1)):
        most = max(sample[along] for sample in samples) * 1.1
        points = " ".join(f"{20 + width * s[0] / end:.1f},{20 + height * (1 - s[along] / most):.1f}" for s in samples)
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
        name = "MiB private" if along == 1 else "descriptors"
        label = f"{samples[-1][along] / unit:.0f} {name}"
        out.append(f'<text x="{width + 26}" y="{40 * along}" fill="{colour}">{label}</text>')
    out.append(f'<text x="20" y="{height + 35}">0 to {end / 60:.0f} minutes</text></svg>')
    return "\n".join(out) + "\n"


def main() -> None:
    it = asyncio.run(soak(float(os.environ.get("MINUTES", "10"))))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "report.txt").write_text(report(it))
    (OUT / "samples.json").write_text(json.dumps(it.samples))
    (OUT / "plot.svg").write_text(plot(it.samples))
    print(report(it))
    wrong = it.lost + it.doubled + sum(tally.late for tally in it.tallies.values())
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
