"""`python -m gateway` with a watch on its loop; at its end it prints the longest turn and the longest pause of the
collector (ms), as JSON: by the clock, which counts whatever else the machine did meanwhile, and of CPU.
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

longest = dict.fromkeys(("turn_ms", "turn_cpu_ms", "collector_ms", "collector_cpu_ms"), 0.0)
began = 0.0, 0.0


def longer(name: str, seconds: float) -> None:
    longest[name] = max(longest[name], seconds * 1000)


def collected(phase: str, info: dict[str, Any]) -> None:
    global began
    now, used = time.monotonic(), time.thread_time()
    if phase == "start":
        began = now, used
    else:
        longer("collector_ms", now - began[0])
        longer("collector_cpu_ms", used - began[1])


def watch(loop: asyncio.AbstractEventLoop, due: float, used: float) -> None:
    now, using = time.monotonic(), time.thread_time()
    longer("turn_ms", now - due)
    longer("turn_cpu_ms", using - used)
    loop.call_later(EVERY, watch, loop, now + EVERY, using)


def begin(loop: asyncio.AbstractEventLoop) -> None:
    gc.callbacks.append(collected)
    watch(loop, time.monotonic(), time.thread_time())


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
