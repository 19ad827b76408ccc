"""Blobs as files under one folder; several processes of a machine may share it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from gpu_worker.contract.blobs import KEY_PATTERN, MAX_KEY_CHARACTERS, PIECE_BYTES, BlobNotFound

_KEY = re.compile(KEY_PATTERN)
_UNFINISHED = ".unfinished-"
_ABANDONED_S = 3600
_NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class FolderBlobs:
    """`BlobStore` in a folder, which is made when needed and readable by its owner only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    async def put(self, key: str, data: bytes | BinaryIO) -> None:
        await asyncio.to_thread(self._write, self._path(key), data)

    async def get(self, key: str) -> bytes:
        try:
            return await asyncio.to_thread(self._path(key).read_bytes)
        except _NO_FILE:
            raise BlobNotFound(key) from None

    async def open(self, key: str) -> BinaryIO:
        try:
            return await asyncio.to_thread(self._path(key).open, "rb")
        except _NO_FILE:
            raise BlobNotFound(key) from None

    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread(self._path(key).is_file)

    async def keys(self, prefix: str) -> list[str]:
        return await asyncio.to_thread(self._list, self._path(prefix))

    async def delete_prefix(self, prefix: str) -> int:
        return await asyncio.to_thread(self._delete, self._path(prefix))

    def _path(self, key: str) -> Path:
        """Raises ValueError for what is no key."""
        if len(key) > MAX_KEY_CHARACTERS or not _KEY.fullmatch(key):
            raise ValueError(f"not a blob key: {key!r}")
        return self._folder / key

    def _write(self, path: Path, data: bytes | BinaryIO) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                handle, name = tempfile.mkstemp(prefix=_UNFINISHED, dir=path.parent)
                break
            except FileNotFoundError:
                continue  # a deletion took the folder away between the two calls
        try:
            with os.fdopen(handle, "wb") as file:
                if isinstance(data, bytes):
                    file.write(data)
                else:
                    shutil.copyfileobj(data, file, PIECE_BYTES)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name)
            raise
        _sync_folder(path.parent)

    def _list(self, path: Path) -> list[str]:
        for left in path.rglob(f"{_UNFINISHED}*"):  # by a process that was killed while it wrote
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > _ABANDONED_S:
                    left.unlink()
        files = (p for p in path.rglob("*") if not p.name.startswith(_UNFINISHED) and p.is_file())
        return sorted(p.relative_to(self._folder).as_posix() for p in files)

    def _delete(self, path: Path) -> int:
        if path.is_file():
            path.unlink(missing_ok=True)
            return 1
        count = len(self._list(path))
        shutil.rmtree(path, ignore_errors=True)
        return count


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut."""
    with suppress(FileNotFoundError):  # deleted meanwhile: nothing left to keep
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
