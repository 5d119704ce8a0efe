"""What SSE_REPLAY_MAX_BYTES says, against what the process takes: every shape of input, until nothing grows."""

import json
import time
from collections.abc import Callable, Iterator

import redis

from tests.bench.harness import STREAM, Gateway
from tests.redis_server import RedisServer

BOUND = 16
"""MiB."""
Shape = Callable[[int], dict[str, str]]
PREFIX = "github_sync_"


def _entry(type: str, operation: str, project: str, **data: object) -> dict[str, str]:
    return {"type": PREFIX + type, "data": json.dumps({"operationId": operation, "projectId": project} | data)}


LONG = "\N{PILE OF POO}" * 240

SHAPES: dict[str, Shape] = {
    "one_operation": lambda n: _entry("progress", "o", "p", percent=n % 100, message="Working"),
    "tiny": lambda n: _entry("started", str(n), "p"),
    "tiny_projects": lambda n: _entry("started", str(n), str(n)),
    "ended": lambda n: _entry("completed", str(n), str(n)),
    "long_ids": lambda n: _entry("started", f"{n:08}{LONG}", f"{n:08}{LONG}"),
    "long_ids_ended": lambda n: _entry("completed", f"{n:08}{LONG}", f"{n:08}{LONG}"),
    "large_entries": lambda n: _entry("progress", str(n), "p", message="x" * 60_000, percent=1),
    "raised": lambda n: _entry("progress", str(n % 10), "p", percent=100 - n / 1e6, message=""),
    "stale": lambda n: _entry("progress", str(n // 8), "p", percent=1, run="r", seq=1),
    "runs": lambda n: _entry("progress", str(n // 16), "p", percent=n % 100, run=f"{n:064}", seq=1),
    "rejected": lambda n: {"type": "X", "data": "{}"},
    "types": lambda n: {"type": f"t{n:063}", "data": f'{{"operationId":"{n % 10}","projectId":"p"}}'},
    "four_each": lambda n: _entry(
        ("started", "progress", "conflict", "completed")[n % 4], str(n // 4), str(n // 40), message="m" * 100, percent=1
    ),
}


def account(server: RedisServer, name: str) -> dict[str, float]:
    """Growth of private memory, as a multiple of the bound."""
    client = redis.Redis.from_url(server.url)
    gateway = Gateway(server, SSE_THROTTLE="off", SSE_REPLAY_MAX_BYTES=f"{BOUND}MiB", SSE_REPLAY_MAX_EVENTS="100000000")
    empty, most, sent, still = gateway.memory(), 0, 0, 0
    while still < 3 and sent < 500_000:
        for batch in _batches(SHAPES[name], sent, 20_000 if "large" not in name else 500):
            pipe = client.pipeline(transaction=False)
            for fields in batch:
                pipe.xadd(STREAM, fields)  # type: ignore[arg-type]
            pipe.execute()
            sent += len(batch)
        read = 0.0
        while read < sent:
            time.sleep(0.05)
            read = gateway.total("events_consumed_total") + gateway.total("events_rejected_total")
        client.xtrim(STREAM, maxlen=2000, approximate=False)
        grown = gateway.memory() - empty
        still = still + 1 if grown < most * 1.01 else 0
        most = max(most, grown)
        print(
            sent,
            grown >> 20,
            gateway.metric("log_bytes") / 2**20,
            gateway.metric("log_events"),
            gateway.metric('operations{state="running"}'),
            flush=True,
        )
    said = gateway.metric("log_bytes")
    gateway.stop()
    return {"rss_by_bound": most / (BOUND << 20), "said_by_bound": said / (BOUND << 20), "rss_by_said": most / said}


def _batches(shape: Shape, start: int, count: int) -> Iterator[list[dict[str, str]]]:
    for at in range(start, start + count, 500):
        yield [shape(number) for number in range(at, at + 500)]
