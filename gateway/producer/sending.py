"""How both forms of the kit speak with Redis: XADDs in a pipeline, and what the replies say."""

from collections.abc import Sequence
from typing import Any, Final

from gateway.producer.core import Trim
from gateway.producer.outbox import Entry

BACKOFF: Final = (0.05, 2.0)
"""Seconds before the first new try, and at the most."""
LEAVE: Final = 2.0
"""Seconds that the end of a sync waits for Redis at most."""


def xadd(entry: Entry, stream: str, trim: Trim, now: float) -> tuple[str | int, ...]:
    """The command for one event. Sent again because its reply was lost it changes nothing: the gateway knows it by its
    `run` and `seq`.
    """
    return "XADD", stream, *trim.words(now), "*", *entry.fields


def sent(batch: Sequence[tuple[int, Entry]], replies: Sequence[Any]) -> tuple[list[int], Exception | None]:
    """The numbers of what Redis took, and the first error among its replies."""
    errors = [reply for reply in replies if isinstance(reply, Exception)]
    gone = [number for (number, _), reply in zip(batch, replies, strict=True) if not isinstance(reply, Exception)]
    return gone, errors[0] if errors else None


def is_redis(error: BaseException) -> bool:
    """Whether trying again may help: an error of Redis or of the way to it, by name, for redis is not imported."""
    ours = any(kind.__module__.split(".")[0] == "redis" for kind in type(error).__mro__)
    return (ours and type(error).__name__ != "DataError") or isinstance(error, (OSError, TimeoutError))
