"""The browser's module and the live page, in a real Chromium."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from playwright.async_api import Browser, Page

from tests.conftest import Worker
from tests.e2e.browser import chromium, needs_chromium
from tests.e2e.conftest import Launch
from tests.e2e.process import Process
from tests.e2e.test_browser import run_worker
from tests.redis_server import RedisServer

pytestmark = needs_chromium

SHOTS = os.environ.get("SCREENSHOTS")
HOSTILE = [
    "<script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "a\nb\r\n\r\nc",
    "nul \0 nul",
    "\u202egnirts\u202c",
    "x" * 60_000,
    "</template>'\"`${1}",
]


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest.fixture
async def process(worker: Worker, shared_redis: RedisServer, launch: Launch) -> Process:
    return await asyncio.to_thread(
        launch, SSE_REDIS_URL=shared_redis.url, SSE_STREAM=worker.key, SSE_UI="on", SSE_RETRY="300ms"
    )


async def open_page(browser: Browser, url: str, **options: Any) -> Page:
    page = await browser.new_page(**options)
    page.wrong = []  # type: ignore[attr-defined]
    page.on("pageerror", lambda error: page.wrong.append(str(error)))  # type: ignore[attr-defined]
    page.on("console", lambda line: page.wrong.append(line.text) if "Content Security" in line.text else None)  # type: ignore[attr-defined]
    await page.goto(url)
    return page


async def until(page: Page, expression: str, timeout: float = 15) -> None:
    """Waits for an expression to be true; wait_for_function would need 'unsafe-eval' of the page's policy."""
    async with asyncio.timeout(timeout):
        while not await page.evaluate(expression):
            await asyncio.sleep(0.02)


WATCH = """async ([url, options]) => {
  const { watch } = await import(url + "/ui/watch.js");
  globalThis.watchers ??= [];
  for (const each of options) {
    const kept = { events: [], states: [] };
    const onEvent = (event) => kept.events.push(event), onStatus = (status) => kept.states.push(status);
    kept.watcher = watch({ ...each, onEvent, onStatus });
    watchers.push(kept);
  }
}"""


async def test_twenty_watchers_share_one_connection(browser: Browser, process: Process, worker: Worker) -> None:
    page = await open_page(browser, process.url)
    await page.goto(process.url + "/ui/live.css")  # a page of the origin without watchers of its own
    options = [{"operationId": f"op-{number}"} for number in range(10)]
    await page.evaluate(WATCH, [process.url, options])
    await until(page, "watchers.every((each) => each.states.at(-1) === 'live')")
    ids = [await worker.publish("started", f"op-{number}", f"p-{number}") for number in range(10)]
    await until(page, "watchers.every((each) => each.events.length === 1)")
    later = [{"projectId": f"p-{number}"} for number in range(10)]
    await page.evaluate(WATCH, [process.url, later])
    await until(page, "watchers.slice(10).every((each) => each.events.length === 1)")
    ids += [await worker.publish("progress", f"op-{number}", f"p-{number}", percent=10) for number in range(10)]
    await until(page, "watchers.every((each) => each.events.length === 2)")
    async with asyncio.timeout(10):  # the second crowd has joined the first
        while 'connections{scope="multi"} 1.0' not in await asyncio.to_thread(process.metrics):
            await asyncio.sleep(0.05)
    ids += [await worker.publish("progress", f"op-{number}", f"p-{number}", percent=60) for number in range(10)]
    await until(page, "watchers.every((each) => each.events.at(-1).percent === 60)")
    seen = await page.evaluate("watchers.map((each) => each.events.map((event) => event.id))")
    for number in range(10):
        wanted = [ids[number], ids[10 + number], ids[20 + number]]
        assert seen[number] == wanted
        assert seen[10 + number] == wanted
    await page.evaluate("watchers.forEach((each) => each.watcher.close())")
    async with asyncio.timeout(10):
        while 'connections{scope="multi"} 0.0' not in await asyncio.to_thread(process.metrics):
            await asyncio.sleep(0.05)


