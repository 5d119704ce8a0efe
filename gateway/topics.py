"""Who is live in which topic, so that one look finds everybody whom an event is for.

Plain tables of subscribers. Never writes to one, never knows the history.
"""

from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from gateway.event import ZERO, Key
from gateway.scope import Scope


class Live(Protocol):
    """What a subscriber is to a topic."""

    scope: Scope
    shares: bool  # gets every event of its single topic, so that it can be given shared bytes
    send: Callable[[bytes], int]  # socket.send of its non-blocking socket; wanted of one that shares, while it is live


S = TypeVar("S", bound=Live)


class Topic(Generic[S]):
    """The live subscribers of one topic: those that share bytes, and those that choose for themselves.

    Of those that share, the topic keeps the place, so that a delivery costs one `send` and nothing else: `told` is
    the id of the newest event that they were given, `advised` the number of the last advice, `sent_at` the time of
    the last of either (seconds, time.monotonic).
    """

    __slots__ = ("advised", "choosing", "sent_at", "sharing", "told")

    def __init__(self) -> None:
        self.sharing: dict[S, Callable[[bytes], int]] = {}  # with its `send`
        self.choosing: dict[S, None] = {}
        self.told = ZERO
        self.advised = 0
        self.sent_at = 0.0

    def __bool__(self) -> bool:
        return bool(self.sharing or self.choosing)


class Topics(Generic[S]):
    """Every topic that somebody is live in. An event belongs to that of its pair, of its bare operation id, of its
    project, and to everything.
    """

    def __init__(self) -> None:
        self.operations: dict[str | Key, Topic[S]] = {}
        self.projects: dict[str | Key, Topic[S]] = {}
        self.everything: Topic[S] = Topic()

    def __bool__(self) -> bool:
        return bool(self.operations or self.projects or self.everything)

    def add(self, subscriber: S) -> Topic[S] | None:
        """Puts a subscriber into the topics of its scope. For one that shares, returns its topic."""
        for table, name in self._places(subscriber.scope):
            topic = self.everything if table is None else table.setdefault(name, Topic())
            if subscriber.shares:
                topic.sharing[subscriber] = subscriber.send
                return topic
            topic.choosing[subscriber] = None
        return None

    def remove(self, subscriber: S) -> None:
        """Takes it out, wherever it is."""
        for table, name in self._places(subscriber.scope):
            topic = self.everything if table is None else table.get(name)
            if topic is not None:
                topic.sharing.pop(subscriber, None)
                topic.choosing.pop(subscriber, None)
                if table is not None and not topic:
                    del table[name]

    def _places(self, scope: Scope) -> Iterator[tuple[dict[str | Key, Topic[S]] | None, str | Key]]:
        if not scope.size:
            yield None, ""
        for name in scope.named():
            yield self.operations, name
        for id in scope.projects:
            yield self.projects, id
