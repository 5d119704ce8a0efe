"""A rolling deploy, as the chart's manifests say it: no cluster, but their settings, probes, strategy, grace period and
ingress, with real processes, a real nginx, and real EventSources that lose nothing.
"""

import asyncio
import math
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from gateway.config import duration
from tests.chart import CHART, one, render
from tests.e2e.browser import chromium, needs_chromium
from tests.e2e.conftest import Launch
from tests.e2e.follower import Follower, tasks
from tests.e2e.front import Nginx, ingress, needs_nginx, routing
from tests.e2e.process import Process
from tests.e2e.test_browser import serve_page
from tests.e2e.test_faults_gateway import check, publishing
from tests.redis_server import RedisServer

LISTENERS = 300
VALUES = CHART / "ci" / "production-values.yaml"


class Pod:
    """What the kubelet does of a Deployment's pod: start, probe, and end it in its time."""

    def __init__(self, launch: Launch, manifests: list[dict[str, Any]], secret: dict[str, str]) -> None:
        spec = one(manifests, "Deployment")["spec"]["template"]["spec"]
        [self.container] = spec["containers"]
        self.grace = spec["terminationGracePeriodSeconds"]
        sources = [name for each in self.container["envFrom"] for name in each]
        assert sources == ["configMapRef", "secretRef"]
        settings = one(manifests, "ConfigMap")["data"] | secret
        # Three pods of one machine can't all have the port that each has in the cluster.
        self.process: Process = launch(**settings | {"SSE_LISTEN": "127.0.0.1:0", "SSE_ADMIN_LISTEN": "127.0.0.1:0"})

    def probe(self, name: str) -> bool:
        """Whether the probe succeeds now. The ports have names, as in the manifest."""
        asked = self.container[name]["httpGet"]
        assert asked["port"] == "admin"
        try:
            with urllib.request.urlopen(self.process.admin + asked["path"], timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    async def end(self) -> float:
        """The preStop hook, SIGTERM, and the wait for the exit; the seconds that were left of the grace period."""
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(self.container["lifecycle"]["preStop"]["sleep"]["seconds"])
        assert await asyncio.to_thread(self.probe, "readinessProbe"), "it serves until it is told to end"
        self.process.signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        assert not await asyncio.to_thread(self.probe, "readinessProbe")
        assert await asyncio.to_thread(self.probe, "livenessProbe"), "a pod that drains is not to be killed for it"
        status, _ = await asyncio.to_thread(self.process.wait, self.grace)
        assert status == 0
        return float(self.grace - (asyncio.get_running_loop().time() - began))


async def roll(pods: list[Pod], front: Nginx, new: Any) -> float:
    """Every pod by another, one more than wanted at a time, none fewer; the least that was left of a grace period."""
    left = math.inf
    for old in list(pods):
        pods.append(await asyncio.to_thread(new))
        async with asyncio.timeout(10):
            while not await asyncio.to_thread(pods[-1].probe, "readinessProbe"):
                await asyncio.sleep(0.1)
        pods.remove(old)
        front.route([pod.process.port for pod in pods])
        left = min(left, await old.end())
    return left


@pytest.mark.parametrize("auth", [{"SSE_AUTH": "none"}, {"SSE_AUTH": "jwt", "SSE_JWT_SECRET": "x" * 32}])
def test_what_helm_test_runs_listens(shared_redis: RedisServer, launch: Launch, auth: dict[str, str]) -> None:
    process = launch(SSE_REDIS_URL=shared_redis.url, **auth)
    [container] = one(render(VALUES), "Pod", "demo-sse-gateway-test")["spec"]["containers"]
    python, *words, public, admin = container["command"]
    assert python == "/srv/venv/bin/python"
    assert (public, admin) == ("http://demo-sse-gateway:80", "http://demo-sse-gateway-admin:8081")
    for answers, wanted in ((process.admin, 0), (process.url, 1)):  # where the one face answers for the other, it fails
        done = subprocess.run([sys.executable, *words, process.url, answers], capture_output=True, timeout=20)
        assert bool(done.returncode) == wanted, done.stderr


@needs_nginx
@needs_chromium
async def test_a_rolling_deploy_by_the_manifests_costs_nothing(
    own_redis: RedisServer, launch: Launch, session: aiohttp.ClientSession
) -> None:
    runner, origin = await serve_page()
    settings = {"SSE_AUTH": "none", "SSE_DRAIN": "3s", "SSE_RETRY": "1s", "SSE_CORS_ORIGINS": origin}
    settings["SSE_MAX_CONNECTIONS_PER_CLIENT"] = "0"  # the listeners share one address
    manifests = render(VALUES, "preStopSeconds=1", *(f"config.{name}={value}" for name, value in settings.items()))
    deployment, rules = one(manifests, "Deployment"), one(manifests, "Ingress")
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    paths = [path["path"] for path in rules["spec"]["rules"][0]["http"]["paths"]]

    def new() -> Pod:
        return Pod(launch, manifests, {"SSE_REDIS_URL": own_redis.url})

    pods = [
        await asyncio.to_thread(new) for _ in range(one(manifests, "HorizontalPodAutoscaler")["spec"]["minReplicas"])
    ]
    async with AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        location = ingress(rules["metadata"]["annotations"])
        front = stack.enter_context(routing([pod.process.port for pod in pods], location, paths=paths))
        publisher = await stack.enter_async_context(publishing(own_redis))
        url = f"http://127.0.0.1:{front.port}/api/projects/p-1/stream"
        followers = [Follower(session, url, pause=0.5) for _ in range(LISTENERS)]
        for follower in followers:
            follower.last = "0-0"
        page = await (await stack.enter_async_context(chromium())).new_page()
        await page.goto(origin)
        await page.evaluate("url => follow(url)", f"{url}?lastEventId=0-0")
        await stack.enter_async_context(tasks(*(each.run for each in followers), publisher.run))
        await asyncio.sleep(1)
        opened = [len(follower.opened) for follower in followers]
        began = asyncio.get_running_loop().time()
        left = await roll(pods, front, new)
        assert left > 5, "the grace period has room beyond the drain"
        await check(publisher, followers, "rolling deploy of three")
        held = await publisher.held()
        await page.wait_for_function("id => seen.at(-1)?.id === id", arg=held[-1], timeout=30_000)
        seen: list[dict[str, Any]] = await page.evaluate("seen")
        assert [event["id"] for event in seen] == held
        assert await page.evaluate("states.at(-1)") == "open"
    again = [at - began for each, before in zip(followers, opened, strict=True) for at in each.opened[before:]]
    assert min(len(each.opened) for each in followers) > 1, "every listener was sent away once, at least"
    histogram = Counter(int(at) for at in again)
    print(f"reconnects {len(again)}, by second: {[histogram[second] for second in range(max(histogram) + 1)]}")
    # Spread over the drains, not in one crowd: no second has more than its share of one drain, and half again.
    assert max(histogram.values()) < 1.5 * LISTENERS / duration(settings["SSE_DRAIN"])
