"""Sentinel and Cluster change their minds under load: listeners stay, and see what the stream holds or are told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
import redis.asyncio
from redis.asyncio.cluster import ClusterNode, RedisCluster

from tests.e2e.conftest import Launch
from tests.e2e.follower import Follower, Publisher, compare, tasks
from tests.redis_groups import Cluster, cluster, sentinel

KEY = "github:sync:events"


@asynccontextmanager
async def watching(
    launch: Launch, session: aiohttp.ClientSession, url: str, publisher: Publisher
) -> AsyncIterator[list[Follower]]:
    """Ten followers of a publisher under load; when the block ends, what they saw is held against the stream."""
    process = await asyncio.to_thread(launch, SSE_REDIS_URL=url, SSE_THROTTLE="off")
    await publisher.publish_now(20)
    followers = [Follower(session, process.url + "/api/projects/p-1/stream") for _ in range(10)]
    for follower in followers:
        follower.last = "0-0"
    async with tasks(*(follower.run for follower in followers), publisher.run):
        for follower in followers:
            await follower.reach(publisher.newest, 10)
        yield followers
        await publisher.publish_now(1)
        publisher.paused = True
        await asyncio.sleep(0.1)
        after = await publisher.publish_now(20)
        for follower in followers:
            await follower.reach(after[-1], 30)
    held = await publisher.held()
    verdicts = [compare(follower, held, after) for follower in followers]
    assert [(each.lost, each.doubled, each.strange) for each in verdicts] == [(0, 0, 0)] * len(followers)
    assert [len(follower.opened) for follower in followers] == [1] * len(followers), "a listener was dropped"


async def test_sentinel_fails_over_under_load(launch: Launch, session: aiohttp.ClientSession) -> None:
    with sentinel() as watched:
        await asyncio.to_thread(watched.wait_until_agreed)
        manager = redis.asyncio.Sentinel([("127.0.0.1", port) for port in watched.ports], socket_timeout=1)
        sentinels = list(manager.sentinels)  # two commands that look for the master at once may drop one from it
        client = manager.master_for("main", decode_responses=True, socket_timeout=1)
        try:
            async with watching(launch, session, watched.url, Publisher(client, KEY)) as followers:
                watched.master.kill()
                await asyncio.to_thread(watched.wait_until_promoted)
        finally:
            await client.aclose()
            for each in sentinels:
                await each.aclose()
        # Replication is asynchronous: the newest entries may have died with the master, and then that is said.
        assert {gap["reason"] for follower in followers for gap in follower.gaps} <= {"reset"}


def _moved(made: Cluster) -> None:
    made.migrate(KEY, (made.owner + 1) % 3)


def _failed_over(made: Cluster) -> None:
    made.clients[3].execute_command("CLUSTER", "FAILOVER")


def _killed(made: Cluster) -> None:
    made.clients[made.owner].execute_command("WAIT", 1, 5000)
    made.servers[made.owner].kill()


@pytest.mark.parametrize("change", [_moved, _failed_over, _killed])
async def test_a_cluster_changes_under_load(
    launch: Launch, session: aiohttp.ClientSession, change: Callable[[Cluster], None]
) -> None:
    with cluster(KEY, replica=True) as made:
        nodes = [ClusterNode("127.0.0.1", server.port) for server in made.servers]
        async with (
            RedisCluster(startup_nodes=nodes, decode_responses=True) as client,
            watching(launch, session, made.url, Publisher(client, KEY)) as followers,
        ):
            await asyncio.to_thread(change, made)
            await asyncio.sleep(1)
        reasons = {gap["reason"] for follower in followers for gap in follower.gaps}
        assert reasons <= ({"reset"} if change is _killed else set())
