"""The kit for threads and scripts: the same core, sent by one daemon thread."""

import random
import threading
import time
from collections.abc import Iterable
from typing import Any, Self

from gateway.producer import exits
from gateway.producer.core import STOPPED, Attempt, Classify, Sync, Told, Trim
from gateway.producer.errors import github_error
from gateway.producer.outbox import Entry, Outbox, log
from gateway.producer.sending import BACKOFF, LEAVE, is_redis, sent, xadd


class Producer:
    """Publishes to one stream through a client of redis-py, plain or cluster, of which it borrows connections.

    `limit` bounds the events kept while Redis is away, `flush` the seconds that closing waits. `classify` makes the
    standard error of an exception. The client's own socket timeout bounds one sending.
    """

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
        self._redis = redis
        self._stream = stream
        self._trim = trim or Trim()
        self._limit = limit
        self._flush = flush
        self.classify = classify
        self.forked()
        exits.watch(self)

    def forked(self) -> None:
        self._outbox = Outbox(self._limit)
        self._changed = threading.Condition()
        self._open: set[Attempt] = set()
        self._away: float | None = None  # since when Redis can't be reached
        self._thread: threading.Thread | None = None

    @property
    def dropped(self) -> int:
        """Events that never reached Redis."""
        return self._outbox.dropped

    def operation(
        self,
        operation_id: object,
        project_id: object,
        *,
        direction: str,
        sync_mode: str | None = None,
        attempt: int | None = None,
        attempts: int | None = None,
    ) -> "Operation":
        """One sync. `attempt` of `attempts`, from 1, as its queue counts: without them no `failed` says that another
        attempt will come.
        """
        sync = Sync(str(operation_id), str(project_id), direction, sync_mode, attempt, attempts)
        return Operation(Attempt(sync, self._emit, time.monotonic, time.time), self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits at most `flush` seconds for what is still to be sent; the rest is counted and logged."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._outbox, self._flush):
                log.error("%d events were not published: Redis is away", self._outbox.give_up())

    def on_exit(self) -> None:
        """Ends every open operation, of all threads, and waits until that is in Redis, 2 s at most. For a program's own
        signal handler; where it has none for SIGTERM, and at a normal exit, this is called by itself.
        """
        for attempt in list(self._open):
            attempt.fail(STOPPED)
        with self._changed:
            if not self._changed.wait_for(lambda: not self._outbox, LEAVE):
                log.error("%d events were not published: Redis is away", self._outbox.give_up())

    def begin(self, attempt: Attempt) -> None:
        self._open.add(attempt)

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
            try:
                pipe = self._redis.pipeline(transaction=False)
                for _, entry in batch:
                    pipe.execute_command(*xadd(entry, self._stream, self._trim, time.time()))
                gone, error = sent(batch, pipe.execute(raise_on_error=False))
            except Exception as problem:  # whatever the client raises: the sync must not notice
                gone, error = [], problem
                if not is_redis(problem):
                    log.exception("events can't be sent, and are left out")
                    gone = [number for number, _ in batch]
            with self._changed:
                for number in gone:
                    self._outbox.remove(number)
                self._away = None if error is None else self._away or began
                self._changed.notify_all()
            if error is None:
                delay = BACKOFF[0]
                continue
            log.warning("events wait for Redis: %s: %s", type(error).__name__, error)
            time.sleep(delay * random.uniform(0.5, 1.5))
            delay = min(delay * 2, BACKOFF[1])


class Operation(Told):
    """One sync, in a `with` block; see AsyncOperation."""

    def __init__(self, attempt: Attempt, producer: Producer) -> None:
        super().__init__(attempt, producer.classify)
        self._producer = producer

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
