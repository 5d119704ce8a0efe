"""The cases: each makes its processes, measures, and gives figures by name. Times in ms, memory in bytes, CPU in µs."""

import json
import signal
import subprocess
import sys
import time

import redis

from tests.bench.harness import BUILD, SERVER_CORE, STREAM, Gateway, cpu_s, entry, load, pinned, publish, result
from tests.redis_server import RedisServer, free_port

Figures = dict[str, float]
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


def fan_out(server: RedisServer, clients: int = 1000, rate: float = 20, seconds: float = 6) -> Figures:
    """One topic, many clients, a steady rate: the cost of a delivery."""
    gateway = Gateway(server, SSE_THROTTLE="off")
    listening = load(gateway.port, "/api/projects/p-1/stream", clients, seconds + 1)
    before = gateway.cpu_s()
    sent = publish(_client(server), rate, seconds)
    time.sleep(0.5)
    used = gateway.cpu_s() - before
    found = result(listening)
    gateway.stop()
    lost = sent * clients - found["events"]
    return {"cpu_us": used * 1e6 / (sent * clients), "lost": lost} | {name: found[name] for name in LATENCY}


def fan_out_floor(server: RedisServer, clients: int = 1000, rate: float = 20, seconds: float = 6) -> Figures:
    """The same by a C loop of send()."""
    port = free_port()
    command = [str(BUILD / "floor"), str(port), str(clients), str(rate), str(seconds)]
    floor = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=pinned(SERVER_CORE))
    time.sleep(0.1)
    listening = load(port, "/", clients, seconds + 1)
    out, _ = floor.communicate()
    found = result(listening)
    own = json.loads(out)
    per_s = own["deliveries"] / own["seconds"]
    return {"cpu_us": own["cpu_us"], "deliveries_per_s": per_s} | {name: found[name] for name in LATENCY}


def fan_out_naive(server: RedisServer, clients: int = 1000, rate: float = 20, seconds: float = 6) -> Figures:
    """The same by plain aiohttp-sse with a queue a client."""
    port = free_port()
    peer = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.naive", str(port), server.url],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=pinned(SERVER_CORE),
    )
    assert peer.stdout is not None
    peer.stdout.readline()
    listening = load(port, "/api/projects/p-1/stream", clients, seconds + 1)
    before = cpu_s(peer.pid)
    sent = publish(_client(server), rate, seconds)
    time.sleep(0.5)
    used = cpu_s(peer.pid) - before
    found = result(listening)
    peer.kill()
    peer.communicate()
    return {"cpu_us": used * 1e6 / (sent * clients)} | {name: found[name] for name in LATENCY}


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


def many_topics(server: RedisServer, topics: int = 10_000, rate: float = 5000, seconds: float = 6) -> Figures:
    """A topic a client."""
    gateway = Gateway(server, SSE_THROTTLE="off")
    listening = load(gateway.port, "/api/operations/%d/stream", topics, seconds + 1)
    before, began = gateway.cpu_s(), time.monotonic()
    sent = publish(_client(server), rate, seconds, topics=topics)
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
    """Memory of a connection, cost of heartbeats, accepts a second."""
    gateway = Gateway(server, SSE_HEARTBEAT="15s")
    empty = gateway.memory()
    listening = load(gateway.port, "/api/projects/p-1/stream", clients, seconds + 17)
    time.sleep(1)
    bytes_each = (gateway.memory() - empty) / clients
    time.sleep(15)
    before = gateway.cpu_s()
    time.sleep(seconds)
    used = gateway.cpu_s() - before
    found = result(listening)
    gateway.stop()
    return {
        "bytes_each": bytes_each,
        "accepts_per_s": clients / found["connect_s"],
        "heartbeat_cpu_percent": 100 * used / seconds,
    }


def storm(server: RedisServer, clients: int = 10_000, behind: int = 100, live: int = 100) -> Figures:
    """Clients that return at once with Last-Event-ID, while others are live."""
    client = _client(server)
    gateway = Gateway(server, SSE_THROTTLE="off")
    place = client.xadd(STREAM, entry("0", "p-1", 200)).decode()
    _fill(client, behind, topics=1)
    brisk = load(gateway.port, "/api/projects/p-2/stream", live, 12)
    calls = int(client.info("stats")["total_commands_processed"])
    options = ("-e", str(behind), "-H", f"Last-Event-ID: {place}")
    began = time.monotonic()
    command = [
        str(BUILD / "sseload"),
        "127.0.0.1",
        str(gateway.port),
        "/api/projects/p-1/stream",
        str(clients),
        "60",
        *options,
    ]
    crowd = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while crowd.poll() is None:
        client.xadd(STREAM, entry("9", "p-2", 200))
        time.sleep(0.01)
    took = time.monotonic() - began
    calls = int(client.info("stats")["total_commands_processed"]) - calls
    found, others = result(crowd), result(brisk)
    own = 1 + took / 0.01 * 3 + took * 2  # this loop's XADD, and XREAD with its witness for each
    gateway.stop()
    return {
        "caught_up_s": took,
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
        publish(_client(server), 50, seconds, size=2000)
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


def start_up(server: RedisServer, entries: int = 100_000) -> Figures:
    """From exec to ready with a full stream."""
    _fill(_client(server), entries)
    gateway = Gateway(server)
    ready = gateway.ready_s
    gateway.stop()
    return {"ready_s": ready}


CASES = {
    "fan_out": fan_out,
    "fan_out_floor": fan_out_floor,
    "fan_out_naive": fan_out_naive,
    "flat_out": flat_out,
    "flat_out_floor": lambda server: fan_out_floor(server, rate=0, seconds=4),
    "many_topics": many_topics,
    "everything": everything,
    "no_clients": no_clients,
    "idle": idle,
    "storm": storm,
    "stalled_clients": stalled_clients,
    "big_history": big_history,
    "start_up": start_up,
}
