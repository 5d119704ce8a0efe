"""A minute of `make consistency`."""

import pytest

from tests.consistency import FAULTS, consistency
from tests.redis_server import binary, version


@pytest.mark.skipif(version(binary()) < (7, 0), reason="Redis 6 tells too little for no false alarm")
async def test_what_listeners_saw_is_what_survived_and_no_gap_is_told_where_nothing_was_lost() -> None:
    world, wrong, _, checked = await consistency(1.0)
    assert wrong == []
    assert checked > 1000
    assert len(world.times) >= len(FAULTS) // 2
