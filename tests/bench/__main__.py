"""`make bench`: runs the cases interleaved, `REPEAT` times (3), prints medians, writes .run/bench/result.json.

`CASES=fan_out,fan_out_floor make bench` runs some of them.
"""

import json
import os
import statistics

from tests.bench.cases import CASES, Figures
from tests.bench.harness import BUILD, LOAD_CORE, build
from tests.redis_server import RedisServer


def main() -> None:
    build()
    os.sched_setaffinity(0, {LOAD_CORE})
    chosen = [name for name in (os.environ.get("CASES") or ",".join(CASES)).split(",") if name]
    found: dict[str, list[Figures]] = {name: [] for name in chosen}
    for round in range(int(os.environ.get("REPEAT", "3"))):
        for name in chosen:
            server = RedisServer().start()
            try:
                figures = CASES[name](server)
            finally:
                server.stop()
            found[name].append(figures)
            shown = "  ".join(f"{key}={value:,.2f}" for key, value in figures.items())
            print(f"{round + 1} {name:16} {shown}", flush=True)
    medians = {
        name: {key: statistics.median(each[key] for each in runs) for key in runs[0]} for name, runs in found.items()
    }
    print("\nmedians")
    for name, figures in medians.items():
        print(f"  {name:16} " + "  ".join(f"{key}={value:,.2f}" for key, value in figures.items()))
    for ours, key in (("fan_out", "cpu_us"), ("fan_out", "p99_ms"), ("flat_out", "deliveries_per_s")):
        for theirs in medians:
            if ours in medians and theirs.startswith(f"{ours}_"):
                print(f"  {ours} / {theirs}, {key}: {medians[ours][key] / medians[theirs][key]:.2f}")
    (BUILD / "result.json").write_text(json.dumps({"medians": medians, "runs": found}, indent=2) + "\n")


main()