async def test_an_operation_that_has_ended_shows_its_end_and_ends(
    browser: Browser, process: Process, worker: Worker
) -> None:
    await worker.publish("started")
    await worker.publish("completed", filesChanged=7)
    page = await open_page(browser, process.url + "/ui/live.css")
    await page.evaluate(WATCH, [process.url, [{"operationId": "op-1"}, {"operationId": "op-2"}]])
    await until(page, "watchers[0].states.at(-1) === 'ended'")
    _, event = await page.evaluate("watchers[0].events")
    assert (event["type"], event["filesChanged"]) == ("github_sync_completed", 7)
    await worker.publish("started", "op-2")
    await worker.publish("failed", "op-2")
    await until(page, "watchers[1].states.at(-1) === 'ended'")
    assert await page.evaluate("watchers[1].events.map((event) => event.type)") == [
        "github_sync_started",
        "github_sync_failed",
    ]


async def test_an_expired_token_is_renewed_without_a_lost_event(
    browser: Browser, worker: Worker, shared_redis: RedisServer, launch: Launch
) -> None:
    secret = "a secret of at least thirty-two bytes"
    guarded = await asyncio.to_thread(
        launch,
        SSE_REDIS_URL=shared_redis.url,
        SSE_STREAM=worker.key,
        SSE_AUTH="jwt",
        SSE_JWT_SECRET=secret,
        SSE_UI="on",
        SSE_RETRY="200ms",
        SSE_JWT_LEEWAY="0",
    )
    page = await open_page(browser, guarded.url + "/ui/live.css")
    asked = []

    def token() -> str:
        asked.append(time.time())
        claims = {"exp": time.time() + 1.5, "projects": ["p-1"]}
        return jwt.encode(claims, secret, "HS256")

    await page.expose_function("freshToken", token)
    await page.evaluate(
        WATCH.replace("...each,", "...each, token: globalThis.freshToken,"),
        [guarded.url, [{"projectId": "p-1"}, {"projectId": "p-2"}]],
    )
    await until(page, "watchers[1].states.includes('refused')")
    ids = []
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        ids.append(await worker.publish("started", f"op-{len(ids)}"))
        await asyncio.sleep(0.02)
    await until(page, f"watchers[0].events.at(-1)?.id === '{ids[-1]}'")
    assert await page.evaluate("watchers[0].events.map((event) => event.id)") == ids
    assert len(asked) >= 3


async def test_a_hidden_tab_releases_its_connection_and_resumes(
    browser: Browser, process: Process, worker: Worker
) -> None:
    page = await open_page(browser, process.url + "/ui/live.css")
    await page.evaluate(WATCH, [process.url, [{"projectId": "p-1", "releaseHidden": 100}]])
    await until(page, "watchers[0].states.at(-1) === 'live'")
    ids = [await worker.publish("started")]
    await until(page, "watchers[0].events.length === 1")
    hide = """(state) => {
      Object.defineProperty(document, 'visibilityState', { value: state, configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
    }"""
    await page.evaluate(hide, "hidden")
    async with asyncio.timeout(10):
        while 'connections{scope="multi"} 0.0' not in await asyncio.to_thread(process.metrics):
            await asyncio.sleep(0.05)
    ids += [await worker.publish("progress", percent=10), await worker.publish("completed")]
    await page.evaluate(hide, "visible")
    await until(page, "watchers[0].events.length === 3")
    assert await page.evaluate("watchers[0].events.map((event) => event.id)") == ids


