"""A network that can be made slow, silent or cut: a small proxy between two processes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

State = Literal["whole", "slow", "silent", "cut"]


@dataclass
class Link:
    """Listens where a client expects its server and passes bytes on. `target`: a unix socket, or a port of this host.

    slow: every chunk waits `delay_s`. silent: nothing gets through and nothing is closed. cut: connections break in the
    middle of whatever they carry, and new ones are refused.
    """

    name: str
    target: Path | int
    listen: Path | None = None  # None: a free port
    state: State = "whole"
    delay_s: float = 0.2
    port: int = 0
    _whole: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def open(self) -> None:
        self._whole.set()
        await self._listen()

    async def close(self) -> None:
        self._whole.set()
        await self._stop_listening()

    async def become(self, state: State) -> None:
        before, self.state = self.state, state
        if state == "silent":
            self._whole.clear()
        else:
            self._whole.set()
        if state == "cut":
            await self._stop_listening()
        elif before == "cut":
            await self._listen()

    async def _listen(self) -> None:
        if self.listen is not None:
            self.listen.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._connected, str(self.listen))
            self.listen.chmod(0o777)
            return
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            with suppress(OSError, RuntimeError):
                writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if isinstance(self.target, Path):
                far_reader, far_writer = await asyncio.open_unix_connection(str(self.target))
            else:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self._writers |= both
        try:
            await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        finally:
            self._writers -= both
            for each in both:
                each.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                await self._whole.wait()
                if self.state == "slow":
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            # Half-closed connections are not needed by anything here: one end gone, both gone.
            with suppress(OSError, RuntimeError):
                writer.close()
