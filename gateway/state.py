"""An operation as JSON has it: what its attempt came to, and what became of each of its entries."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import orjson

from gateway import frame
from gateway.event import ZERO, EntryId, format_id
from gateway.history import KINDS, History
from gateway.members import members
from gateway.operations import Operation
from gateway.shaping import DELIVERED

SCAN: Final = 20_000
"""Verdicts looked at in one turn."""


def state_of(operation: Operation) -> dict[str, object] | None:
    """Its state; the data's values as their worker wrote them. None where nothing was told yet."""
    attempt = operation.attempt()
    if not attempt:
        return None
    data: dict[str, bytes] = {}
    for event in attempt:
        data |= members(frame.data(event.frame))
    return {
        "type": attempt[-1].type,
        "id": format_id(attempt[-1].id),
        "terminal": operation.ended,
        "stalled": operation.stall > 0,
        "data": {name: orjson.Fragment(value) for name, value in data.items()},
    }


async def entries_of(operation: Operation, history: History) -> list[dict[str, str]]:
    """Every entry of it that is held, with what became of it; the loop turns meanwhile."""
    found: dict[EntryId, tuple[str, str]] = {}
    async for verdicts in _verdicts(operation, history):
        found.update(verdicts)
    for event in (*operation.events.follow(ZERO), *operation.attempt()):
        found.setdefault(event.id, (event.type, DELIVERED))
    return [{"id": format_id(id), "type": type, "outcome": outcome} for id, (type, outcome) in sorted(found.items())]


async def _verdicts(operation: Operation, history: History) -> AsyncIterator[dict[EntryId, tuple[str, str]]]:
    looked: EntryId | None = ZERO
    while looked is not None:
        kinds, looked = history.verdicts.of(operation.number, looked, SCAN)
        yield {id: KINDS[kind] for id, kind in kinds.items()}
        await asyncio.sleep(0)
