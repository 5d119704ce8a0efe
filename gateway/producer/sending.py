"""What both forms of the kit do alike: what is open and unsent, and how it goes to Redis."""

import encodings.idna  # noqa: F401  a fork while a thread imports it, at its first connect, leaves the child without it
import time
from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

from gateway.producer import exits
from gateway.producer.core import STOPPED, Attempt, Classify, Sync, Told, Trim, whole
from gateway.producer.outbox import Entry, Outbox, log

BACKOFF: Final = (0.05, 2.0)
"""Seconds before the first new try, and at the most."""
LEAVE: Final = 2.0
"""Seconds that the end of a sync waits for Redis at most."""

Batch = Sequence[tuple[int, Entry]]
Form = TypeVar("Form", bound=Told)


class Sending(Generic[Form]):
    """A producer of operations of one form."""

    form: type[Form]

    def __init__(
        self, redis: Any, stream: str, trim: Trim | None, limit: int, flush: float, classify: Classify
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
        """Begins anew: in a fork, what is open and unsent is its parent's."""
        self._outbox = Outbox(self._limit)
        self._open: set[Attempt] = set()
        self._leaving = False  # the process ends: nothing new is begun
        self._away: float | None = None  # since when Redis can't be reached

    def on_exit(self) -> None:
        raise NotImplementedError

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
    ) -> Form:
        """One sync. `attempt` of `attempts`, from 1, as its queue counts: without them no `failed` says that another
        attempt will come.
        """
        sync = Sync(str(operation_id), str(project_id), direction, sync_mode, whole(attempt), whole(attempts))
        return self.form(Attempt(sync, self._emit, time.monotonic, time.time), self)

    def begin(self, attempt: Attempt) -> None:
        exits.watch(self)  # anew in a fork, which has its parent's producers
        self._open.add(attempt)
        if self._leaving:
            attempt.forget()

    def _emit(self, entry: Entry) -> int:
        raise NotImplementedError

    def _pipeline(self, batch: Batch) -> Any:
        """XADDs. Sent again because their reply was lost they change nothing: the gateway knows an event by its `run`
        and `seq`.
        """
        pipe = self._redis.pipeline(transaction=False)
        for _, entry in batch:
            pipe.execute_command("XADD", self._stream, *self._trim.words(time.time()), "*", *entry.fields)
        return pipe

    def _sent(self, batch: Batch, came: Sequence[Any] | Exception, began: float) -> Exception | None:
        """Takes out what Redis took of a batch, of which the replies or an exception came. The error, where there is
        one; what trying again won't help is left out.
        """
        if isinstance(came, Exception):
            error: Exception | None = came
            gone = [] if _is_redis(came) else [number for number, _ in batch]
            if gone:
                log.error("events can't be sent, and are left out", exc_info=came)
        else:
            error = next((reply for reply in came if isinstance(reply, Exception)), None)
            replied = zip(batch, came, strict=True)
            gone = [number for (number, _), reply in replied if not isinstance(reply, Exception)]
        for number in gone:
            self._outbox.remove(number)
        self._away = None if error is None else self._away or began
        if error is not None:
            log.warning("events wait for Redis: %s: %s", type(error).__name__, error)
        return error

    def _stop_open(self) -> None:
        self._leaving = True
        for attempt in list(self._open):
            attempt.fail(STOPPED)

    def _give_up(self) -> None:
        if self._outbox:
            log.error("%d events were not published: Redis is away", self._outbox.give_up())


def _is_redis(error: BaseException) -> bool:
    """Whether trying again may help: an error of Redis or of the way to it, by name, for redis is not imported."""
    ours = any(kind.__module__.split(".")[0] == "redis" for kind in type(error).__mro__)
    return (ours and type(error).__name__ != "DataError") or isinstance(error, (OSError, TimeoutError))
