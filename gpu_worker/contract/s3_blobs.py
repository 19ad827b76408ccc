"""Blobs in S3 or in any server that speaks it (extra `s3`).

Access keys and the endpoint come from the environment in AWS's own names: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_ENDPOINT_URL.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import Any, BinaryIO

import s3fs
from botocore.exceptions import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    BotoCoreError,
    ClientError,
)

from gpu_worker.contract.blobs import BlobNotFound


class S3Blobs:
    """`BlobStore` for `s3://bucket` or `s3://bucket/prefix`. S3 itself stores atomically."""

    def __init__(self, url: str) -> None:
        self._root = url.removeprefix("s3://").rstrip("/")
        # Listings are never cached: another process may have written meanwhile.
        self._s3 = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)

    async def put(self, key: str, data: bytes | BinaryIO) -> None:
        if not isinstance(data, bytes):
            data = await asyncio.to_thread(data.read)
        await _in_thread(self._s3.pipe_file, self._path(key), data)

    async def get(self, key: str) -> bytes:
        try:
            data: bytes = await _in_thread(self._s3.cat_file, self._path(key))
        except FileNotFoundError:
            raise BlobNotFound(key) from None
        return data

    async def open(self, key: str) -> BinaryIO:
        return io.BytesIO(await self.get(key))  # one request; a file of s3fs makes one for each piece

    async def exists(self, key: str) -> bool:
        return bool(await _in_thread(self._s3.isfile, self._path(key)))

    async def keys(self, prefix: str) -> list[str]:
        folder = self._path(prefix) + "/"
        paths: list[str] = await _in_thread(
            self._s3.find, folder
        )  # of a key that is no folder, it gives the key itself
        return sorted(path[len(self._root) + 1 :] for path in paths if path.startswith(folder))

    async def delete_prefix(self, prefix: str) -> int:
        keys = await self.keys(prefix)
        if await self.exists(prefix):
            keys.append(prefix)
        if keys:
            await _in_thread(self._s3.rm, [self._path(key) for key in keys])
        return len(keys)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"


async def _in_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    """Errors of the store that are not OSErrors already become one, as `BlobStore` promises."""
    try:
        return await asyncio.to_thread(call, *arguments)
    except (BotoCoreError, ClientError) as error:
        raise ConnectionError(str(error)) from error
