"""A real Prometheus scrapes a gateway under load: every query of the dashboard and of the alerts answers."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.chart import CHART
from tests.conftest import Worker
from tests.e2e.conftest import Launch
from tests.e2e.follower import Follower, Publisher, tasks
from tests.e2e.front import listening
from tests.redis_server import RedisServer, free_port

PROMETHEUS = shutil.which("prometheus")
PANELS = json.loads((CHART / "files" / "dashboard.json").read_text())["panels"]
RULES = [
    rule for group in yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
WINDOW = "3s"


@asynccontextmanager
async def prometheus(target: str, folder: Path) -> AsyncIterator[str]:
    """One that scrapes `target` five times a second, as the pod `a`; its URL."""
    labels = {"namespace": "sse", "pod": "a"}
    scrape = {"job_name": "sse-gateway", "static_configs": [{"targets": [target], "labels": labels}]}
    config = {
        "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
        "rule_files": [str(CHART / "files" / "alerts.yaml")],
        "scrape_configs": [scrape],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                str(PROMETHEUS),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        await asyncio.to_thread(listening, int(address.rpartition(":")[2]), process, folder / "log")
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(10)


async def ask(session: aiohttp.ClientSession, url: str, query: str) -> list[dict[str, Any]]:
    plain = {"Accept-Encoding": "identity"}
    async with session.get(url + "/api/v1/query", params={"query": query}, headers=plain) as response:
        if response.status == 503:  # it is starting
            return []
        answer = await response.json()
        assert answer["status"] == "success", (query, answer)
        return list(answer["data"]["result"])


@pytest.mark.skipif(PROMETHEUS is None, reason="no Prometheus (Debian: apt-get install prometheus)")
async def test_every_query_answers(
    worker: Worker, shared_redis: RedisServer, launch: Launch, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    process = await asyncio.to_thread(launch, SSE_REDIS_URL=shared_redis.url, SSE_STREAM=worker.key)
    publisher = Publisher(worker.redis, worker.key, rate=100)
    followers = [Follower(session, process.url + "/api/projects/p-1/stream") for _ in range(20)]
    async with (
        prometheus(process.admin.removeprefix("http://"), tmp_path) as url,
        tasks(publisher.run, *(each.run for each in followers)),
    ):
        async with asyncio.timeout(20):
            while not await ask(session, url, f"rate(sse_gateway_events_delivered_total[{WINDOW}]) > 100"):
                await asyncio.sleep(0.1)
        found: dict[str, list[dict[str, Any]]] = {}
        for target in (target for panel in PANELS for target in panel["targets"]):
            query = target["expr"].replace("$__rate_interval", WINDOW)
            query = query.replace("$namespace", "sse|m").replace("$pod", ".*")
            assert "$" not in query
            found[target["expr"]] = result = await ask(session, url, query)
            assert result, query
            for series in result:
                assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= series["metric"].keys(), query
        [open_streams] = [
            expression for expression in found if expression.startswith("sum by (scope) (sse_gateway_conn")
        ]
        streams = sum(float(series["value"][1]) for series in found[open_streams])
        assert streams == len(followers)
        assert [rule["alert"] for rule in RULES if await ask(session, url, rule["expr"])] == []
        await worker.raw(type="nonsense?", data="{")
        [rule] = [rule for rule in RULES if rule["alert"] == "SSEGatewayRejectsEntries"]
        async with asyncio.timeout(10):
            while not (firing := await ask(session, url, rule["expr"])):
                await asyncio.sleep(0.1)
        assert firing[0]["metric"]["reason"] == "type"
