"""Python's SSE libraries, each as its own page says: `python -m tests.e2e.py_clients NAME URL TOKEN` prints what it is
told, a JSON line an event; and `{"closed": true}` where it has given up.
"""

import asyncio
import json
import sys
from typing import Any

import httpx
import httpx_sse
from aiohttp_sse_client2 import client


def say(**told: Any) -> None:
    print(json.dumps(told), flush=True)


async def by_httpx(url: str, headers: dict[str, str]) -> None:
    last, over = "", False
    async with httpx.AsyncClient(timeout=httpx.Timeout(10, read=40)) as session:
        while not over:
            try:
                asked = headers | ({"Last-Event-ID": last} if last else {})
                async with httpx_sse.aconnect_sse(session, "GET", url, headers=asked) as source:
                    if over := source.response.status_code != 200:
                        break
                    async for event in source.aiter_sse():
                        last = event.id
                        say(type=event.event, id=event.id, data=event.data)
            except httpx.TransportError:
                pass
            await asyncio.sleep(1)
    say(closed=True)


async def by_aiohttp(url: str, headers: dict[str, str]) -> None:
    last, over = "", False
    while not over:
        asked = headers | ({"Last-Event-ID": last} if last else {})
        try:
            async with client.EventSource(url, headers=asked, max_connect_retry=100) as source:
                async for event in source:
                    last = event.last_event_id
                    say(type=event.type, id=event.last_event_id, data=event.data)
        except ConnectionError as error:  # it says of any status but 200 that it failed
            over = "204" in str(error)
        except Exception as error:  # a clean close ends it
            say(error=repr(error))
        await asyncio.sleep(1)
    say(closed=True)


CLIENTS = {"httpx-sse": by_httpx, "aiohttp-sse-client2": by_aiohttp}

if __name__ == "__main__":
    name, url, token = sys.argv[1:]
    asyncio.run(CLIENTS[name](url, {"Authorization": f"Bearer {token}"}))
