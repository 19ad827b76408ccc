"""Blobs: bytes under a key, in a folder or in S3, and the scheme of the keys.

Everything that belongs to a user lies under `users/<user_id>/`, so that forgetting a user is deleting one prefix.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Protocol

# A whole key. No part begins with a dot, so no key leads out of a folder or to a half-written file; none is longer than
# a file's name may be.
KEY_PATTERN = r"[0-9a-zA-Z_-]{1,200}(/[0-9a-zA-Z_-][0-9a-zA-Z_.-]{0,199})*"
MAX_KEY_CHARACTERS = 1000  # of S3's 1024 bytes, and of a path

PIECE_BYTES = 1 << 20  # so much of a blob is held in memory where it is passed on


class BlobNotFound(KeyError):
    """No blob under that key."""


class BlobStore(Protocol):
    """Every method raises OSError when the store cannot be reached, and ValueError for what is no key."""

    async def put(self, key: str, data: bytes | BinaryIO) -> None:
        """Stores atomically: a reader sees the whole blob or none. Overwrites. A file is read to its end, in pieces
        and by one thread."""
        ...

    async def get(self, key: str) -> bytes:
        """Raises BlobNotFound."""
        ...

    async def open(self, key: str) -> BinaryIO:
        """The same to be read in pieces, by one thread, for what is too large to lie in memory twice. It is closed by
        whoever asked. Raises BlobNotFound; reading raises OSError."""
        ...

    async def exists(self, key: str) -> bool: ...

    async def keys(self, prefix: str) -> list[str]:
        """All keys under `prefix/`, sorted."""
        ...

    async def delete_prefix(self, prefix: str) -> int:
        """Deletes the blob `prefix` and everything under `prefix/`; how many were deleted."""
        ...


def user_prefix(user_id: str) -> str:
    return f"users/{user_id}"


def photo_key(user_id: str, photo_id: str) -> str:
    return f"users/{user_id}/photos/{photo_id}.jpg"


def own_template_key(user_id: str, template_id: str) -> str:
    return f"users/{user_id}/templates/{template_id}.jpg"


def built_in_template_key(template_id: str) -> str:
    return f"templates/{template_id}.jpg"


def subject_prefix(user_id: str, subject_id: str) -> str:
    return f"users/{user_id}/subjects/{subject_id}"


def job_prefix(user_id: str, job_id: str) -> str:
    """Where a job's results go; the worker adds `<attempt>-<run>/` so that no two runs write the same key."""
    return f"users/{user_id}/jobs/{job_id}"


def run_prefix(output_prefix: str, attempt: int, run: int) -> str:
    """Where one run of a job wrote its results: the (attempt, run) of the event that says that it succeeded."""
    return f"{output_prefix}/{attempt}-{run}"


def open_blobs(url: str) -> BlobStore:
    """`file:///path` or a plain path: a folder. `s3://bucket/prefix`: S3 or anything that speaks it (extra `s3`)."""
    if url.startswith("s3://"):
        from gpu_worker.contract.s3_blobs import S3Blobs

        return S3Blobs(url)
    from gpu_worker.contract.folder_blobs import FolderBlobs

    return FolderBlobs(Path(url.removeprefix("file://")))
