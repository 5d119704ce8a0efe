"""The sample worker: `python -m tests.worker`. Syncs again and again, with pauses, and writes what happens.

Environment: SSE_REDIS_URL, SSE_STREAM, REPO (a repository to sync a copy of), PAUSE (seconds), ROUNDS (0 = for ever).
"""

import itertools
import json
import os
import signal
import sys
import tempfile
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import redis

from tests.worker.sync import Publish, Sync
from tests.worker.workshop import PROTECTED, Workshop

SCENES = ("push", "fetch", "conflict", "not_fast_forward", "protected")


def publisher(client: redis.Redis, stream: str, project: str, operation: str) -> Publish:
    """Writes one operation's events by the contract: one XADD each."""

    def publish(type: str, **data: object) -> None:
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        body = {"operationId": operation, "projectId": project, "timestamp": stamp} | data
        fields = {"buildId": f"github-{project}", "type": type, "data": json.dumps(body), "timestamp": stamp}
        client.xadd(stream, fields, maxlen=100_000, approximate=True)

    return publish


def play(scene: str, workshop: Workshop, publish: Publish) -> None:
    sync = Sync(workshop.project, publish)
    if scene == "push":
        workshop.edit(150)
        sync.to_github(workshop.branch, merge=False)
    elif scene == "fetch":
        workshop.colleague_pushes(120)
        sync.from_github(workshop.branch)
    elif scene == "conflict":
        workshop.both_edit(3)
        sync.to_github(workshop.branch, merge=True)
    elif scene == "not_fast_forward":
        workshop.colleague_pushes(5)
        workshop.edit(40)
        sync.to_github(workshop.branch, merge=False)
        workshop.settle()
    else:
        workshop.edit(40)
        sync.to_github(PROTECTED, merge=False)
        workshop.settle()


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    client = redis.Redis.from_url(os.environ.get("SSE_REDIS_URL") or "redis://127.0.0.1:6379/0")
    stream = os.environ.get("SSE_STREAM") or "github:sync:events"
    pause, rounds = float(os.environ.get("PAUSE", "3")), int(os.environ.get("ROUNDS", "0"))
    repository = os.environ.get("REPO")
    with tempfile.TemporaryDirectory(prefix="sse-worker-") as folder:
        workshop = Workshop(Path(folder), Path(repository).resolve() if repository else None)
        for number, scene in enumerate(itertools.cycle(SCENES), 1):
            play(scene, workshop, publisher(client, stream, "sample", f"{scene}-{uuid.uuid4().hex[:8]}"))
            if number == rounds:
                return
            time.sleep(pause)


main()
