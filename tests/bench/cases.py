"""The cases: each makes its processes, measures, and gives figures by name. Times in ms, memory in bytes, CPU in µs."""

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial

import redis

from tests.bench.account import SHAPES, account
from tests.bench.harness import (
    BUILD,
    LOAD_CORE,
    SERVER_CORE,
    STREAM,
    Gateway,
    cpu_s,
    entry,
    load,
    pinned,
    result,
    steady,
)
from tests.bench.peers import SERVERS
from tests.bench.sends import sends
from tests.redis_server import RedisServer, free_port

Figures = dict[str, float]
LOOK = ("-p", "1000")
"""Where the cost of a delivery is compared, the load generator looks every millisecond instead of being woken by each
send: a slower server would pay for more of its sleeps than a faster one."""
LATENCY = ("p50_ms", "p99_ms", "p999_ms", "max_ms")


def _client(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(server.url)


def _fill(client: redis.Redis, count: int, topics: int = 1000, size: int = 200) -> None:
    """Writes entries as fast as it goes; spread over operations of project p-1."""
    for start in range(0, count, 1000):
        pipe = client.pipeline(transaction=False)
        for number in range(start, min(start + 1000, count)):
            pipe.xadd(STREAM, entry(str(number % topics), "p-1", size))
        pipe.execute()


def _drained(gateway: Gateway, count: int) -> float:
    """Seconds until the gateway has read `count` events, from being let go."""
    began = time.monotonic()
    sample = 'events_consumed_total{type="github_sync_progress"}'
    while gateway.metric(sample) < count:
        time.sleep(0.01)
    return time.monotonic() - began


def fan_out(
    server: RedisServer, name: str = "gateway", clients: int = 1000, rate: float = 20, seconds: float = 6
) -> Figures:
    """One topic, many clients, a steady rate: what a delivery costs one of SERVERS."""
    peer = SERVERS[name](server)
    before = peer.memory()
    listening = load(peer.port, "/api/projects/p-1/stream", clients, seconds + 1, *LOOK)
    used, began = peer.cpu_s(), time.monotonic()
    sent = steady(peer, rate, seconds)
    time.sleep(0.5)
    used, took = peer.cpu_s() - used, time.monotonic() - began
    memory = (peer.memory() - before) / clients
    found = result(listening)
    peer.stop()
    return {
        "cpu_us": used * 1e6 / (sent * clients),
        "core_percent": 100 * used / took,
        "lost": sent * clients - found["events"],
        "bytes_each": memory,
    } | {name: found[name] for name in LATENCY}


def floor(
    server: RedisServer, clients: int = 1000, rate: float = 20, seconds: float = 6, *look: str, topics: int = 1
) -> Figures:
    """The same by a C loop of send(). A rate of 0 is as fast as it goes."""
    port = free_port()
    command = [str(BUILD / "floor"), str(port), str(clients), str(rate), str(seconds), "200", str(topics)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=pinned(SERVER_CORE))
    time.sleep(0.1)
    listening = load(port, "/", clients, seconds + 1, *look)
    out, _ = process.communicate()
    found = result(listening)
    own = json.loads(out)
    per_s = own["deliveries"] / own["seconds"]
    return {"cpu_us": own["cpu_us"], "deliveries_per_s": per_s} | {name: found[name] for name in LATENCY}


def flat_out(server: RedisServer, clients: int = 1000, events: int = 4000) -> Figures:
    """One topic, many clients, as fast as Redis gives: what piled up leaves in one write."""
    gateway = Gateway(server, SSE_THROTTLE="off")
    listening = load(gateway.port, "/api/projects/p-1/stream", clients, 60, "-e", str(events))
    gateway.process.send_signal(signal.SIGSTOP)
    _fill(_client(server), events)
    gateway.process.send_signal(signal.SIGCONT)
    found = result(listening)
    skipped = gateway.metric("events_skipped_total")
    gateway.stop()
    lost = events * clients - found["events"] - skipped
    return {"deliveries_per_s": found["events_per_s"], "lost": lost, "skipped": skipped, "p99_ms": found["p99_ms"]}


def watched(
    server: RedisServer, name: str = "gateway", rate: float = 1000, topics: int = 5000, seconds: float = 6
) -> Figures:
    """What syncs look like: many operations that run, two clients each."""
    peer = SERVERS[name](server)
    listening = load(peer.port, "/api/operations/%d/stream", 2 * topics, 2 * seconds + 2, "-t", str(topics))
    known = steady(peer, topics / seconds, seconds, topics)
    used, began = peer.cpu_s(), time.monotonic()
    sent = steady(peer, rate, seconds, topics)
    time.sleep(0.5)
    used, took = peer.cpu_s() - used, time.monotonic() - began
    found = result(listening)
    peer.stop()
    return {
        "cpu_us": used * 1e6 / (sent * 2),
        "core_percent": 100 * used / took,
        "sent_per_s": sent / seconds,
        "lost": (known + sent) * 2 - found["events"],
    } | {name: found[name] for name in LATENCY}


def many_topics(server: RedisServer, topics: int = 10_000, rate: float = 5000, seconds: float = 6) -> Figures:
    """A topic a client."""
    gateway = Gateway(server, SSE_THROTTLE="off")
    listening = load(gateway.port, "/api/operations/%d/stream", topics, seconds + 1)
    before, began = gateway.cpu_s(), time.monotonic()
    sent = steady(gateway, rate, seconds, topics)
    took = time.monotonic() - began
    used = gateway.cpu_s() - before
    found = result(listening)
    gateway.stop()
    figures = {"cpu_percent": 100 * used / took, "sent_per_s": sent / took, "lost": sent - found["events"]}
    return figures | {name: found[name] for name in LATENCY}


def everything(server: RedisServer, events: int = 200_000) -> Figures:
    """One client on everything."""
    gateway = Gateway(server, SSE_THROTTLE="off")
    listening = load(gateway.port, "/api/projects/stream", 1, 60, "-e", str(events))
    gateway.process.send_signal(signal.SIGSTOP)
    _fill(_client(server), events)
    gateway.process.send_signal(signal.SIGCONT)
    found = result(listening)
    skipped = gateway.metric("events_skipped_total")
    gateway.stop()
    return {"events_per_s": found["events_per_s"], "lost": events - found["events"] - skipped, "skipped": skipped}


def no_clients(server: RedisServer, events: int = 300_000) -> Figures:
    """Read, decode, shape, keep."""
    gateway = Gateway(server)
    gateway.process.send_signal(signal.SIGSTOP)
    _fill(_client(server), events)
    before = gateway.cpu_s()
    gateway.process.send_signal(signal.SIGCONT)
    took = _drained(gateway, events)
    used = gateway.cpu_s() - before
    gateway.stop()
    return {"events_per_s": events / took, "cpu_us": used * 1e6 / events}


def idle(server: RedisServer, clients: int = 10_000, seconds: float = 10) -> Figures:
    """Memory of a connection, cost of heartbeats."""
    gateway = Gateway(server, SSE_HEARTBEAT="15s")
    empty = gateway.memory()
    listening = load(gateway.port, "/api/projects/p-1/stream", clients, seconds + 17)
    time.sleep(1)
    bytes_each = (gateway.memory() - empty) / clients
    time.sleep(15)
    before = gateway.cpu_s()
    time.sleep(seconds)
    used = gateway.cpu_s() - before
    result(listening)
    gateway.stop()
    return {"bytes_each": bytes_each, "heartbeat_cpu_percent": 100 * used / seconds}


def opens(server: RedisServer, name: str = "gateway", clients: int = 10_000) -> Figures:
    """Connections that come as fast as they are accepted."""
    peer = SERVERS[name](server)
    used = peer.cpu_s()
    listening = load(peer.port, "/api/projects/p-1/stream", clients, 1, *LOOK)
    used = peer.cpu_s() - used
    found = result(listening)
    peer.stop()
    return {"accepts_per_s": clients / found["connect_s"], "cpu_us": used * 1e6 / clients}


def storm(
    server: RedisServer, name: str = "gateway", clients: int = 10_000, behind: int = 100, live: int = 100
) -> Figures:
    """Clients that return at once with Last-Event-ID, while others are live."""
    client = _client(server)
    peer = SERVERS[name](server)
    place = client.xadd(STREAM, entry("0", "p-1", 200)).decode()
    _fill(client, behind, topics=1)
    brisk = load(peer.port, "/api/projects/p-2/stream", live, 12)
    calls = int(client.info("stats")["total_commands_processed"])
    options = ("-e", str(behind), "-H", f"Last-Event-ID: {place}")
    command = [str(BUILD / "sseload"), "127.0.0.1", str(peer.port), "/api/projects/p-1/stream", str(clients), "60"]
    used, began = peer.cpu_s(), time.monotonic()
    crowd = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=pinned(LOAD_CORE)
    )
    assert crowd.stdout is not None
    while not select.select([crowd.stdout], [], [], 0)[0]:  # its result comes before it closes its connections
        client.xadd(STREAM, entry("9", "p-2", 200))
        time.sleep(0.01)
    used, took = peer.cpu_s() - used, time.monotonic() - began
    calls = int(client.info("stats")["total_commands_processed"]) - calls
    found, others = result(crowd), result(brisk)
    own = 1 + took / 0.01 * 3 + took * 2  # this loop's XADD, and XREAD with its witness for each
    peer.stop()
    return {
        "caught_up_s": took,
        "cpu_us": used * 1e6 / clients,
        "lost": clients * behind - found["events"],
        "live_p99_ms": others["p99_ms"],
        "live_max_ms": others["max_ms"],
        "redis_calls_beyond_live": max(0, calls - own),
    }


