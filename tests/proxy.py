"""A TCP proxy that breaks what passes through it, for real sockets on both sides."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

Mode = Literal["up", "down", "mute", "half", "slow"]


class Proxy:
    """`mode` up passes all; down closes every connection at once; mute passes requests on but swallows the replies and
    closes, so that a client can't know what became of its command; half closes in the middle of a reply; slow holds
    every reply back for 0.3 s. `target` is the port behind. `rate`, where it is set, is how many bytes of replies pass
    in a second."""

    def __init__(self, target: int) -> None:
        self.mode: Mode = "up"
        self.port = 0
        self.target = target
        self.rate = 0.0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self, mode: Mode) -> None:
        self.mode = mode
        if mode in ("up", "down"):
            for writer in list(self._writers):
                writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "down":
            writer.transport.abort()
            return
        try:
            onward, target = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:  # the target is down, which some tests are about
            writer.transport.abort()
            return
        self._writers |= {writer, target}
        try:
            async with asyncio.TaskGroup() as pipes:
                pipes.create_task(self._pipe(reader, target, reply=False))
                pipes.create_task(self._pipe(onward, writer, reply=True))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._writers -= {writer, target}
            writer.transport.abort()
            target.transport.abort()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, reply: bool) -> None:
        while chunk := await reader.read(65536):
            if reply and self.mode == "mute":
                raise ConnectionResetError
            if reply and self.mode == "half":
                writer.write(chunk[: len(chunk) // 2])
                await writer.drain()
                raise ConnectionResetError
            if reply and self.mode == "slow":
                await asyncio.sleep(0.3)
            if reply and self.rate:
                await asyncio.sleep(len(chunk) / self.rate)
            writer.write(chunk)
            await writer.drain()
        raise ConnectionResetError


@asynccontextmanager
async def proxied(target: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut("down")
        await asyncio.sleep(0)
