"""What all connections share, and the states that each can be in."""

from dataclasses import dataclass
from enum import Enum, auto

from gateway.archive import Archive
from gateway.hub import Hub


class State(Enum):
    """The life of a connection. It begins READING; LIVE and READING alternate, and so do STUCK and READING."""

    READING = auto()
    """It reads the history by itself, a slice a turn."""
    STUCK = auto()
    """The socket is full: it waits for the client to read."""
    AWAY = auto()
    """It waits for what memory doesn't hold or know, and Redis may (archive.py)."""
    LIVE = auto()
    """The hub writes to it."""
    OVER = auto()
    """Nothing is written any more but what waits in the transport."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What all connections share. Times in seconds."""

    hub: Hub
    archive: Archive
    heartbeat: float
    slow_client_timeout: float
