"""Pictures of strangers -> plain JPEGs, decoded in limited processes that may die of them."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bot.decoder import ANSWER, REQUEST

logger = logging.getLogger(__name__)

_DECODER = Path(__file__).with_name("decoder.py")
_TIMEOUT_S = 30
_RENEW_AFTER = 200  # pictures; a decoder's memory never shrinks


@dataclass(frozen=True)
class Taken:
    """Upright, sRGB, without metadata, longest side at most 2048."""

    jpeg: bytes
    width: int
    height: int


@dataclass(frozen=True)
class NotTaken:
    """`reason`: unreadable, animated, too_big, too_many_pixels, not_a_picture."""

    reason: str


class _Died(Exception):
    """The decoder ended in the middle of a picture: a limit, or a crash."""


@dataclass
class _Decoder:
    process: Process
    served: int = 0

    async def decode(self, data: bytes, max_pixels: int) -> Taken | NotTaken:
        assert self.process.stdin
        assert self.process.stdout
        self.served += 1
        try:
            self.process.stdin.write(REQUEST.pack(len(data), max_pixels) + data)
            await self.process.stdin.drain()
            kind, width, height, size = ANSWER.unpack(await self.process.stdout.readexactly(ANSWER.size))
            body = await self.process.stdout.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise _Died from error
        return Taken(body, width, height) if kind == b"+" else NotTaken(body.decode())

    async def stop(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


class Intake:
    """A few warm decoders. Use as a context manager; at most `processes` pictures are decoded at once."""

    def __init__(self, *, processes: int, max_bytes: int, max_pixels: int) -> None:
        self._max_bytes, self._max_pixels = max_bytes, max_pixels
        self._free = asyncio.Semaphore(processes)
        self._idle: list[_Decoder] = []

    async def __aenter__(self) -> Self:
        self._idle.append(await _start())
        return self

    async def __aexit__(self, *_: object) -> None:
        for decoder in self._idle:
            await decoder.stop()
        self._idle.clear()

    async def take(self, data: bytes) -> Taken | NotTaken:
        """Decodes a file of any content. Never raises for what is in it."""
        if len(data) > self._max_bytes:
            return NotTaken("too_big")
        async with self._free, self._decoder() as decoder:
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    return await decoder.decode(data, self._max_pixels)
            except (_Died, TimeoutError) as error:
                logger.warning("a decoder ended on a picture of %d bytes: %s", len(data), type(error).__name__)
                await decoder.stop()
                return NotTaken("unreadable")

    @asynccontextmanager
    async def _decoder(self) -> AsyncIterator[_Decoder]:
        self._idle = [each for each in self._idle if each.process.returncode is None]
        decoder = self._idle.pop() if self._idle else await _start()
        is_whole = False
        try:
            yield decoder
            is_whole = decoder.process.returncode is None and decoder.served < _RENEW_AFTER
        finally:
            # After an interruption a half-read answer is still in the pipe: such a decoder is not used again.
            if is_whole:
                self._idle.append(decoder)
            else:
                await decoder.stop()


async def _start() -> _Decoder:
    # An empty environment: what takes over a decoder finds no token. -I: nor a module beside it.
    environment = {"PATH": os.defpath, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", str(_DECODER), stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment
    )
    return _Decoder(process)
