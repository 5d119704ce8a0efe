"""`make plot`: what a delivery costs, against clients and against events, as tests/bench/cost.svg.

Each point is the median of `REPEAT` (3) interleaved runs of the case `fan_out`; the numbers go to .run/bench/cost.json.
"""

import json
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version

from tests.bench.cases import LOOK, fan_out, floor
from tests.bench.harness import BUILD, HERE, LOAD_CORE, build
from tests.bench.peers import SERVERS
from tests.redis_server import RedisServer, binary

COLOURS = {
    "floor": "#8a8f98",
    "gateway": "#0b7a4b",
    "Nchan": "#b4690e",
    "better-sse": "#7b4bb7",
    "aiohttp-sse": "#b3261e",
}
CLIENTS = [(clients, 10_000 / clients) for clients in (100, 300, 1000, 3000)]
RATES = [(1000, rate) for rate in (1.0, 2.0, 5.0, 10.0, 20.0)]
Point = tuple[int, float]


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """CPU µs a delivery by server and "clients x events/s"."""
    points: list[Point] = sorted({*CLIENTS, *RATES})
    found: dict[str, dict[str, list[float]]] = {name: {} for name in ("floor", *SERVERS)}
    for _ in range(rounds):
        for clients, rate in points:
            for name, runs in found.items():
                server = RedisServer().start()
                if name == "floor":
                    figures = floor(server, clients, rate, 4, *LOOK)
                else:
                    figures = fan_out(server, name, clients, rate, 4)
                server.stop()
                runs.setdefault(key((clients, rate)), []).append(figures["cpu_us"])
                print(f"{name:12} {clients:5} clients {rate:6.1f} events/s  {figures['cpu_us']:.1f} µs", flush=True)
    return {name: {at: statistics.median(each) for at, each in runs.items()} for name, runs in found.items()}


def key(point: Point) -> str:
    return f"{point[0]} x {point[1]:g}"


def panel(found: dict[str, dict[str, float]], points: Sequence[Point], along: int, title: str, left: int) -> list[str]:
    """One plot, both axes logarithmic."""
    width, height, top = 330, 250, 60
    xs = [math.log(point[along]) for point in points]
    costs = [runs[key(point)] for runs in found.values() for point in points]
    low, high = math.log(5), math.log(max(costs) * 1.15)

    def place(x: float, cost: float) -> tuple[float, float]:
        across = left + width * (x - xs[0]) / (xs[-1] - xs[0])
        return across, top + height * (high - math.log(cost)) / (high - low)

    out = [f'<text x="{left}" y="{top - 14}" class="title">{title}</text>']
    for tick in (5, 10, 20, 50, 100, 200, 500):
        if low <= math.log(tick) <= high:
            y = place(xs[0], tick)[1]
            out.append(f'<path d="M{left} {y:.1f}h{width}" class="grid"/>')
            out.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>')
    for x, point in zip(xs, points, strict=True):
        across = place(x, 5)[0]
        out.append(f'<text x="{across:.1f}" y="{top + height + 18}" text-anchor="middle">{point[along]:g}</text>')
    ends: list[tuple[float, str]] = []
    for name, runs in found.items():
        dots = [place(x, runs[key(point)]) for x, point in zip(xs, points, strict=True)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
        out.append(f'<polyline points="{line}" stroke="{COLOURS[name]}"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[name]}"/>' for x, y in dots]
        ends.append((dots[-1][1], name))
    below = -math.inf
    for y, name in sorted(ends):
        below = max(y + 4, below + 14)  # labels don't cover each other
        label = f"{name} {found[name][key(points[-1])]:.1f}"
        out.append(f'<text x="{left + width + 8}" y="{below:.1f}" fill="{COLOURS[name]}">{label}</text>')
    return out


def draw(found: dict[str, dict[str, float]]) -> str:
    out = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 980 400" font-family="sans-serif" font-size="12">',
        "<style>.grid{stroke:#d8dbe0}.title{font-size:14px;font-weight:600}polyline{fill:none;stroke-width:2}</style>",
        '<rect width="980" height="400" fill="#fff"/>',
        '<text x="40" y="22">CPU µs a delivery, one core, 200-byte data; lower is better</text>',
        *panel(found, CLIENTS, 0, "against clients, 10,000 deliveries/s", 40),
        *panel(found, RATES, 1, "against events/s, 1,000 clients of one topic", 520),
        f'<text x="40" y="372" fill="#555">{machine()}</text>',
        "</svg>",
    ]
    return "\n".join(out) + "\n"


def machine() -> str:
    def said(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return (done.stdout + done.stderr).strip().splitlines()[0]

    parts = [f"Linux {platform.machine()}, {os.cpu_count()} shared cores", f"Python {platform.python_version()}"]
    parts += [f"{name} {version(name)}" for name in ("uvloop", "aiohttp", "aiohttp-sse")]
    parts.append("Redis " + said(binary(), "--version").split("v=")[1].split()[0])
    if "better-sse" in SERVERS:
        parts.append("Node " + said("node", "--version"))
    if "Nchan" in SERVERS:
        parts.append(said("/usr/sbin/nginx", "-v").rpartition(" ")[2])
    return ", ".join(parts)


def main() -> None:
    stored = BUILD / "cost.json"
    if "--draw" not in sys.argv:  # else from the last measurement
        build()
        os.sched_setaffinity(0, {LOAD_CORE})
        stored.write_text(json.dumps(measure(int(os.environ.get("REPEAT", "3"))), indent=2) + "\n")
    (HERE / "cost.svg").write_text(draw(json.loads(stored.read_text())))


main()
