"""The kit for threads and scripts: the same core, sent by one daemon thread."""

import random
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, Self

from gateway.producer.core import Attempt, Classify, Told, Trim
from gateway.producer.errors import github_error
from gateway.producer.outbox import Entry
from gateway.producer.sending import BACKOFF, LEAVE, Sending


class Operation(Told):
    """One sync, in a `with` block; see AsyncOperation."""

    def __enter__(self) -> Self:
        self._producer.begin(self.attempt)
        self.tell(self.attempt.start)
        return self

    def __exit__(self, _: object, exception: BaseException | None, __: object) -> None:
        self.leave(exception)
        self._producer.settle(self.attempt)

    def progress(self, percent: float, message: object, *, step: object = None) -> None:
        """See AsyncOperation."""
        self.tell(self.attempt.progress, percent, message, step)

    def conflict(self, paths: Iterable[object], *, strategy: str, **more: Any) -> None:
        """See AsyncOperation."""
        self.tell(self.attempt.conflict, paths, strategy, **more)


class Producer(Sending[Operation]):
    """Publishes to one stream through a client of redis-py, plain or cluster, of which it borrows connections.

    `limit` bounds the events kept while Redis is away, `flush` the seconds that closing waits. `classify` makes the
    standard error of an exception. The client's own socket timeout bounds one sending.
    """

    form = Operation

    def __init__(
        self,
        redis: Any,
        *,
        stream: str = "github:sync:events",
        trim: Trim | None = None,
        limit: int = 10_000,
        flush: float = 5.0,
        classify: Classify = github_error,
    ) -> None:
        super().__init__(redis, stream, trim, limit, flush, classify)

    def forked(self) -> None:
        super().forked()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits at most `flush` seconds for what is still to be sent; the rest is counted and logged."""
        with self._changed:
            self._changed.wait_for(lambda: not self._outbox, self._flush)
            self._give_up()

    def on_exit(self) -> None:
        """Ends every open operation, of all threads, and waits until that is in Redis, 2 s at most. For a program's own
        signal handler; where it has none for SIGTERM, and at a normal exit, this is called by itself.
        """
        self._stop_open()
        with self._changed:
            self._changed.wait_for(lambda: not self._outbox, LEAVE)
            self._give_up()

    def settle(self, attempt: Attempt) -> None:
        """Waits until the end of an attempt is in Redis, 2 s at most, and not at all while Redis is away for longer."""
        self._open.discard(attempt)
        if attempt.end is None:
            return
        end, deadline = attempt.end, time.monotonic() + LEAVE
        with self._changed:
            while end in self._outbox:
                until = deadline if self._away is None else min(deadline, self._away + LEAVE)
                if not self._changed.wait(until - time.monotonic()) and time.monotonic() >= until:
                    return

    def _emit(self, entry: Entry) -> int:
        with self._changed:
            number = self._outbox.add(entry)
            self._changed.notify_all()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._send, name="sse-producer", daemon=True)
                self._thread.start()
            return number

    def _send(self) -> None:
        delay = BACKOFF[0]
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._outbox)
                batch = self._outbox.batch()
            began = time.monotonic()
            came: Sequence[Any] | Exception
            try:
                came = self._pipeline(batch).execute(raise_on_error=False)
            except Exception as problem:  # whatever the client raises: the sync must not notice
                came = problem
            with self._changed:
                error = self._sent(batch, came, began)
                self._changed.notify_all()
            if error is None:
                delay = BACKOFF[0]
                continue
            time.sleep(delay * random.uniform(0.5, 1.5))
            delay = min(delay * 2, BACKOFF[1])
