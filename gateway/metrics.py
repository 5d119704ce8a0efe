"""Every metric of the contract, on its own registry, and prometheus-client's of the process (CPU, memory, files).

The counters are plain integers that the hot path adds to, one addition for a whole fan-out; they become Prometheus
families only when they are scraped. No label ever carries an operation, a project, a user or an address.
"""

import platform
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

import gateway
from gateway import event, schema

REASONS: Final = ("client", "terminal", "slow", "expired", "drain", "error")
KINDS: Final = ("operation", "project", "multi")
STATES: Final = ("running", "stalled")
GAPS: Final = ("trimmed", "unknown", "reset")
TYPES: Final = (*schema.TYPES, "other")
REFUSALS: Final = (400, 401, 403, 404, 405, 417, 429, 503)
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)

_KNOWN = frozenset(schema.TYPES)


def type_label(type: str) -> str:
    """The event type as a label: one of the five, else `other`."""
    return type if type in _KNOWN else "other"


class Metrics(Collector):
    """The figures of one process. Counters are attributes to add to; gauges are callables that the owner sets."""

    def __init__(self) -> None:
        self.connections = dict.fromkeys(KINDS, 0)
        self.opened = dict.fromkeys(KINDS, 0)
        self.closed = dict.fromkeys(REASONS, 0)
        # A series that begins with its first event hides that event from rate(): all begin at 0.
        self.refused: Counter[int] = Counter(dict.fromkeys(REFUSALS, 0))
        self.consumed = dict.fromkeys(TYPES, 0)
        self.rejected: Counter[str] = Counter(dict.fromkeys(event.REASONS, 0))
        self.nonconforming = dict.fromkeys(TYPES, 0)
        self.throttled = 0
        self.stale = 0
        self.delivered = dict.fromkeys(TYPES, 0)
        self.skipped = 0
        self.replayed = 0
        self.gaps = dict.fromkeys(GAPS, 0)
        self.reconnects = 0
        self.redis_up = False
        self.connections_limit = 0
        self.operations: Callable[[], dict[str, int]] = lambda: dict.fromkeys(STATES, 0)
        self.log_lines_dropped: Callable[[], int] = lambda: 0
        self.log_events: Callable[[], float] = lambda: 0
        self.log_bytes: Callable[[], float] = lambda: 0
        self.stream_lag: Callable[[], float] = lambda: 0
        self._delays = [0] * (len(BUCKETS) + 1)
        self._delay_sum = 0.0
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def observe_delivery(self, seconds: float, times: int) -> None:
        """One event handed to `times` sockets, `seconds` after its entry id's time (never below 0: clocks differ)."""
        seconds = max(seconds, 0.0)
        self._delays[bisect_left(BUCKETS, seconds)] += times
        self._delay_sum += seconds * times

    def exposition(self) -> bytes:
        """The Prometheus text format, version 0.0.4."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        yield _gauge("connections", "Open streams.", "scope", self.connections)
        yield _gauge("connections_limit", "Streams there is room for.", "", {"": self.connections_limit})
        yield _counter("connections_opened", "Streams opened.", "scope", self.opened)
        yield _counter("connections_closed", "Streams closed, by why.", "reason", self.closed)
        yield _counter("requests_rejected", "Requests refused, by status.", "status", self.refused)
        yield _counter("events_consumed", "Accepted entries read from the stream.", "type", self.consumed)
        yield _counter("events_rejected", "Entries that break the contract and were left out.", "reason", self.rejected)
        yield _counter(
            "events_nonconforming",
            "Events delivered although data breaks their type's rules.",
            "type",
            self.nonconforming,
        )
        yield _counter("events_throttled", "Progress events left out by the throttle.", "", {"": self.throttled})
        yield _counter(
            "events_stale", "Events left out: of a run that was superseded, or sent before.", "", {"": self.stale}
        )
        yield _gauge("operations", "Operations that have not ended, each counted once.", "state", self.operations())
        yield _counter("events_delivered", "Frames handed to sockets.", "type", self.delivered)
        yield _counter("events_skipped", "Superseded progress left out for lagging clients.", "", {"": self.skipped})
        yield self._delivery()
        yield _counter(
            "replayed_events", "Frames sent from history or Redis to resuming clients.", "", {"": self.replayed}
        )
        yield _counter("replay_gaps", "Streams that could not go on without a gap, by why.", "reason", self.gaps)
        yield _counter(
            "log_lines_dropped", "Log lines that standard error did not take.", "", {"": self.log_lines_dropped()}
        )
        yield _gauge("log_events", "Events in the replay log.", "", {"": self.log_events()})
        yield _gauge("log_bytes", "Bytes in the replay log.", "", {"": self.log_bytes()})
        yield _gauge(
            "redis_up", "Whether the reader's last exchange with Redis succeeded.", "", {"": float(self.redis_up)}
        )
        yield _gauge(
            "stream_lag_seconds", "How long since the reader was last at the stream's end.", "", {"": self.stream_lag()}
        )
        yield _counter("redis_reconnects", "Times the reader connected to Redis again.", "", {"": self.reconnects})
        build = GaugeMetricFamily(_name("build_info"), "The running build.", labels=("version", "python"))
        build.add_metric((gateway.__version__, platform.python_version()), 1)
        yield build

    def _delivery(self) -> Metric:
        buckets, total = [], 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self._delays, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return HistogramMetricFamily(
            _name("delivery_seconds"),
            "From an entry id's time to handing its frame to the socket.",
            buckets=buckets,
            sum_value=self._delay_sum,
        )


def _name(name: str) -> str:
    return "sse_gateway_" + name


def _counter(name: str, help: str, label: str, values: dict[str, int] | Counter[str] | Counter[int]) -> Metric:
    family = CounterMetricFamily(_name(name), help, labels=(label,) if label else ())
    for value, count in values.items():
        family.add_metric((str(value),) if label else (), count)
    return family


def _gauge(name: str, help: str, label: str, values: dict[str, float] | dict[str, int]) -> Metric:
    family = GaugeMetricFamily(_name(name), help, labels=(label,) if label else ())
    for value, amount in values.items():
        family.add_metric((value,) if label else (), amount)
    return family
