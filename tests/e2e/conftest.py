"""Fixtures of the tests with real processes: whatever a test starts is gone when it ends."""

from collections.abc import Callable, Iterator

import pytest

from tests.e2e.process import Process

Launch = Callable[..., Process]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Starts gateways: `launch(SSE_REDIS_URL=…)`; ready when it returns."""
    started: list[Process] = []

    def begin(*before: str, **settings: str) -> Process:
        process = Process(*before, **settings)
        started.append(process)
        process.start()
        return process

    yield begin
    for process in started:
        process.kill()