def stalled_clients(server: RedisServer, clients: int = 1000, stalled: int = 100, seconds: float = 6) -> Figures:
    """Clients that stop reading among those that don't."""
    figures: Figures = {}
    for name, count in (("without", 0), ("with", stalled)):
        gateway = Gateway(server, SSE_THROTTLE="off")
        empty = gateway.memory()
        listening = load(gateway.port, "/api/projects/p-1/stream", clients, seconds + 1, "-s", str(count))
        steady(gateway, 50, seconds, size=2000)
        figures[f"{name}_mib"] = (gateway.memory() - empty) / (1 << 20)
        found = result(listening)
        figures |= {f"{name}_p50_ms": found["p50_ms"], f"{name}_p99_ms": found["p99_ms"]}
        gateway.stop()
    return figures


def big_history(server: RedisServer, events: int = 1_000_000) -> Figures:
    """Memory of an event kept, and what a snapshot and a replay cost in a full and in a small history."""
    client = _client(server)
    small = Gateway(server)
    costs = {"small": _open_us(small, client)}
    small.stop()
    _fill(client, events, topics=10_000)
    limits = {"SSE_REPLAY_MAX_EVENTS": str(events), "SSE_REPLAY_MAX_BYTES": "2GiB"}
    empty = Gateway(RedisServer().start())
    before = empty.memory()
    empty.stop()
    gateway = Gateway(server, SSE_THROTTLE="off", **limits)
    held = gateway.metric("log_events")
    memory = gateway.memory() - before
    counted = gateway.metric("log_bytes")
    costs["full"] = _open_us(gateway, client)
    gateway.stop()
    return {
        "bytes_each": memory / held,
        "counted_each": counted / held,
        "load_per_s": held / gateway.ready_s,
        "open_us_small": costs["small"],
        "open_us_full": costs["full"],
    }


