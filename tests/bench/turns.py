"""`python -m gateway` with a watch on its loop; at its end it prints the longest turn and the longest pause of the
collector (ms), as JSON.
"""

import asyncio
import gc
import json
import runpy
import sys
import time
from collections.abc import Callable
from typing import Any

import uvloop

EVERY = 0.001

longest = {"turn_ms": 0.0, "collector_ms": 0.0}
began = 0.0


def collected(phase: str, info: dict[str, Any]) -> None:
    global began
    if phase == "start":
        began = time.perf_counter()
    else:
        longest["collector_ms"] = max(longest["collector_ms"], (time.perf_counter() - began) * 1000)


def watch(loop: asyncio.AbstractEventLoop, due: float) -> None:
    now = time.monotonic()
    longest["turn_ms"] = max(longest["turn_ms"], (now - due) * 1000)
    loop.call_later(EVERY, watch, loop, now + EVERY)


def begin(loop: asyncio.AbstractEventLoop) -> None:
    gc.callbacks.append(collected)
    watch(loop, time.monotonic())


run: Callable[..., Any] = uvloop.run


def watched(main: Any) -> Any:
    async def both() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(5, begin, loop)  # the start is not meant
        await main

    return run(both())


uvloop.run = watched
sys.argv = ["gateway"]
try:
    runpy.run_module("gateway", run_name="__main__")
finally:
    print(json.dumps(longest), flush=True)
