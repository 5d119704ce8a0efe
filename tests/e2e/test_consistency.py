"""Three quarters of a minute of `make consistency`."""

import pytest

from tests.consistency import FAULTS, consistency
from tests.redis_server import binary, version


@pytest.mark.skipif(version(binary()) < (7, 0), reason="Redis 6 tells too little for no false alarm")
async def test_what_listeners_saw_is_what_survived_or_they_were_told() -> None:
    """Whether a gap that was told was a true one is judged by `make consistency` alone: by what the masters held at
    that moment, which a machine that is busy with other tests may be too slow to see.
    """
    world, wrong, _, checked = await consistency(0.75)
    assert [line for line in wrong if "cried wolf" not in line] == []
    assert checked > 1000
    assert len(world.times) >= len(FAULTS) // 3
