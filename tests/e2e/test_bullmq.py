"""Every end of a BullMQ job is a terminal event, and none twice: real workers, a real queue, the package itself."""

import asyncio
import json
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.e2e.npm import installed, node
from tests.redis_server import RedisServer
from tests.test_producer import seen

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="npm (Node.js) is not installed")
KEY = "github:sync:events"
QUICK = {"lockDuration": 1000, "stalledInterval": 500}

Process = asyncio.subprocess.Process


@pytest.fixture(scope="module")
def npm() -> Path:
    return installed()


class Jobs:
    """A queue, and what listeners were told of its jobs."""

    def __init__(self, server: RedisServer, npm: Path, version: str) -> None:
        self.server = server
        self.npm = npm
        self.version = version

    @asynccontextmanager
    async def process(self, role: str, **options: Any) -> AsyncIterator[Process]:
        words = json.dumps({"url": self.server.url, "key": KEY, "version": self.version, **options})
        async with node("jobs.mjs", role, words, cwd=self.npm) as process:
            assert process.stdout
            while await asyncio.wait_for(process.stdout.readline(), 20) != b"ready\n":
                assert process.returncode is None
            yield process

    async def do(self, *does: Any) -> str:
        words = json.dumps({"url": self.server.url, "does": does, "version": self.version})
        async with node("jobs.mjs", "boss", words, cwd=self.npm) as process:
            out, _ = await asyncio.wait_for(process.communicate(), 20)
            assert process.returncode == 0
            return out.decode()

    def told(self) -> dict[str, list[str]]:
        client = redis.Redis.from_url(self.server.url, decode_responses=True)
        entries = client.xrange(KEY)
        client.close()
        listened = seen(entries)
        found: dict[str, list[str]] = {}
        for operation, type in listened:
            found.setdefault(operation, []).append(type.removeprefix("github_sync_"))
        return found

    def data(self, type: str) -> list[dict[str, Any]]:
        client = redis.Redis.from_url(self.server.url, decode_responses=True)
        entries = [fields for _, fields in client.xrange(KEY)]
        client.close()
        return [json.loads(each["data"]) for each in entries if each["type"] == f"github_sync_{type}"]

    async def until(self, wanted: dict[str, list[str]], seconds: float = 15) -> None:
        """Waits for it, and for a while that it stays so."""
        try:
            async with asyncio.timeout(seconds):
                while self.told() != wanted:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            assert self.told() == wanted
        await asyncio.sleep(1.2)  # two looks of the watch
        assert self.told() == wanted


@pytest.fixture
def jobs(own_redis: RedisServer, npm: Path, request: pytest.FixtureRequest) -> Jobs:
    return Jobs(own_redis, npm, getattr(request, "param", "bullmq"))


BOTH = pytest.mark.parametrize("jobs", ["bullmq", "bullmq6"], indirect=True)
"""Version 5 for all tests, 6 for what a worker, a watch and an end do."""


SLOW = 6000
"""How often a watch looks that sees little of what happens."""
RUN = ["started", "progress"]


@BOTH
async def test_what_a_worker_ran(jobs: Jobs) -> None:
    three = {"attempts": 3, "backoff": {"type": "fixed", "delay": 50}}
    async with jobs.process("worker"), jobs.process("watch"):
        await jobs.do(
            ["add", "succeeds", "succeeds", three],
            ["add", "fails", "fails", {}],
            ["add", "protected", "is_protected", three],
            ["add", "unrecoverable", "is_unrecoverable", three],
            ["add", "limps", "limps", three],
            ["add", "breaks", "breaks", three],
            ["add", "unknown", "fails", {**three, "attempts": 2}],
            ["add", "removed at its end", "succeeds", {"removeOnComplete": True}],
            ["add", "removed at its failure", "fails", {"removeOnFail": True}],
            ["add", "put back", "is_put_back", {}],
        )
        await jobs.until(
            {
                "succeeds": [*RUN, "completed"],
                "fails": [*RUN, "failed"],
                "protected": [*RUN, "failed"],
                "unrecoverable": [*RUN, "failed"],
                "limps": [*RUN, "failed", *RUN, "completed"],
                "breaks": [*RUN, "failed"] * 3,
                "unknown": [*RUN, "failed"] * 2,
                "removed at its end": [*RUN, "completed"],
                "removed at its failure": [*RUN, "failed"],
                "put back": [*RUN, "failed", *RUN, "completed"],
            }
        )
    failed = {
        (each["operationId"], each["attempt"], each["attempts"]): (each["error_code"], each["retryable"])
        for each in jobs.data("failed")
        if "attempt" in each
    }
    assert failed == {
        ("fails", 1, 1): ("UNKNOWN", False),
        ("protected", 1, 3): ("BRANCH_PROTECTED", False),
        ("unrecoverable", 1, 3): ("UNKNOWN", False),
        ("limps", 1, 3): ("UPSTREAM_UNAVAILABLE", True),
        ("breaks", 1, 3): ("UPSTREAM_UNAVAILABLE", True),
        ("breaks", 2, 3): ("UPSTREAM_UNAVAILABLE", True),
        ("breaks", 3, 3): ("UPSTREAM_UNAVAILABLE", False),
        ("unknown", 1, 2): ("UNKNOWN", True),  # BullMQ tries it again, so that is what is told
        ("unknown", 2, 2): ("UNKNOWN", False),
        ("removed at its failure", 1, 1): ("UNKNOWN", False),
        ("put back", 1, 1): ("UNKNOWN", True),
    }
    assert next(each for each in jobs.data("completed") if each["operationId"] == "succeeds")["filesChanged"] == 3


