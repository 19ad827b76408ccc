"""Blobs that only somebody with the user's key can read. What is nobody's (built-in templates) stays plain."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import BinaryIO

from gpu_worker.contract.blobs import BlobStore
from gpu_worker.contract.sealing import CHUNK_BYTES, Unsealed, seal, unseal

KeyOf = Callable[[str], Awaitable[bytes]]


class SealedBlobs:
    """`BlobStore` on another one. `key_of` gives a user's key by their id; what it raises, `get` and `put` raise."""

    def __init__(self, inner: BlobStore, key_of: KeyOf) -> None:
        self._inner, self._key_of = inner, key_of

    async def put(self, key: str, data: bytes) -> None:
        if user_id := _owner(key):
            data = await asyncio.to_thread(seal, data, await self._key_of(user_id), key)
        await self._inner.put(key, data)

    async def get(self, key: str) -> bytes:
        """Raises BlobNotFound, and CannotOpen (an OSError) for what is not sealed under the user's key."""
        data = await self._inner.get(key)
        if user_id := _owner(key):
            return await asyncio.to_thread(unseal, data, await self._key_of(user_id), key)
        return data

    async def open(self, key: str) -> BinaryIO:
        """Raises BlobNotFound and CannotOpen; reading what is damaged raises CannotOpen, too."""
        data = await self._inner.open(key)
        try:
            if user_id := _owner(key):
                return await asyncio.to_thread(_unsealed, data, await self._key_of(user_id), key)
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


def _unsealed(sealed: BinaryIO, key: bytes, name: str) -> BinaryIO:
    return io.BufferedReader(Unsealed(sealed, key, name), CHUNK_BYTES)


def _owner(key: str) -> str | None:
    """The user in `users/<user_id>/…`."""
    first, _, rest = key.partition("/")
    return rest.partition("/")[0] if first == "users" else None