async def test_the_page_follows_syncs_through_a_killed_gateway(
    browser: Browser, process: Process, worker: Worker
) -> None:
    page = await open_page(browser, process.url)
    await page.wait_for_selector("#light[data-status=live]")
    await worker.publish("started", "sync-1")
    await worker.publish("progress", "sync-1", percent=42, message="Pushing")
    bar = page.locator("#running [data-operation=sync-1] [role=progressbar]")
    await page.wait_for_selector("[data-operation=sync-1] [aria-valuenow='42']")
    await asyncio.to_thread(process.kill)
    await page.wait_for_selector("#light[data-status=reconnecting]")
    assert await bar.get_attribute("aria-valuenow") == "42"
    await worker.publish("progress", "sync-1", percent=77, message="Still pushing")
    await asyncio.to_thread(process.start)
    await page.wait_for_selector("#light[data-status=live]", timeout=15_000)
    await page.wait_for_selector("[data-operation=sync-1] [aria-valuenow='77']")
    await worker.publish(
        "completed", "sync-1", filesChanged=3, prUrl="https://github.com/o/r/pull/1", commitSha="1f2e3d4c5b"
    )
    link = page.locator("#recent [data-operation=sync-1] .result a")
    await link.wait_for()
    assert await link.get_attribute("href") == "https://github.com/o/r/pull/1"
    assert page.wrong == []


async def test_the_page_follows_the_sample_workers_real_syncs(
    browser: Browser, process: Process, worker: Worker, shared_redis: RedisServer
) -> None:
    page = await open_page(browser, process.url)
    await page.wait_for_selector("#light[data-status=live]")
    await run_worker(shared_redis.url, worker.key, rounds=5)
    await until(page, "document.querySelectorAll('#recent .completed .result').length === 4")
    await page.wait_for_selector("#recent [data-operation^=protected] .failure code")
    await page.wait_for_selector("#recent [data-operation^=not_fast_forward].completed")
    attempts = page.locator("#recent [data-operation^=not_fast_forward] .attempt")
    assert await attempts.inner_text() == "attempt 2 of 2"
    assert await page.locator("#recent [data-operation^=push] .attempt").inner_text() == ""
    await page.wait_for_selector("#recent [data-operation^=conflict] .conflict li >> nth=2")
    assert page.wrong == []


async def test_a_failed_sync_shows_its_code_its_countdown_and_its_recovery(
    browser: Browser, process: Process, worker: Worker
) -> None:
    page = await open_page(browser, process.url)
    await page.wait_for_selector("#light[data-status=live]")
    await worker.publish(
        "failed", "gone", error_code="APP_UNINSTALLED", recoveryUrl="https://github.com/apps/sync/installations/new"
    )
    await worker.publish("failed", "busy", error_code="RATE_LIMIT", retryable=True, retryAfter=30)
    await worker.publish("failed", "evil", recoveryUrl="javascript:alert(1)")
    await worker.publish(
        "conflict", "torn", conflicts=["src/a.ts", "src/b.ts"], strategy="manual_review", resolutionRequired=True
    )
    await page.wait_for_selector("[data-operation=torn] .conflict li >> nth=1")
    assert (
        await page.locator("#recent [data-operation=gone] .failure a").get_attribute("href")
        == "https://github.com/apps/sync/installations/new"
    )
    assert await page.locator("#recent [data-operation=gone] code").inner_text() == "APP_UNINSTALLED"
    busy = page.locator("#running [data-operation=busy]")
    assert await busy.locator(".say").inner_text() == "GitHub's rate limit is reached"
    assert "again in 0:" in await busy.locator(".again").inner_text()
    assert "retrying" in (await busy.get_attribute("class") or "")
    assert await page.locator("[data-operation=evil] .failure a").is_hidden()
    await page.fill("#project", "other")
    assert await page.locator("[data-operation=torn]").is_hidden()
    await page.fill("#project", "p-1")
    assert await page.locator("[data-operation=torn]").is_visible()
    await page.select_option("#state", "retrying")
    assert await page.locator("[data-operation=torn]").is_hidden()
    assert await page.locator("[data-operation=busy]").is_visible()
    assert page.url.endswith("/?project=p-1&state=retrying")  # what is shown can be sent as a link
    # A reload starts no countdown anew, and recent syncs are there again.
    before = await left(page, "busy")
    await asyncio.sleep(1.5)
    await page.reload()
    await page.wait_for_selector("[data-operation=busy]")
    assert 0 < await left(page, "busy") < before
    assert await page.locator("#recent .sync").count() == 2
    assert await page.locator("[data-operation=gone]").is_hidden()