@pytest.mark.parametrize("picky", [False, True])
async def test_of_jobs_that_are_no_syncs_nothing_is_told_and_that_is_said_once(jobs: Jobs, picky: bool) -> None:
    """Also where the option `sync` throws for them."""
    async with jobs.process("worker", picky=picky) as worker, jobs.process("watch", picky=picky):
        others = [("add_other", f"mail-{number}", does) for number, does in enumerate(("succeeds", "fails") * 3)]
        await jobs.do(*others, ("add", "sync", "succeeds"))
        await jobs.until({"sync": ["started", "progress", "completed"]})
        worker.terminate()
        out, _ = await worker.communicate()
    said = [line for line in out.decode().splitlines() if line.startswith("sync events")]
    assert len(said) == 1
    assert "jobs named email" in said[0]


async def test_retry_after_is_told_and_kept(jobs: Jobs) -> None:
    async with jobs.process("worker"):
        await jobs.do(["add", "job", "is_limited", {"attempts": 2, "backoff": {"type": "exponential", "delay": 50}}])
        await jobs.until({"job": [*RUN, "failed", *RUN, "completed"]})
    [failed], [_, second] = jobs.data("failed"), jobs.data("started")
    assert (failed["error_code"], failed["retryable"], failed["retryAfter"]) == ("RATE_LIMIT", True, 2)
    assert 1.9 < seconds_of(second) - seconds_of(failed) < 4


def seconds_of(event: dict[str, Any]) -> float:
    _, minute, second = event["timestamp"].rstrip("Z").split("T")[1].split(":")
    return int(minute) * 60 + float(second)


async def test_a_killed_worker_is_followed_by_a_new_attempt(jobs: Jobs) -> None:
    async with jobs.process("worker", **QUICK) as first:
        await jobs.do(["add", "job", "hangs_once", {}])
        await active(first, "job")
        first.kill()
        async with jobs.process("worker", **QUICK):
            await jobs.until({"job": [*RUN, *RUN, "completed"]})
    assert [(each["attempt"], each["attempts"]) for each in jobs.data("started")] == [(1, 1), (2, 2)]


@pytest.mark.parametrize("kept", [True, False])
async def test_a_job_that_stalls_too_often_has_failed(jobs: Jobs, kept: bool) -> None:
    rules = {**QUICK, "maxStalledCount": 0}
    async with jobs.process("worker", **rules) as first:
        await jobs.do(["add", "job", "hangs", {"removeOnFail": not kept}])
        await active(first, "job")
        first.kill()
        async with jobs.process("worker", **rules), jobs.process("watch"):
            await jobs.until({"job": [*RUN, "failed"]})
    assert {each["retryable"] for each in jobs.data("failed")} == {False}


REMOVALS: dict[str, list[Any]] = {
    "a delayed job": [["remove", "later"]],
    "a waiting job": [["remove", "soon"]],
    "drained": [["drain", True]],
    "cleaned": [["clean", 0, 100, "wait"], ["clean", 0, 100, "delayed"]],
    "obliterated": [["obliterate", {"force": True}]],
}


@pytest.mark.parametrize("how", REMOVALS)
async def test_a_job_that_was_removed_before_it_ran_has_failed(jobs: Jobs, how: str) -> None:
    gone = {"a delayed job": ["later"], "a waiting job": ["soon"]}.get(how, ["later", "soon"])
    await jobs.do(["add", "later", "succeeds", {"delay": 60_000}])
    async with jobs.process("watch"), jobs.process("watch"):
        await jobs.do(["add", "soon", "succeeds", {}])
        await asyncio.sleep(1)
        await jobs.do(*REMOVALS[how])
        await jobs.until({id: ["failed"] for id in gone}, seconds=12)
    messages = {(each["message"], each["retryable"]) for each in jobs.data("failed")}
    assert messages == {("The job was removed from its queue", False)}


