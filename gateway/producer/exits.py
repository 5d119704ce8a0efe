"""The end of a process: every operation that is open is told its end, however the process ends, as far as it can know.

SIGKILL and a lost machine tell nobody; the gateway's `operation_stalled` is the answer to those.
"""

import atexit
import os
import signal
import threading
import weakref
from types import FrameType
from typing import Protocol

from gateway.producer.outbox import log


class Exiting(Protocol):
    """A producer."""

    def on_exit(self) -> None:
        """Ends every open operation and sees that it is told."""

    def forked(self) -> None:
        """Begins anew in a child process: what is open and unsent is its parent's."""


_producers: "weakref.WeakSet[Exiting]" = weakref.WeakSet()


def watch(producer: Exiting) -> None:
    """Has a producer told of the end, of forks, and of SIGTERM where the program leaves that to the system."""
    _producers.add(producer)
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)


def _exit() -> None:
    for producer in list(_producers):
        try:
            producer.on_exit()
        except Exception:
            log.exception("the last words could not be sent")


def _terminated(number: int, frame: FrameType | None) -> None:
    """Ends as the system would have it, after the last words, which a second signal doesn't cut short."""
    signal.signal(number, signal.SIG_IGN)
    _exit()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _forked() -> None:
    if signal.getsignal(signal.SIGTERM) is _terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for producer in list(_producers):
        producer.forked()


atexit.register(_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
