"""The package as front ends use it, out of its tarball: Vitest in two made-up DOMs, a server's prerender, Vite."""

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from aiohttp import web

from tests.conftest import Worker
from tests.e2e.browser import chromium, needs_chromium
from tests.e2e.conftest import Launch
from tests.e2e.engines import in_firefox, missing
from tests.e2e.npm import FRONT, installed
from tests.e2e.test_browser import serve_page
from tests.redis_server import RedisServer

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="npm (Node.js) is not installed")


@pytest.fixture(scope="module")
def front() -> Path:
    return installed(FRONT)


def code(language: str) -> list[str]:
    """The guide's blocks."""
    guide = (FRONT.parent.parent / "gateway" / "js" / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", guide, re.DOTALL)


def run(folder: Path, *words: str) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("dom", ["jsdom", "happy-dom"])
def test_a_components_every_state_is_shown_with_the_fake_gateway(front: Path, dom: str) -> None:
    assert "7 passed" in run(front, "npx", "vitest", "run", "--no-color", "--environment", dom, "bar.test.jsx")


def test_a_server_imports_and_prerenders_without_a_browser(front: Path) -> None:
    assert run(front, "node", "server.mjs") == '<progress value="64"></progress><ol>1</ol>\n'


def test_the_guides_components_and_unit_test(front: Path) -> None:
    components, unit = code("jsx")
    guide = front / ".guide"
    guide.mkdir(exist_ok=True)
    (guide / "SyncBar.jsx").write_text(components)
    (guide / "guide.test.jsx").write_text(unit)
    assert "1 passed" in run(front, "npx", "vitest", "run", "--no-color", "--environment", "jsdom", "--dir", ".guide")


def test_the_guides_module_lines(front: Path) -> None:
    module = code("js")[1]
    before = (
        'import { fakeGateway } from "github-sync-events/testing";\n'
        "const gateway = fakeGateway(), operationId = 'op-1', said = [];\n"
        "const fetch = async () => ({ text: async () => 'a token' });\n"
        "const render = (event) => said.push(event.type), light = (status) => said.push(status);\n"
    )
    [imported, *rest] = module.splitlines()
    after = "export {};\nconst wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));\n"
    lines = "\n".join(rest).replace(
        "watcher.close();", "await wait(50);gateway.started('op-1');await wait(50);watcher.close();"
    )
    (front / ".guide").mkdir(exist_ok=True)
    (front / ".guide" / "module.mjs").write_text(
        f"{imported}\n{before}{after}{lines}\nconsole.log(said.join(), gateway.requests[0].headers.Authorization);\n"
    )
    told = run(front, "node", ".guide/module.mjs")
    assert told == "connecting,live,github_sync_started,ended Bearer a token\n"


@needs_chromium
async def test_the_guides_twelve_lines_of_eventsource(
    worker: Worker, shared_redis: RedisServer, launch: Launch
) -> None:
    lines = code("js")[0]
    where = {"SSE_REDIS_URL": shared_redis.url, "SSE_STREAM": worker.key, "SSE_UI": "on"}
    process = await asyncio.to_thread(launch, **where)
    async with chromium() as browser:
        page = await browser.new_page()
        await page.goto(process.url + "/ui/live.css")
        calls = "['show', 'showConflicts', 'done', 'failed', 'light']"
        await page.evaluate(
            f"(() => {{ const operationId = 'op-1'; globalThis.said = [];"
            f" for (const name of {calls}) globalThis[name] = (...given) => said.push([name, ...given]);\n{lines} }})()"
        )
        await worker.publish("started")
        await worker.publish("progress", percent=40, message="Pushing")
        await worker.publish("conflict", conflicts=["a.txt"])
        await worker.publish("completed", prUrl="https://github.com/o/r/pull/1")
        async with asyncio.timeout(15):
            while not (said := await page.evaluate("said")) or said[-1] != ["light", "off"]:
                await asyncio.sleep(0.05)
    shown = [each for each in said if each[0] != "light"]
    wanted = [["show", 0, "Starting…"], ["show", 40, "Pushing"], ["showConflicts", ["a.txt"]]]
    assert shown == [*wanted, ["done", "https://github.com/o/r/pull/1"]]


@pytest.mark.skipif(missing("firefox"), reason="firefox is not installed")
async def test_the_guides_lines_for_firefox_and_another_origin(
    worker: Worker, shared_redis: RedisServer, launch: Launch
) -> None:
    runner, origin = await serve_page()
    where = {"SSE_REDIS_URL": shared_redis.url, "SSE_STREAM": worker.key, "SSE_CORS_ORIGINS": origin}
    process = await asyncio.to_thread(launch, **where)
    given = (
        "globalThis.told = []; const over = () => told.includes('github_sync_completed');"
        " const listeners = { heartbeat() {} };"
        " for (const type of ['started', 'progress', 'completed'])"
        " listeners[`github_sync_${type}`] = (event) => told.push(event.type);"
        f" const url = '{process.url}/api/operations/op-1/stream';"
    )
    try:
        async with in_firefox(origin) as evaluate:
            await evaluate(f"(() => {{ {given} {code('js')[3]} follow(); return 1 }})()")

            async def until(count: int) -> None:
                async with asyncio.timeout(20):
                    while await evaluate("told.length") < count:
                        await asyncio.sleep(0.05)

            await worker.publish("started")
            await until(1)
            await asyncio.to_thread(process.kill)
            await worker.publish("progress")
            await asyncio.sleep(4)  # it has given up
            await asyncio.to_thread(process.start)
            await until(2)
            await worker.publish("completed")
            await until(3)
            await asyncio.sleep(4)
            assert await evaluate("told") == [f"github_sync_{type}" for type in ("started", "progress", "completed")]
    finally:
        await runner.cleanup()


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