async def test_a_job_that_was_removed_between_its_attempts_has_failed(jobs: Jobs) -> None:
    async with jobs.process("worker"), jobs.process("watch"):
        await jobs.do(["add", "job", "breaks", {"attempts": 3, "backoff": {"type": "fixed", "delay": 60_000}}])
        await jobs.until({"job": [*RUN, "failed"]})
        await jobs.do(["remove", "job"])
        await jobs.until({"job": [*RUN, "failed", "failed"]})
    assert [each["retryable"] for each in jobs.data("failed")][:2] == [True, False]
    assert jobs.data("failed")[0]["retryAfter"] == 60


@BOTH
@pytest.mark.parametrize("end", ["succeeds", "fails"])
async def test_of_a_job_that_is_removed_at_its_end_one_end_is_told(jobs: Jobs, end: str) -> None:
    """The watch knows it from before it ran, and whatever it reads of it comes when it is gone."""
    async with jobs.process("watch"):
        await jobs.do(["add", "job", end, {"removeOnComplete": True, "removeOnFail": True}])
        await asyncio.sleep(1)
        async with jobs.process("worker"):
            await jobs.until({"job": [*RUN, "completed" if end == "succeeds" else "failed"]})


@pytest.mark.parametrize("how", [["remove", "job"], ["drain", True], ["clean", 0, 100, "delayed"]])
async def test_watches_that_know_more_or_less_of_a_removed_job_tell_one_end(jobs: Jobs, how: list[Any]) -> None:
    """One of them hasn't looked since before the job ran."""
    await jobs.do(["add", "job", "breaks", {"attempts": 3, "backoff": {"type": "fixed", "delay": 60_000}}])
    async with jobs.process("watch", every=SLOW), jobs.process("worker"):
        await jobs.until({"job": [*RUN, "failed"]})
        await jobs.do(how)
        await jobs.until({"job": [*RUN, "failed", "failed"]})
        await asyncio.sleep(SLOW / 1000)
        assert jobs.told() == {"job": [*RUN, "failed", "failed"]}


@BOTH
async def test_a_worker_tells_the_watch_of_its_process_what_it_runs(jobs: Jobs) -> None:
    """So a job that came and went between two looks has its end."""
    async with jobs.process("worker", every=SLOW):
        await jobs.do(["add", "job", "breaks", {"attempts": 3, "backoff": {"type": "fixed", "delay": 60_000}}])
        await jobs.until({"job": [*RUN, "failed"]}, seconds=4)
        await jobs.do(["obliterate", {"force": True}])
        await jobs.until({"job": [*RUN, "failed", "failed"]})


async def test_what_ended_before_its_queue_was_obliterated_has_no_second_end(jobs: Jobs) -> None:
    """A watch that knows the job from its first attempt can't read any more that there was another."""
    async with jobs.process("worker"):
        await jobs.do(["add", "job", "limps", {"attempts": 2, "backoff": {"type": "fixed", "delay": 3000}}])
        async with jobs.process("watch", every=SLOW):
            await jobs.until({"job": [*RUN, "failed", *RUN, "completed"]})
            await jobs.do(["obliterate", {"force": True}], ["add", "new", "succeeds", {"delay": 60_000}])
            await asyncio.sleep(2 * SLOW / 1000)
            assert jobs.told() == {"job": [*RUN, "failed", *RUN, "completed"]}


async def test_an_obliterated_queue_ends_what_runs_in_it(jobs: Jobs) -> None:
    async with jobs.process("worker", **QUICK) as worker:
        await jobs.do(["add", "job", "naps", {}])
        await active(worker, "job")
        await asyncio.sleep(0.3)
        await jobs.do(["obliterate", {"force": True}], ["add", "new", "succeeds", {}])
        await jobs.until({"job": [*RUN, "failed"], "new": [*RUN, "completed"]})


async def test_what_a_body_says_of_its_own_failure_is_told_as_bullmq_takes_it(jobs: Jobs) -> None:
    retries = {"attempts": 2, "backoff": {"type": "fixed", "delay": 50}}
    async with jobs.process("worker"):
        await jobs.do(["add", "returns", "says_it_failed", retries], ["add", "throws", "says_it_and_throws", retries])
        await jobs.until({"returns": [*RUN, "failed"], "throws": [*RUN, "failed"] * 2})
    again = {(each["operationId"], each["error_code"], each["retryable"]) for each in jobs.data("failed")}
    wanted = {("returns", "UPSTREAM_UNAVAILABLE", False), ("throws", "UNKNOWN", True), ("throws", "UNKNOWN", False)}
    assert again == wanted


