"""The examples of gateway/producer/README.md, with the real queues, each in a worker process of its own."""

import os
import re
import subprocess
import sys
import textwrap
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.conftest import working
from tests.redis_server import RedisServer
from tests.test_producer import seen, written

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "gateway" / "producer" / "README.md").read_text(encoding="utf-8")
WORK = """
def work(op, attempt):
    fails = os.environ["FAILS"]
    if fails == "always":
        raise TimeoutError("no answer")
    if fails == "by GitHub's limit" and attempt == 1:
        error = RuntimeError("slow down")
        error.status, error.headers = 429, {"retry-after": "2"}
        raise error
    if fails == "for good":
        raise ValueError("no such branch")
"""
PACKAGES = ("celery==5.5.3", "rq==2.6.0", "arq==0.26.3")


def lines(heading: str) -> str:
    [code] = re.findall(rf"^#+ {heading}$.*?```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)[:1]
    return str(code)


@pytest.fixture(scope="module")
def bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("queues")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    done = subprocess.run([*pip, "--disable-pip-version-check", *PACKAGES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


QUEUES: dict[str, tuple[list[str], str]] = {
    "Celery": (
        ["celery", "-A", "syncs", "worker", "--pool", "prefork", "--concurrency", "1", "--loglevel", "warning"],
        "from syncs import sync; sync.delay('proj-456', 'to_github')",
    ),
    "RQ": (
        ["rq", "worker", "--url", "{url}"],
        "import syncs, os\nfrom redis import Redis\nfrom rq import Queue, Retry\n"
        "Queue(connection=Redis.from_url(os.environ['REDIS_URL'])).enqueue("
        "syncs.sync, 'proj-456', 'to_github', retry=Retry(max=2))",
    ),
    "arq": (
        ["arq", "syncs.WorkerSettings"],
        "import asyncio, os\nfrom arq import create_pool\nfrom arq.connections import RedisSettings\n"
        "async def main():\n    pool = await create_pool(RedisSettings.from_dsn(os.environ['REDIS_URL']))\n"
        "    await pool.enqueue_job('sync', 'proj-456', 'to_github')\nasyncio.run(main())",
    ),
}


@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize(
    ("fails", "ends"),
    [
        ("never", ["completed"]),
        ("by GitHub's limit", ["failed, again", "completed"]),
        ("always", ["failed, again", "failed, again", "failed"]),
        ("for good", ["failed"]),
    ],
)
async def test_each_queue_tells_every_attempt_and_its_end(
    own_redis: RedisServer, bin: Path, tmp_path: Path, queue: str, fails: str, ends: list[str]
) -> None:
    """What a page is told to wait for comes, and after the end nothing does."""
    if queue == "RQ" and fails == "for good":
        ends = ["failed, again", "failed, again", "failed"]  # it tries whatever failed
    (tmp_path / "syncs.py").write_text(lines(queue) + WORK)
    environment = os.environ | {"REDIS_URL": own_redis.url, "FAILS": fails, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    command, enqueue = QUEUES[queue]
    words = [word.format(url=own_redis.url) for word in command]
    subprocess.run([bin / "python", "-c", enqueue], cwd=tmp_path, env=environment, check=True)
    process = subprocess.Popen(
        [str(bin / words[0]), *words[1:]], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with working(own_redis.url) as worker:
            worker.key, deadline = "github:sync:events", time.monotonic() + 60
            told: list[str] = []
            while time.monotonic() < deadline:
                if told == ends and fails != "for good":
                    break
                if told == ends:  # and stays so
                    deadline = min(deadline, time.monotonic() + 1.5)
                events = await written(worker)
                told = [
                    each["type"] + (", again" if each.get("retryable") else "")
                    for each in events
                    if each["type"] in ("completed", "failed")
                ]
                time.sleep(0.2)
            assert told == ends, events
            tries = [(each["attempt"], each["attempts"]) for each in events if each["type"] == "started"]
            assert tries == [(number, 3) for number in range(1, len(ends) + 1)]
            assert len({each["operationId"] for each in events}) == 1
            assert len({each["run"] for each in events}) == len(ends)
            if fails == "by GitHub's limit" and queue != "RQ":  # RQ's intervals are fixed
                failed, again = (datetime.fromisoformat(each["timestamp"]) for each in events[1:3])
                assert (again - failed).total_seconds() > 1.9
    finally:
        process.terminate()
        process.wait(20)


def test_the_plain_script(own_redis: RedisServer, tmp_path: Path) -> None:
    code = lines("A plain script").replace(
        "with Producer", "def work(op, attempt): op.progress(50, 'Half')\n\nwith Producer"
    )
    environment = os.environ | {"REDIS_URL": own_redis.url}
    subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, check=True)
    entries = redis.Redis.from_url(own_redis.url, decode_responses=True).xrange("github:sync:events")
    assert [type for _, type in seen(entries)] == [
        f"github_sync_{each}" for each in ("started", "progress", "completed")
    ]


async def test_the_first_lines(own_redis: RedisServer) -> None:
    async with working(own_redis.url) as worker:
        scope: dict[str, Any] = {}
        exec("async def run(redis):\n" + textwrap.indent(lines("For workers: publish what a sync does"), "    "), scope)
        await scope["run"](worker.redis)
        assert [event["type"] for event in await written(worker)] == ["started", "progress", "conflict", "completed"]
