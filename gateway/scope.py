"""What a request asked for, and whether an event is in it. Pure; says nothing about who may ask (auth.py)."""

from dataclasses import dataclass
from typing import Final, Literal

from gateway.event import Event

Kind = Literal["operation", "project", "multi"]
MAX_FILTERS: Final = 64


@dataclass(frozen=True, slots=True)
class Scope:
    """The topics of one request: a union of operations and projects, or everything when both are empty.

    `kind` is the endpoint it came by (the metrics' label); only an `operation` stream ends with its operation.
    """

    kind: Kind
    operations: frozenset[str] = frozenset()
    projects: frozenset[str] = frozenset()

    @property
    def everything(self) -> bool:
        return not self.operations and not self.projects

    @property
    def single(self) -> bool:
        """Whether this is one topic, so that its subscribers can share bytes."""
        return len(self.operations) + len(self.projects) <= 1

    def __contains__(self, event: Event) -> bool:
        return self.everything or event.operation in self.operations or event.project in self.projects
