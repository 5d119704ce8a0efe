"""The kit for asyncio: one task sends, so that a sync never waits for Redis."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Self

from gateway.producer.core import Attempt, Entry, Outbox, Told, Trim, log
from gateway.producer.errors import github_error

BACKOFF: Final = (0.05, 2.0)
"""Seconds before the first new try, and at the most."""
SKEW_MS: Final = 5000
"""How far the clocks of a worker and of Redis may be apart."""


class AsyncProducer:
    """Publishes to one stream through a `redis.asyncio` client, of which it borrows connections.

    `limit` bounds the events kept while Redis is away, `patience` the seconds that one XADD may take, `flush` those
    that closing waits. `classify` makes the standard error of an exception.
    """

    def __init__(
        self,
        redis: Any,
        *,
        stream: str = "github:sync:events",
        trim: Trim | None = None,
        limit: int = 1000,
        patience: float = 2.0,
        flush: float = 5.0,
        classify: Callable[[BaseException], dict[str, Any]] = github_error,
    ) -> None:
        self._redis = redis
        self._stream = stream
        self._trim = trim or Trim()
        self._patience = patience
        self._flush = flush
        self._outbox = Outbox(limit)
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._task: asyncio.Task[None] | None = None
        self.classify = classify

    @property
    def dropped(self) -> int:
        """Events that never reached Redis."""
        return self._outbox.dropped

    def operation(
        self, operation_id: str, project_id: str, *, direction: str, sync_mode: str | None = None
    ) -> "AsyncOperation":
        attempt = Attempt(operation_id, project_id, direction, sync_mode, self._emit, time.monotonic, time.time)
        return AsyncOperation(attempt, self.classify)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Waits at most `flush` seconds for what is still to be sent; the rest is counted and logged."""
        try:
            async with asyncio.timeout(self._flush):
                await self._empty.wait()
        except TimeoutError:
            log.error("%d events were not published: Redis is away", self._outbox.give_up())
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def _emit(self, entry: Entry) -> None:
        self._outbox.add(entry)
        self._empty.clear()
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        delay, doubtful = BACKOFF[0], 0.0
        while True:
            if not self._outbox:
                self._empty.set()
                self._wake.clear()
                await self._wake.wait()
            entry = self._outbox.first()
            began = time.time()
            try:
                async with asyncio.timeout(self._patience):
                    if not doubtful or not await self._is_there(entry, doubtful):
                        await self._execute(*entry.command(self._stream, self._trim, began))
                self._outbox.remove(entry)
                delay, doubtful = BACKOFF[0], 0.0
            except Exception as error:  # whatever the client raises: the sync must not notice
                log.warning("an event waits for Redis: %s: %s", type(error).__name__, error)
                doubtful = doubtful or began
                await asyncio.sleep(delay * random.uniform(0.5, 1.5))
                delay = min(delay * 2, BACKOFF[1])

    async def _is_there(self, entry: Entry, since: float) -> bool:
        """Whether an XADD whose reply was lost has arrived all the same: it must not be published twice."""
        reply = await self._execute("XRANGE", self._stream, f"{int(since * 1000) - SKEW_MS}-0", "+")
        return was_written(entry, reply)

    async def _execute(self, *command: str | int) -> Any:
        """One command, sent once: redis-py's own retries would publish an event twice whose reply was lost."""
        pool = getattr(self._redis, "connection_pool", None)
        if pool is None:  # a cluster client routes by itself
            return await self._redis.execute_command(*command)
        connection = await pool.get_connection()
        try:
            await connection.send_command(*command)
            return await connection.read_response()
        except BaseException:
            await connection.disconnect(nowait=True)  # what is left of the reply belongs to nobody
            raise
        finally:
            await pool.release(connection)


def was_written(entry: Entry, reply: Any) -> bool:
    """Whether an XRANGE reply, in whatever form the client parses it, holds the entry's own `data`."""
    data = entry.fields[entry.fields.index("data") + 1]
    for _, fields in reply:
        values = fields.values() if isinstance(fields, dict) else fields
        if any(value in (data, data.encode()) for value in values):
            return True
    return False


class AsyncOperation(Told):
    """One sync. Leaving the block publishes the terminal event, exactly once, and lets any exception go on."""

    async def __aenter__(self) -> Self:
        self.tell(self.attempt.start)
        return self

    async def __aexit__(self, _: object, exception: BaseException | None, __: object) -> None:
        self.leave(exception)

    async def progress(self, percent: float, message: str, *, step: str | None = None) -> None:
        """Tells how far it is, 0-100; left out when it moved less than 5 points within a second. Never waits."""
        self.tell(self.attempt.progress, percent, message, step)

    async def conflict(self, paths: Sequence[str], *, strategy: str, **more: Any) -> None:
        """Tells of files changed on both sides; `strategy` is github_wins, local_wins or manual_review.

        `details` may hold localCommitSha, remoteCommitSha, baseCommitSha; `resolution_required` is true for
        manual_review unless it is given.
        """
        self.tell(self.attempt.conflict, paths, strategy, **more)
