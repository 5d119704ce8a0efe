"""The kit for asyncio: whoever waits for an event sends it, a task of its own what nobody waits for.

So nothing depends on a task that may be cancelled with all others at the end of a program.
"""

import asyncio
import random
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Self

from gateway.producer.core import Attempt, Classify, Told, Trim
from gateway.producer.errors import github_error
from gateway.producer.outbox import Entry
from gateway.producer.sending import BACKOFF, LEAVE, Sending


class AsyncOperation(Told):
    """One sync. Leaving the block publishes the terminal event, exactly once, waits for Redis to take it (2 s at most),
    and lets any exception go on.
    """

    async def __aenter__(self) -> Self:
        self._producer.begin(self.attempt)
        self.tell(self.attempt.start)
        return self

    async def __aexit__(self, _: object, exception: BaseException | None, __: object) -> None:
        self.leave(exception)
        await self._producer.settle(self.attempt)

    async def progress(self, percent: float, message: object, *, step: object = None) -> None:
        """Tells how far it is, 0-100; left out when it moved less than 5 points within a second. Never waits."""
        self.tell(self.attempt.progress, percent, message, step)

    async def conflict(self, paths: Iterable[object], *, strategy: str, **more: Any) -> None:
        """Tells of files changed on both sides; `strategy` is github_wins, local_wins or manual_review.

        `details` may hold localCommitSha, remoteCommitSha, baseCommitSha; `resolution_required` is true for
        manual_review unless it is given.
        """
        self.tell(self.attempt.conflict, paths, strategy, **more)


class AsyncProducer(Sending[AsyncOperation]):
    """Publishes to one stream through a `redis.asyncio` client, plain or cluster, of which it borrows connections.

    `limit` bounds the events kept while Redis is away, `patience` the seconds that one sending may take, `flush` those
    that closing waits. `classify` makes the standard error of an exception.
    """

    form = AsyncOperation

    def __init__(
        self,
        redis: Any,
        *,
        stream: str = "github:sync:events",
        trim: Trim | None = None,
        limit: int = 10_000,
        patience: float = 2.0,
        flush: float = 5.0,
        classify: Classify = github_error,
    ) -> None:
        self._patience = patience
        self._delay = BACKOFF[0]
        self._loop: asyncio.AbstractEventLoop | None = None
        super().__init__(redis, stream, trim, limit, flush, classify)

    def forked(self) -> None:
        super().forked()
        self._enter(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Waits at most `flush` seconds for what is still to be sent; the rest is counted and logged."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._flush):
                while self._outbox:
                    await self._send_some()
        self._give_up()
        if self._task is not None and self._loop is asyncio.get_running_loop():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def on_exit(self) -> None:
        """Ends every open operation, and waits until that is in Redis, 2 s at most. For a program's own signal handler;
        where it has none for SIGTERM, and at a normal exit, this is called by itself.
        """
        self._stop_open()
        if self._outbox:
            # The loop that there was has ended, or stands still while this runs: it takes another, on another thread.
            thread = threading.Thread(target=lambda: asyncio.run(self._last_words()), name="sse-producer", daemon=True)
            with suppress(RuntimeError):  # no thread any more: the interpreter is going away
                thread.start()
                thread.join(LEAVE + 0.5)
        self._give_up()

    async def settle(self, attempt: Attempt) -> None:
        """Sends until the end of an attempt is in Redis, for 2 s at most; not at all where Redis is away for longer."""
        self._open.discard(attempt)
        if attempt.end is None:
            return
        left = LEAVE if self._away is None else self._away + LEAVE - time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(left):
                while attempt.end in self._outbox:
                    await self._send_some()

    async def _last_words(self) -> None:
        with suppress(AttributeError):  # uvloop's asks no executor, asyncio's takes nothing at the interpreter's end
            asyncio.get_running_loop().getaddrinfo = _resolved  # type: ignore[method-assign]
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE):
                while self._outbox:
                    await self._send_some()

    def _enter(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Nothing that belongs to one event loop is used in another."""
        pool = getattr(self._redis, "connection_pool", None)
        if self._loop is not None and (reset := getattr(pool, "reset", None)) is not None:
            reset()
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    def _emit(self, entry: Entry) -> int:
        number = self._outbox.add(entry)
        with suppress(RuntimeError):  # no loop runs: whoever waits sends it, or `on_exit`
            loop = asyncio.get_running_loop()
            if loop is not self._loop:
                self._enter(loop)
            if self._task is None or self._task.done():
                self._task = loop.create_task(self._send())
        return number

    async def _send(self) -> None:
        while self._outbox:
            await self._send_some()

    async def _send_some(self) -> None:
        """Sends what comes first, or waits a while where that failed."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._enter(loop)
        async with self._turn:
            batch, began = self._outbox.batch(), time.monotonic()
            if not batch:
                return
            came: Sequence[Any] | Exception
            try:
                async with asyncio.timeout(self._patience):
                    came = await self._pipeline(batch).execute(raise_on_error=False)
            except Exception as problem:  # whatever the client raises: the sync must not notice
                came = problem
            if self._sent(batch, came, began) is None:
                self._delay = BACKOFF[0]
                return
            await asyncio.sleep(self._delay * random.uniform(0.5, 1.5))
            self._delay = min(self._delay * 2, BACKOFF[1])


async def _resolved(*names: Any, **hints: Any) -> Any:
    return socket.getaddrinfo(*names, **hints)
