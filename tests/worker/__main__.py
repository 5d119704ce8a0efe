"""The sample worker: `python -m tests.worker`. Syncs again and again, with pauses, and writes what happens.

Environment: SSE_REDIS_URL, SSE_STREAM, REPO (a repository to sync a copy of), PAUSE (seconds), ROUNDS (0 = for ever).
"""

import itertools
import os
import signal
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

import redis

from gateway.producer import Operation, Producer
from tests.worker.git import GitError
from tests.worker.sync import Sync
from tests.worker.workshop import PROTECTED, Workshop

SCENES = {
    "push": "to_github",
    "fetch": "from_github",
    "conflict": "to_github",
    "not_fast_forward": "to_github",
    "protected": "to_github",
}


def play(scene: str, workshop: Workshop, op: Operation) -> None:
    if scene == "fetch":
        Sync(workshop.project, op).from_github(workshop.branch)
    else:
        branch = PROTECTED if scene == "protected" else workshop.branch
        Sync(workshop.project, op).to_github(branch, merge=scene == "conflict")


def prepare(scene: str, workshop: Workshop) -> None:
    """Puts the repository into the state that the scene is about."""
    if scene == "conflict":
        workshop.both_edit(3)
    if scene in ("fetch", "not_fast_forward"):
        workshop.colleague_pushes(120 if scene == "fetch" else 5)
    if scene != "fetch":
        workshop.edit(150 if scene == "push" else 40)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    client = redis.Redis.from_url(os.environ.get("SSE_REDIS_URL") or "redis://127.0.0.1:6379/0", socket_timeout=2)
    pause, rounds = float(os.environ.get("PAUSE", "3")), int(os.environ.get("ROUNDS", "0"))
    repository = os.environ.get("REPO")
    with (
        tempfile.TemporaryDirectory(prefix="sse-worker-") as folder,
        Producer(client, stream=os.environ.get("SSE_STREAM") or "github:sync:events") as producer,
    ):
        workshop = Workshop(Path(folder), Path(repository).resolve() if repository else None)
        for number, scene in enumerate(itertools.cycle(SCENES), 1):
            prepare(scene, workshop)
            name = f"{scene}-{uuid.uuid4().hex[:8]}"
            attempts = 2 if scene == "not_fast_forward" else 1
            for attempt in range(1, attempts + 1):
                told = {"direction": SCENES[scene], "attempt": attempt, "attempts": attempts}
                with suppress(GitError), producer.operation(name, "sample", **told) as op:
                    play(scene, workshop, op)
                    break
                time.sleep(pause / 2)  # as a queue would
                workshop.settle()
                workshop.edit(40)
            if number == rounds:
                return
            time.sleep(pause)


main()
