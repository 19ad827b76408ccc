"""The blobs as somebody with the keys sees them, for tests that look at them from outside."""

from __future__ import annotations

import os

from bot.db.database import open_database
from bot.keys import UserKeys
from bot.settings import Settings
from gpu_worker.contract.blobs import BlobStore, open_blobs
from gpu_worker.contract.sealed_blobs import SealedBlobs
from gpu_worker.contract.sealing import MasterKeys


def the_master_keys() -> MasterKeys:
    """The one that tests/conftest.py gives to every process."""
    return MasterKeys.read(os.environ["PORTRAIT_MASTER_KEY"])


def blobs_of_one_key(inner: BlobStore, key: bytes) -> SealedBlobs:
    """All users share a key."""

    async def of(_: str) -> bytes:
        return key

    return SealedBlobs(inner, of)


def blobs_of(settings: Settings) -> SealedBlobs:
    """A running bot's blobs."""
    return SealedBlobs(open_blobs(settings.blobs_url), UserKeys(open_database(settings.database), the_master_keys()).of)