async def test_a_job_that_is_added_again_is_not_told_its_predecessors_end(jobs: Jobs) -> None:
    async with jobs.process("worker"):
        await jobs.do(["add", "job", "succeeds", {"delay": 60_000}])
        await asyncio.sleep(1)
        await jobs.do(["remove", "job"], ["add", "job", "naps", {}])
        await jobs.until({"job": [*RUN, "completed"]})


async def test_a_worker_that_crashes_tells_that_its_jobs_go_on(jobs: Jobs) -> None:
    async with jobs.process("worker", **QUICK) as first:
        await jobs.do(["add", "job", "crashes_once", {}])
        assert await asyncio.wait_for(first.wait(), 10) == 1
        async with jobs.process("worker", **QUICK):
            await jobs.until({"job": [*RUN, "failed", *RUN, "completed"]})
    assert jobs.data("failed")[0]["retryable"] is True


async def test_a_worker_that_is_closed_by_force_leaves_the_end_to_the_next(jobs: Jobs) -> None:
    async with jobs.process("worker", **QUICK) as first:
        await jobs.do(["add", "job", "naps", {}])
        await active(first, "job")
        assert first.stdin
        first.stdin.write(b"close by force\n")
        async with jobs.process("worker", **QUICK):
            await jobs.until({"job": [*RUN, *RUN, "completed"]})


async def test_a_worker_that_is_told_to_end_does_so_while_redis_stands_still(jobs: Jobs) -> None:
    async with jobs.process("worker") as worker:
        await jobs.do(["add", "job", "hangs", {}])
        await active(worker, "job")
        assert jobs.server.process
        jobs.server.process.send_signal(signal.SIGSTOP)
        try:
            worker.terminate()
            assert await asyncio.wait_for(worker.wait(), 6) == -signal.SIGTERM
        finally:
            jobs.server.process.send_signal(signal.SIGCONT)


async def test_a_cancelled_job_has_failed(jobs: Jobs) -> None:
    async with jobs.process("worker") as worker:
        await jobs.do(["add", "job", "hangs", {"attempts": 3}])
        await active(worker, "job")
        assert worker.stdin
        worker.stdin.write(b"job\n")
        await jobs.until({"job": [*RUN, "failed"]})
    [failed] = [each for each in jobs.data("failed") if "attempt" in each]
    assert (failed["message"], failed["retryable"]) == ("The sync was cancelled", False)


@BOTH
async def test_a_worker_that_is_told_to_end_hands_its_jobs_over(jobs: Jobs) -> None:
    """Not to itself, however long its end takes, and it takes no other."""
    async with jobs.process("worker", lingers=True) as first:  # with BullMQ's own lock of 30 s
        await jobs.do(["add", "job", "hangs_where_it_ends", {}])
        await active(first, "job")
        async with jobs.process("worker"):
            first.send_signal(signal.SIGTERM)
            await jobs.do(["add", "next", "hangs_where_it_ends", {}])
            assert await asyncio.wait_for(first.wait(), 5) == -signal.SIGTERM
            wanted = {"job": [*RUN, "failed", *RUN, "completed"], "next": [*RUN, "completed"]}
            await jobs.until(wanted, seconds=20)
    assert jobs.data("failed")[0]["retryable"] is True


async def test_a_worker_that_closes_waits_for_its_jobs(jobs: Jobs) -> None:
    async with jobs.process("worker", handler=True) as worker:
        await jobs.do(["add", "job", "naps", {}])
        await active(worker, "job")
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(worker.wait(), 8) == 0
        await jobs.until({"job": [*RUN, "completed"]})


async def test_a_worker_that_lost_its_lock_tells_no_end(jobs: Jobs) -> None:
    async with jobs.process("worker", **QUICK) as first, jobs.process("worker", **QUICK):
        await jobs.do(["add", "job", "blocks_once", {}])
        await jobs.until({"job": [*RUN, *RUN, "completed"]})
        assert first.returncode is None
        await asyncio.sleep(4)  # the first one comes to itself
        await jobs.until({"job": [*RUN, *RUN, "completed"]})
        assert await jobs.do(["state", "job"]) == "completed\n"
    assert len(jobs.data("completed")) == 1
    assert not [each for each in jobs.data("failed") if "attempt" in each]


async def test_a_job_that_is_tried_again_by_hand_begins_anew(jobs: Jobs) -> None:
    async with jobs.process("worker"), jobs.process("watch"):
        await jobs.do(["add", "job", "limps", {}])
        await jobs.until({"job": [*RUN, "failed"]})
        await jobs.do(["retry", "job"])
        await jobs.until({"job": [*RUN, "failed", *RUN, "completed"]})


async def active(worker: Process, id: str) -> None:
    assert worker.stdout
    while await asyncio.wait_for(worker.stdout.readline(), 15) != f"active {id}\n".encode():
        pass
    await asyncio.sleep(0.2)  # its first events are in Redis