async def left(page: Page, operation: str) -> int:
    """Seconds of a countdown."""
    text = await page.locator(f"[data-operation={operation}] .again").inner_text()
    minutes, _, seconds = text.rpartition(" ")[2].partition(":")
    return int(minutes) * 60 + int(seconds)


async def test_one_operation_in_detail_by_click_or_by_link(browser: Browser, process: Process, worker: Worker) -> None:
    page = await open_page(browser, process.url)
    await page.wait_for_selector("#light[data-status=live]")
    await worker.publish("started", "deep", "p-1", attempt=1, attempts=2)
    for number, step in enumerate(("Clone", "Diff", "Push", "Push"), 1):
        await worker.publish(
            "progress", "deep", "p-1", percent=number * 20, currentStep=step, message=f"{step} {number}"
        )
    await worker.publish("failed", "deep", "p-1", error_code="UPSTREAM_UNAVAILABLE", retryable=True)
    await worker.publish("started", "deep", "p-1", attempt=2, attempts=2)
    await worker.publish("progress", "deep", "p-1", percent=10, message="Cloning 10 of 20")
    await worker.publish("started", "deep", "p-2")
    await page.locator("#running .sync", has_text="p-1").locator(".head").click()
    again = ["Starting", "Clone", "Diff", "Push", "GitHub can't be reached, waiting to try again"]
    wanted = ["Attempt 1 of 2", *again, "Attempt 2 of 2", "Starting", "Cloning"]
    shown = "[...document.querySelectorAll('#steps li')].map((each) => each.firstChild.textContent)"
    assert await page.evaluate(shown) == wanted
    assert await page.locator("#events li").count() == 8
    # Whoever gets the link sees the same, whatever the snapshot holds of it.
    other = await open_page(browser, page.url)
    await until(other, f"JSON.stringify({shown}) === {json.dumps(json.dumps(wanted, separators=(',', ':')))}")
    await worker.publish("completed", "deep", "p-1")
    await until(other, f"{shown}.at(-1) === 'Completed'")
    await other.keyboard.press("Escape")
    assert await other.locator("#detail").is_hidden()
    await other.go_back()
    assert await other.locator("#detail").is_visible()
    # One that is in no list any more is there all the same.
    for number in range(31):
        await worker.publish("completed", f"later-{number}", "p-3")
    third = await open_page(browser, page.url)
    await until(third, f"{shown}.length === {len(wanted) + 1}")
    assert page.wrong == other.wrong == third.wrong == []  # type: ignore[attr-defined]


async def test_a_row_that_nobody_knows_any_more_goes(browser: Browser, process: Process, worker: Worker) -> None:
    page = await open_page(browser, process.url)
    await page.wait_for_selector("#light[data-status=live]")
    await worker.publish("started", "old")
    await page.wait_for_selector("#running [data-operation=old]")
    await worker.redis.delete(worker.key)
    await worker.publish("started", "new")
    await page.wait_for_selector("#running [data-operation=new]")
    await until(page, "document.querySelector('[data-operation=old]') === null")


