"""What support sees of one operation: its entries with their outcomes, and who listens."""

import json
from datetime import datetime
from typing import Any

from tests.conftest import Gateway, Worker


async def seen(gateway: Gateway, path: str, status: int = 200) -> Any:
    async with gateway.session.get(f"{gateway.admin}/operations/{path}") as response:
        assert response.status == status
        return json.loads(await response.read())


async def test_every_entry_of_an_operation_is_told_with_what_became_of_it(gateway: Gateway, worker: Worker) -> None:
    base = 1_764_000_000_000
    steps: list[tuple[str, dict[str, Any], str]] = [
        ("started", {"run": "a", "seq": 1}, "delivered"),
        ("progress", {"percent": 40, "run": "a", "seq": 2}, "delivered"),
        ("progress", {"percent": 41, "run": "a", "seq": 3}, "throttled"),
        ("progress", {"percent": 20, "run": "a", "seq": 4}, "raised"),
        ("progress", {"percent": 60, "run": "a", "seq": 4}, "stale"),
        ("started", {"run": "b", "seq": 1}, "delivered"),
        ("completed", {"run": "a", "seq": 5}, "stale"),
        ("conflict", {"run": "b", "seq": 2}, "delivered"),
    ]
    wanted = []
    for number, (type, data, outcome) in enumerate(steps):
        id = await worker.publish(type, "op-1", id=f"{base + number}-0", **data)
        wanted.append({"id": id, "type": f"github_sync_{type}", "outcome": outcome})
        await worker.publish("progress", "op-2", id=f"{base + number}-1", percent=40)
    await worker.publish("started", "op-1", project="p-2", id=f"{base + 100}-0")
    async with gateway.stream("/api/projects/p-2/stream") as stream:
        await stream.until_id(f"{base + 100}-0")
    one, two = await seen(gateway, "op-1")
    assert one["projectId"] == "p-1"
    assert one["entries"] == wanted
    assert two["projectId"] == "p-2"
    assert [each["outcome"] for each in two["entries"]] == ["delivered"]
    async with gateway.session.get(f"{gateway.url}/api/operations/op-1?projectId=p-1") as response:
        assert one["state"] == json.loads(await response.read())
    assert 0 <= one["silentFor"] < 60
    (alone,) = await seen(gateway, "op-1?projectId=p-2")
    assert alone | {"silentFor": 0} == two | {"silentFor": 0}
    assert one["listeners"] == []


async def test_who_listens_is_told(gateway: Gateway, worker: Worker) -> None:
    first = await worker.publish("started", "op-1")
    paths = {
        "mine": "/api/operations/op-1/stream",
        "project": "/api/projects/p-1/stream",
        "all": "/api/projects/stream",
        "other": "/api/operations/op-2/stream",
        "another": "/api/operations/op-1/stream?projectId=p-2",
    }
    streams = [gateway.stream(path, headers={"X-Request-ID": name}) for name, path in paths.items()]
    opened = [await stream.__aenter__() for stream in streams]
    for stream in opened[:3]:
        await stream.until_id(first)
    last = await worker.publish("progress", "op-1", percent=10)
    for stream in opened[:3]:
        await stream.until_id(last)
    listeners = {each["requestId"]: each for each in (await seen(gateway, "op-1"))[0]["listeners"]}
    assert set(listeners) == {"mine", "project", "all"}
    assert {each["scope"] for each in listeners.values()} == {"operation", "project", "multi"}
    for each in listeners.values():
        assert each["place"] == last
        assert each["lagging"] is False
        assert (datetime.now().astimezone() - datetime.fromisoformat(each["since"])).total_seconds() < 60
    for stream in streams:
        await stream.__aexit__(None, None, None)


async def test_what_nobody_knows_is_404_and_a_bad_id_400(gateway: Gateway) -> None:
    assert (await seen(gateway, "nobody", 404))["status"] == 404
    assert (await seen(gateway, "x" * 300, 400))["status"] == 400
    async with gateway.session.get(gateway.url + "/operations/nobody") as response:
        assert response.status == 404
        assert "no such path" in await response.text()