def _open_us(gateway: Gateway, client: redis.Redis) -> float:
    """CPU of a connection that opens with a replay of ten events of one operation."""
    place = client.xadd(STREAM, entry("x", "p-x", 200)).decode()
    for _ in range(10):
        client.xadd(STREAM, entry("x", "p-x", 200))
    time.sleep(0.2)
    before = gateway.cpu_s()
    result(load(gateway.port, "/api/operations/x/stream", 2000, 0.5, "-H", f"Last-Event-ID: {place}"))
    return (gateway.cpu_s() - before) * 1e6 / 2000


def pauses(server: RedisServer, events: int = 100_000, rate: float = 1000, clients: int = 60) -> Figures:
    """The longest turn of the loop, and pause of the collector, while a history fills, for SECONDS (60)."""
    seconds = float(os.environ.get("SECONDS", "60"))
    limits = {"SSE_REPLAY_MAX_EVENTS": str(events), "SSE_REPLAY_MAX_BYTES": "2GiB", "SSE_THROTTLE": "off"}
    gateway = Gateway(server, "tests.bench.turns", **limits)
    listening = load(gateway.port, "/api/projects/p-1/stream", clients, seconds + 6)
    time.sleep(5)
    steady(gateway, rate, seconds, topics=1000)
    held = gateway.metric("log_events")
    found = result(listening)
    gateway.process.terminate()
    out, _ = gateway.process.communicate()
    longest: Figures = json.loads(out.splitlines()[-1])
    return {"held": held, "p99_ms": found["p99_ms"], "max_ms": found["max_ms"]} | longest


