"""Browser engines as their systems ship them: Chromium, Firefox (WebDriver BiDi), WebKitGTK (W3C WebDriver)."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.browser import CHROMIUM, chromium
from tests.redis_server import free_port

MINI_BROWSER = next(iter(sorted(Path("/usr/lib").glob("*/webkit2gtk-4.*/MiniBrowser"))), None)
Evaluate = Callable[[str], Awaitable[Any]]
"""Evaluates an expression in a page that was opened; its value as JSON has it."""


@asynccontextmanager
async def in_chromium(url: str) -> AsyncIterator[Evaluate]:
    async with chromium() as browser:
        page = await browser.new_page()
        await page.goto(url)
        yield page.evaluate


@asynccontextmanager
async def started(*words: str, **environment: str) -> AsyncIterator[None]:
    """A program with all that it starts, until the block ends."""
    quiet = asyncio.subprocess.DEVNULL
    words = ("env", *(f"{name}={value}" for name, value in environment.items()), *words)
    process = await asyncio.create_subprocess_exec(*words, stdout=quiet, stderr=quiet)
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


async def patiently(call: Callable[[], Awaitable[Any]]) -> Any:
    """Until what was just started answers."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await call()
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)


@asynccontextmanager
async def in_firefox(url: str) -> AsyncIterator[Evaluate]:
    profile, port, count = tempfile.mkdtemp(prefix="sse-firefox-"), free_port(), 0
    words = ("firefox-esr", "--headless", "--no-remote", "--profile", profile, f"--remote-debugging-port={port}")
    async with started(*words, HOME=profile), aiohttp.ClientSession() as session:
        socket = await patiently(lambda: session.ws_connect(f"ws://127.0.0.1:{port}/session", max_msg_size=0))

        async def ask(method: str, **params: Any) -> Any:
            nonlocal count
            count += 1
            await socket.send_json({"id": count, "method": method, "params": params})
            while (answer := await socket.receive_json(timeout=30)).get("id") != count:
                pass
            assert answer["type"] == "success", answer
            return answer["result"]

        async def evaluate(expression: str) -> Any:
            asked = f"JSON.stringify({expression}) ?? 'null'"
            told = await ask("script.evaluate", expression=asked, target={"context": context}, awaitPromise=False)
            assert told["type"] == "success", told
            return json.loads(told["result"]["value"])

        await ask("session.new", capabilities={})
        context = (await ask("browsingContext.getTree"))["contexts"][0]["context"]
        await ask("browsingContext.navigate", context=context, url=url, wait="complete")
        yield evaluate
        await ask("browser.close")
        await socket.close()
    shutil.rmtree(profile, ignore_errors=True)


@asynccontextmanager
async def in_webkit(url: str) -> AsyncIterator[Evaluate]:
    port, display = free_port(), f":{free_port()}"
    async with (
        started("Xvfb", display, "-nolisten", "tcp"),
        started("WebKitWebDriver", f"--port={port}", DISPLAY=display, WEBKIT_DISABLE_COMPOSITING_MODE="1"),
        aiohttp.ClientSession() as session,
    ):

        async def ask(method: str, path: str, **body: Any) -> Any:
            async with session.request(method, f"http://127.0.0.1:{port}{path}", json=body) as response:
                told = await response.json()
            assert response.status == 200, told
            return told["value"]

        async def evaluate(expression: str) -> Any:
            script = f"return JSON.stringify({expression}) ?? 'null'"
            return json.loads(await ask("POST", f"/session/{id}/execute/sync", script=script, args=[]))

        wish = {"webkitgtk:browserOptions": {"binary": str(MINI_BROWSER), "args": ["--automation"]}}
        opened = await patiently(lambda: ask("POST", "/session", capabilities={"alwaysMatch": wish}))
        id = opened["sessionId"]
        try:
            await ask("POST", f"/session/{id}/url", url=url)
            yield evaluate
        finally:
            await ask("DELETE", f"/session/{id}")


ENGINES: dict[str, Callable[[str], AbstractAsyncContextManager[Evaluate]]] = {
    "chromium": in_chromium,
    "firefox": in_firefox,
    "webkit": in_webkit,
}


def missing(engine: str) -> bool:
    """Whether this system lacks it."""
    if engine == "webkit":
        return MINI_BROWSER is None or not all(map(shutil.which, ("WebKitWebDriver", "Xvfb")))
    return CHROMIUM is None if engine == "chromium" else shutil.which("firefox-esr") is None
