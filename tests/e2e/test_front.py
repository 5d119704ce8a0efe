"""The package as front ends use it, out of its tarball: Vitest in two made-up DOMs, a server's prerender, Vite."""

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest
from aiohttp import web

from tests.conftest import Worker
from tests.e2e.browser import chromium, needs_chromium
from tests.e2e.conftest import Launch
from tests.e2e.npm import FRONT, installed
from tests.redis_server import RedisServer

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="npm (Node.js) is not installed")


@pytest.fixture(scope="module")
def front() -> Path:
    return installed(FRONT)


def run(folder: Path, *words: str) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("dom", ["jsdom", "happy-dom"])
def test_a_components_every_state_is_shown_with_the_fake_gateway(front: Path, dom: str) -> None:
    assert "7 passed" in run(front, "npx", "vitest", "run", "--no-color", "--environment", dom)


def test_a_server_imports_and_prerenders_without_a_browser(front: Path) -> None:
    assert run(front, "node", "server.mjs") == '<progress value="64"></progress><ol>1</ol>\n'


@needs_chromium
async def test_vite_builds_it_and_strict_mode_in_chromium_follows_a_sync(
    front: Path, worker: Worker, shared_redis: RedisServer, launch: Launch, tmp_path: Path
) -> None:
    await asyncio.to_thread(run, front, "npx", "vite", "build", "--base", "./", "--outDir", str(tmp_path))
    app = web.Application()
    app.router.add_static("/", tmp_path)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
    process = await asyncio.to_thread(
        launch, SSE_REDIS_URL=shared_redis.url, SSE_STREAM=worker.key, SSE_CORS_ORIGINS=origin
    )
    try:
        async with chromium() as browser:
            page = await browser.new_page()
            await page.goto(f"{origin}/index.html?gateway={process.url}&operation=op-1&token=t")
            await page.wait_for_selector("[data-status=live]")
            await worker.publish("started")
            await worker.publish("progress", percent=40, message="Pushing")
            await page.wait_for_selector("text=Pushing")
            await asyncio.to_thread(process.kill)
            await page.wait_for_selector("[data-status=reconnecting]")
            await worker.publish("completed", filesChanged=5)
            await asyncio.to_thread(process.start)
            await page.wait_for_selector("text=5 files synced")
            assert 'connections_opened_total{scope="operation"} 1.0' in await asyncio.to_thread(process.metrics)
    finally:
        await runner.cleanup()
