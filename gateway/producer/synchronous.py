"""The kit for threads and scripts: the same core, sent by one daemon thread."""

import atexit
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from gateway.producer.asynchronous import BACKOFF, SKEW_MS, was_written
from gateway.producer.core import Attempt, Entry, Outbox, Told, Trim, log
from gateway.producer.errors import github_error


class Producer:
    """Publishes to one stream through a `redis` client; see AsyncProducer for the parameters.

    The client's own socket timeout bounds one XADD. Closes itself when the process exits.
    """

    def __init__(
        self,
        redis: Any,
        *,
        stream: str = "github:sync:events",
        trim: Trim | None = None,
        limit: int = 1000,
        flush: float = 5.0,
        classify: Callable[[BaseException], dict[str, Any]] = github_error,
    ) -> None:
        self._redis = redis
        self._stream = stream
        self._trim = trim or Trim()
        self._flush = flush
        self._outbox = Outbox(limit)
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        self.classify = classify
        atexit.register(self.close)

    @property
    def dropped(self) -> int:
        """Events that never reached Redis."""
        return self._outbox.dropped

    def operation(
        self, operation_id: str, project_id: str, *, direction: str, sync_mode: str | None = None
    ) -> "Operation":
        attempt = Attempt(operation_id, project_id, direction, sync_mode, self._emit, time.monotonic, time.time)
        return Operation(attempt, self.classify)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits at most `flush` seconds for what is still to be sent; the rest is counted and logged."""
        atexit.unregister(self.close)
        with self._changed:
            if not self._changed.wait_for(lambda: not self._outbox, self._flush):
                log.error("%d events were not published: Redis is away", self._outbox.give_up())
            self._closed = True
            self._changed.notify_all()

    def _emit(self, entry: Entry) -> None:
        with self._changed:
            self._outbox.add(entry)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._send, name="sse-producer", daemon=True)
                self._thread.start()

    def _send(self) -> None:
        delay, doubtful = BACKOFF[0], 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._outbox or self._closed)
                if not self._outbox:
                    return
                entry = self._outbox.first()
            began = time.time()
            try:
                if not doubtful or not self._is_there(entry, doubtful):
                    self._execute(*entry.command(self._stream, self._trim, began))
                delay, doubtful = BACKOFF[0], 0.0
                with self._changed:
                    self._outbox.remove(entry)
                    self._changed.notify_all()
            except Exception as error:  # whatever the client raises: the sync must not notice
                log.warning("an event waits for Redis: %s: %s", type(error).__name__, error)
                doubtful = doubtful or began
                time.sleep(delay * random.uniform(0.5, 1.5))
                delay = min(delay * 2, BACKOFF[1])

    def _is_there(self, entry: Entry, since: float) -> bool:
        reply = self._execute("XRANGE", self._stream, f"{int(since * 1000) - SKEW_MS}-0", "+")
        return was_written(entry, reply)

    def _execute(self, *command: str | int) -> Any:
        """One command, sent once; see AsyncProducer."""
        pool = getattr(self._redis, "connection_pool", None)
        if pool is None:
            return self._redis.execute_command(*command)
        connection = pool.get_connection()
        try:
            connection.send_command(*command)
            return connection.read_response()
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)


class Operation(Told):
    """One sync, in a `with` block; see AsyncOperation."""

    def __enter__(self) -> Self:
        self.tell(self.attempt.start)
        return self

    def __exit__(self, _: object, exception: BaseException | None, __: object) -> None:
        self.leave(exception)

    def progress(self, percent: float, message: str, *, step: str | None = None) -> None:
        """See AsyncOperation."""
        self.tell(self.attempt.progress, percent, message, step)

    def conflict(self, paths: Sequence[str], *, strategy: str, **more: Any) -> None:
        """See AsyncOperation."""
        self.tell(self.attempt.conflict, paths, strategy, **more)
