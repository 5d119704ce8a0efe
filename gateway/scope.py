"""What a request asked for, and whether an event is in it. Pure; says nothing about who may ask (auth.py)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, Protocol

from gateway.event import Key


class HasKey(Protocol):
    """An event of an operation, or advice on one."""

    @property
    def key(self) -> Key: ...


Kind = Literal["operation", "project", "multi"]
Sees = Callable[[Key], bool]
"""Whether the events of this operation may be shown."""
MAX_FILTERS: Final = 64


@dataclass(frozen=True, slots=True)
class Scope:
    """The topics of one request: a union of operations and projects, or everything when all are empty.

    `operations` are bare ids, each of which stands for that operation of every project; `pairs` name theirs. `kind` is
    the endpoint it came by (the metrics' label); only an `operation` stream ends with its operation.
    """

    kind: Kind
    operations: frozenset[str] = frozenset()
    projects: frozenset[str] = frozenset()
    pairs: frozenset[Key] = frozenset()
    size: int = field(init=False)
    """How many topics it is; 0 for everything."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", len(self.operations) + len(self.projects) + len(self.pairs))

    @property
    def everything(self) -> bool:
        return not self.size

    @property
    def single(self) -> bool:
        """Whether this is one topic, so that its subscribers can share bytes."""
        return self.size <= 1

    def named(self) -> Iterator[str | Key]:
        """The operations that it names, one by one: a bare id, or a pair."""
        yield from self.operations
        yield from self.pairs

    def __contains__(self, item: HasKey) -> bool:
        return self.covers(item.key)

    def covers(self, key: Key) -> bool:
        """Whether this operation is in it."""
        project, operation = key
        return not self.size or operation in self.operations or project in self.projects or key in self.pairs


class Wish(NamedTuple):
    """What one request asks for beside its scope, and how it is answered.

    Where to begin, how many ended operations to tell of, whether to go on after the end of a single operation; when the
    stream ends (time.monotonic seconds), that chunks are understood, which HTTP/1.0 doesn't, and the request's id and
    time (epoch seconds).
    """

    last_event_id: str | None = None
    ended: int = 0
    follow: bool = False
    expires: float | None = None
    chunked: bool = True
    request_id: str = ""
    since: float = 0.0