def start_up(server: RedisServer, entries: int = 100_000) -> Figures:
    """From exec to ready with a full stream."""
    _fill(_client(server), entries)
    gateway = Gateway(server)
    ready = gateway.ready_s
    gateway.stop()
    return {"ready_s": ready}


def replicas(server: RedisServer, count: int = 1, clients: int = 5, rate: float = 1000, seconds: float = 6) -> Figures:
    """Several gateways on one Redis, each with its own clients: what a replica costs Redis and the others."""
    assert server.process is not None
    gateways = [Gateway(server, SSE_THROTTLE="off") for _ in range(count)]
    listening = [load(each.port, "/api/projects/p-1/stream", clients, seconds + 3) for each in gateways]
    time.sleep(0.5)
    before, stored = [each.cpu_s() for each in gateways], cpu_s(server.process.pid)
    sent = steady(gateways[0], rate, seconds)
    stored = cpu_s(server.process.pid) - stored
    used = [each.cpu_s() - was for each, was in zip(gateways, before, strict=True)]
    found = [result(each) for each in listening]
    for each in gateways:
        each.stop()
    return {
        "redis_us": stored * 1e6 / sent,
        "cpu_us": sum(used) * 1e6 / (sent * clients * count),
        "core_percent_each": 100 * sum(used) / count / seconds,
        "lost": sent * clients * count - sum(each["events"] for each in found),
        "p99_ms": max(each["p99_ms"] for each in found),
    }


CASES: dict[str, Callable[[RedisServer], Figures]] = {
    "fan_out": fan_out,
    "fan_out_floor": lambda server: floor(server, 1000, 20, 6, *LOOK),
    **{f"fan_out_{name}": partial(fan_out, name=name) for name in SERVERS if name != "gateway"},
    **{f"watched_{rate}": partial(watched, rate=rate) for rate in (100, 1000, 5000)},
    "watched_floor": lambda server: floor(server, 10_000, 1000, 6, topics=5000),
    **{f"watched_{name}": partial(watched, name=name) for name in SERVERS if name != "gateway"},
    "sends": sends,
    "flat_out": flat_out,
    "flat_out_floor": lambda server: floor(server, rate=0, seconds=4),
    "many_topics": many_topics,
    "everything": everything,
    "no_clients": no_clients,
    "idle": idle,
    "opens": opens,
    **{f"opens_{name}": partial(opens, name=name) for name in SERVERS if name != "gateway"},
    "storm": storm,
    **{f"storm_{name}": partial(storm, name=name) for name in SERVERS if name == "Go"},
    "stalled_clients": stalled_clients,
    "big_history": big_history,
    "start_up": start_up,
    **{f"account_{name}": partial(account, name=name) for name in SHAPES},
    "pauses": pauses,
    "pauses_1m": partial(pauses, events=1_000_000),
    **{f"replicas_{count}": partial(replicas, count=count) for count in (1, 2, 4, 8)},
}
