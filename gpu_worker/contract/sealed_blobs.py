"""Blobs that only somebody with the user's key can read. What is nobody's (built-in templates) stays plain."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from gpu_worker.contract.blobs import BlobStore
from gpu_worker.contract.sealing import CHUNK_BYTES, seal, sealed_pieces, unseal, unsealed_pieces

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

KeyOf = Callable[[str], Awaitable[bytes]]


class SealedBlobs:
    """`BlobStore` on another one. `key_of` gives a user's key by their id; what it raises, `get` and `put` raise."""

    def __init__(self, inner: BlobStore, key_of: KeyOf) -> None:
        self._inner, self._key_of = inner, key_of

    async def put(self, key: str, data: bytes | BinaryIO) -> None:
        if user_id := _owner(key):
            user_key = await self._key_of(user_id)
            if isinstance(data, bytes):
                data = await asyncio.to_thread(seal, data, user_key, key)
            else:
                data = _file_of(sealed_pieces(data, user_key, key))
        await self._inner.put(key, data)

    async def get(self, key: str) -> bytes:
        """Raises BlobNotFound, and CannotOpen (an OSError) for what is not sealed under the user's key."""
        data = await self._inner.get(key)
        if user_id := _owner(key):
            return await asyncio.to_thread(unseal, data, await self._key_of(user_id), key)
        return data

    async def open(self, key: str) -> BinaryIO:
        """Raises BlobNotFound. Reading what is not sealed under the user's key raises CannotOpen."""
        data = await self._inner.open(key)
        try:
            if user_id := _owner(key):
                return _file_of(unsealed_pieces(data, await self._key_of(user_id), key), data)
        except BaseException:
            data.close()
            raise
        return data

    async def exists(self, key: str) -> bool:
        return await self._inner.exists(key)

    async def keys(self, prefix: str) -> list[str]:
        return await self._inner.keys(prefix)

    async def delete_prefix(self, prefix: str) -> int:
        return await self._inner.delete_prefix(prefix)


class _Pieces(io.RawIOBase):
    """A file that is made while it is read. What it is made from is closed with it."""

    def __init__(self, pieces: Iterator[bytes], source: BinaryIO | None) -> None:
        self._pieces, self._source, self._rest = pieces, source, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        size = min(len(view), len(self._rest))
        view[:size], self._rest = self._rest[:size], self._rest[size:]
        return size

    def close(self) -> None:
        if self._source is not None:
            self._source.close()
        super().close()


def _file_of(pieces: Iterator[bytes], source: BinaryIO | None = None) -> BinaryIO:
    return io.BufferedReader(_Pieces(pieces, source), CHUNK_BYTES)


def _owner(key: str) -> str | None:
    """The user in `users/<user_id>/…`."""
    first, _, rest = key.partition("/")
    return rest.partition("/")[0] if first == "users" else None
