"""An EventSource for tests: the parser of WHATWG HTML section 9.2.6, written from the spec, and a client around it.

It shares nothing with the gateway, least of all frame.py.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass
class Message:
    """What a browser would dispatch. `last_event_id` is the event source's at that moment."""

    type: str
    data: str
    last_event_id: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)


@dataclass
class Parser:
    """Feed it bytes: it keeps `last_event_id` and `retry` as a browser does, and collects `comments` and `ids`."""

    last_event_id: str = ""
    retry: int | None = None
    comments: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    _rest: bytes = b""
    _data: list[str] = field(default_factory=list)
    _type: str = ""
    _id: str | None = None

    def feed(self, chunk: bytes) -> list[Message]:
        messages = []
        # A line ends with CR LF, LF or CR; a CR at the very end may be half of a CR LF.
        text = self._rest + chunk
        self._rest = b""
        while True:
            ends = [at for at in (text.find(b"\n"), text.find(b"\r")) if at >= 0]
            if not ends or (text[min(ends) :] == b"\r"):
                self._rest = text
                return messages
            end = min(ends)
            line, text = text[:end], text[end + (2 if text[end : end + 2] == b"\r\n" else 1) :]
            message = self._line(line.decode("utf-8", "replace"))
            if message is not None:
                messages.append(message)

    def _line(self, line: str) -> Message | None:
        if not line:
            return self._dispatch()
        if line.startswith(":"):
            self.comments.append(line[1:].removeprefix(" "))
            return None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._type = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value)
        return None

    def _dispatch(self) -> Message | None:
        if self._id is not None:
            self.last_event_id = self._id
            self.ids.append(self._id)
        data, type = "\n".join(self._data), self._type
        had_data = bool(self._data)
        self._data, self._type, self._id = [], "", None
        return Message(type or "message", data, self.last_event_id) if had_data else None


class Stream:
    """One open response, read as an EventSource reads it whose page doesn't listen for heartbeats: those are kept."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.parser = Parser()
        self.closed = False
        self.heartbeats: list[Message] = []
        self._ready: list[Message] = []

    async def next(self, timeout: float = 5.0) -> Message:
        """The next message; EOFError at the end of the stream, TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            while not self._ready:
                await self.read()
        return self._ready.pop(0)

    async def read(self) -> None:
        """Reads a piece, whatever it holds."""
        chunk = await self.response.content.readany()
        if not chunk:
            self.closed = True
            raise EOFError
        for message in self.parser.feed(chunk):
            (self.heartbeats if message.type == "heartbeat" else self._ready).append(message)

    async def take(self, count: int, timeout: float = 5.0) -> list[Message]:
        return [await self.next(timeout) for _ in range(count)]

    async def rest(self, timeout: float = 5.0) -> list[Message]:
        """All up to the end of the stream."""
        messages = []
        try:
            while True:
                messages.append(await self.next(timeout))
        except EOFError:
            return messages

    async def until_id(self, id: str, timeout: float = 5.0) -> list[Message]:
        """Reads until the browser's last event id is `id`; what was dispatched on the way."""
        async with asyncio.timeout(timeout):
            while self.parser.last_event_id != id:
                await self.read()
        ready, self._ready = self._ready, []
        return ready

    async def quiet(self, seconds: float) -> bool:
        """Whether nothing is dispatched for `seconds`."""
        try:
            message = await self.next(seconds)
        except TimeoutError:
            return True
        self._ready.insert(0, message)
        return False


@asynccontextmanager
async def connect(
    session: aiohttp.ClientSession, url: str, *, last_event_id: str = "", headers: dict[str, str] | None = None
) -> AsyncIterator[Stream]:
    """A stream as a browser asks for it."""
    asked = {"Accept": "text/event-stream", "Cache-Control": "no-cache"} | (headers or {})
    if last_event_id:
        asked["Last-Event-ID"] = last_event_id
    async with session.get(url, headers=asked) as response:
        assert response.status == 200, await response.text()
        yield Stream(response)
