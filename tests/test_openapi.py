"""The two documents that other teams make clients and checks of, held against the gateway that runs."""

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jsonschema
import jwt
import pytest

import gateway
from tests.conftest import Gateway, Start, Worker
from tests.eventsource import Parser
from tests.kit_vectors import expanded

PACKAGE = Path(gateway.__file__).parent
OPENAPI = json.loads((PACKAGE / "openapi.json").read_text())
ASYNCAPI = json.loads((PACKAGE / "asyncapi.json").read_text())
SECRET = "a secret of at least thirty-two bytes"


def valid(value: Any, name: str) -> None:
    wanted = {"$ref": f"#/components/schemas/{name}", "components": OPENAPI["components"]}
    jsonschema.Draft202012Validator(wanted).validate(value)


def token(**claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {jwt.encode({'exp': 2e9, 'projects': ['p-1']} | claims, SECRET, 'HS256')}"}


@pytest.fixture
async def guarded(start: Start) -> Gateway:
    return await start(SSE_AUTH="jwt", SSE_JWT_SECRET=SECRET, SSE_MAX_CONNECTIONS_PER_CLIENT="1")


async def test_every_route_is_in_the_document_and_no_other(guarded: Gateway) -> None:
    app = guarded.server._api.application()
    routes = {resource.canonical for resource in app.router.resources()}
    assert routes == OPENAPI["paths"].keys()


async def test_every_answer_is_one_that_the_document_has(guarded: Gateway, worker: Worker) -> None:
    await worker.publish("started", "runs")
    await worker.publish("started", "over")
    await guarded.read(await worker.publish("completed", "over"))
    seen = set()
    async with guarded.stream("/api/projects/p-1/stream", headers=token(sub="full")) as held:
        await held.next()
        for template, methods in OPENAPI["paths"].items():
            for operation, project in (("over", "p-1"), ("nobody", "p-1"), ("over", "p-2"), ("\x01", "\x01")):
                path = template.replace("{operationId}", quote(operation)).replace("{projectId}", quote(project))
                query = "" if "{projectId}" in path else f"?projectId={quote(project)}&lastEventId=9999999999999-0"
                for headers in (token(), {}, token(sub="full"), token(projects=["p-9"])):
                    asked = headers | {"Accept": "text/event-stream, application/problem+json"}
                    async with guarded.session.get(guarded.url + path + query, headers=asked) as response:
                        status, known = str(response.status), methods["get"]["responses"]
                        assert status in known, (path, status)
                        seen.add((template, status))
                        if status == "204":
                            continue
                        [content] = known[status]["content"]
                        assert response.content_type == content, path
                        if content != "text/event-stream":
                            valid(
                                await response.json(),
                                known[status]["content"][content]["schema"]["$ref"].rpartition("/")[2],
                            )
    documented = {(path, status) for path, each in OPENAPI["paths"].items() for status in each["get"]["responses"]}
    # 503 is of a start, a drain or a full house.
    assert {each for each in documented - seen if each[1] != "503"} == set()


async def test_every_frame_is_one_that_the_document_has(start: Start, worker: Worker) -> None:
    gateway = await start(SSE_STALLED_AFTER="300ms")
    content = OPENAPI["paths"]["/api/projects/stream"]["get"]["responses"]["200"]["content"]
    events = {
        type: rules["$ref"].rpartition("/")[2] for type, rules in content["text/event-stream"]["x-events"].items()
    }
    seen = {"refused"}
    path = gateway.url + "/api/projects/p-1/stream"
    async with asyncio.timeout(10), gateway.session.get(path + "?lastEventId=nonsense") as response:
        for type in ("started", "progress", "conflict", "failed", "completed", "started"):
            await worker.publish(type)
        parser = Parser()
        while seen != events.keys():
            for message in parser.feed(await response.content.readany()):
                seen.add(message.type)
                valid(message.json, events[message.type])
    gateway.server._api.draining = True
    async with gateway.session.get(path, headers={"Accept": "text/event-stream"}) as response:
        [refused] = Parser().feed(await response.read())
        valid(refused.json, "refused")


def test_what_the_kits_must_tell_is_what_the_stream_document_has() -> None:
    cases = expanded(json.loads((Path(__file__).parent / "testdata" / "kit" / "series.json").read_text()))
    messages = ASYNCAPI["components"]["messages"]
    told = [(type, data) for case in cases for type, data in case["gives"]]
    assert {type for type, _ in told} == messages.keys()
    for type, data in told:
        jsonschema.Draft202012Validator(messages[type]["payload"]).validate(data)
    assert {each["action"] for each in ASYNCAPI["operations"].values()} == {"send", "receive"}