async def test_five_hundred_running_operations_are_all_shown_and_none_holds_the_page(
    browser: Browser, process: Process, worker: Worker
) -> None:
    page = await open_page(browser, process.url)
    await page.wait_for_selector("#light[data-status=live]")
    for number in range(500):
        await worker.publish("started", f"op-{number}", f"p-{number % 50}")
    await until(page, "document.querySelectorAll('#running .sync').length === 500")
    await page.evaluate(
        "globalThis.longest = 0; new PerformanceObserver((list) => {"
        " for (const each of list.getEntries()) longest = Math.max(longest, each.duration);"
        "}).observe({ type: 'longtask' })"
    )
    for number in range(1000):
        await worker.publish("progress", f"op-{number % 500}", f"p-{number % 50}", percent=number // 10)
    await until(page, "document.querySelector('[data-operation=op-499] .percent').textContent === '99 %'")
    print("longest task of the page, ms:", await page.evaluate("longest"))


async def test_hostile_strings_show_as_text(browser: Browser, process: Process, worker: Worker) -> None:
    page = await open_page(browser, process.url)
    await page.wait_for_selector("#light[data-status=live]")
    for number, text in enumerate(HOSTILE):
        short = text[:200].translate(dict.fromkeys(range(32), " "))
        await worker.publish("started", f"{number} {short}", f"p {short}", direction=text[:100])
        await worker.publish("progress", f"{number} {short}", f"p {short}", percent=50, message=text)
        await worker.publish("conflict", f"{number} {short}", f"p {short}", conflicts=[text], strategy="manual_review")
        await worker.publish(
            "failed", f"{number} {short}", f"p {short}", message=text, recoveryUrl=text[:500], error_code="UNKNOWN"
        )
    await until(page, f"document.querySelectorAll('#recent .failure:not([hidden])').length === {len(HOSTILE)}")
    shown = await page.evaluate("[...document.querySelectorAll('#recent .why')].map((each) => each.textContent)")
    assert shown == list(reversed(HOSTILE))
    assert await page.title() == "GitHub syncs, live"
    assert page.wrong == []
    width = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]


@pytest.mark.parametrize(("width", "height"), [(1100, 800), (390, 800)], ids=["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_the_screen_in_both_schemes(
    browser: Browser, process: Process, worker: Worker, scheme: Any, width: int, height: int
) -> None:
    page = await open_page(browser, process.url, viewport={"width": width, "height": height}, color_scheme=scheme)
    await page.wait_for_selector("#light[data-status=live]")
    await worker.publish("started", "docs-7f3a91c2", "handbook")
    await worker.publish("progress", "docs-7f3a91c2", "handbook", percent=64, message="Writing objects: 64%")
    await worker.publish(
        "conflict", "site-1b22ae90", "website", conflicts=["src/pages/index.tsx", "content/pricing.md"]
    )
    await worker.publish("progress", "site-1b22ae90", "website", percent=35, message="Pushing…")
    await worker.publish(
        "failed",
        "api-99ab01fe",
        "billing-api",
        error_code="RATE_LIMIT",
        message="GitHub's rate limit is reached",
        retryable=True,
        retryAfter=42,
    )
    await worker.publish(
        "completed",
        "app-5c6d7e8f",
        "mobile-app",
        filesChanged=12,
        insertions=340,
        deletions=51,
        commitSha="1f2e3d4c",
        prUrl="https://github.com/o/r/pull/12",
        duration=5400,
    )
    await worker.publish(
        "failed",
        "old-0a1b2c3d",
        "archive",
        error_code="APP_NOT_INSTALLED",
        message="The GitHub App has no access to this repository",
        recoveryUrl="https://github.com/apps/sync/installations/new",
    )
    await page.wait_for_selector("#recent [data-operation=old-0a1b2c3d]")
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert await page.locator("[role=progressbar]").count() == 5
    if SHOTS:
        await page.screenshot(path=Path(SHOTS) / f"{scheme}-{width}.png")


async def test_the_keyboard_reaches_every_row_and_link(browser: Browser, process: Process, worker: Worker) -> None:
    page = await open_page(browser, process.url)
    await page.wait_for_selector("#light[data-status=live]")
    await worker.publish("failed", "gone", recoveryUrl="https://github.com/x")
    await page.wait_for_selector("#recent [data-operation=gone]")
    reached = []
    for _ in range(8):
        await page.keyboard.press("Tab")
        reached.append(
            await page.evaluate(
                "document.activeElement.className || document.activeElement.id || document.activeElement.tagName"
            )
        )
    assert {"project", "state", "head", "A"} <= set(reached)


async def test_no_request_leaves_the_origin_and_the_policy_is_strict(browser: Browser, process: Process) -> None:
    page = await browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    response = await page.goto(process.url)
    await page.wait_for_selector("#light[data-status=live]")
    assert all(url.startswith((process.url, "data:")) for url in asked)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert json.dumps(asked).count("http") >= 4
