"""Everything that is stored about a person, as files for themselves."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import PurePath

from bot import replies as r
from bot.acts import Tell
from bot.db.turns import UnsaidTurn
from bot.domain import Address, Language, Platform, new_id
from bot.packing import pack_telling
from bot.parts import Parts
from gpu_worker.contract.blobs import BlobNotFound, user_prefix

logger = logging.getLogger(__name__)

# What a platform takes as one file, with room for the archive's own pages.
PART_BYTES: dict[Platform, int] = {"telegram": 45_000_000, "discord": 9_000_000}
EXPORTS = "exports"  # the folder among a user's blobs; retention empties it within hours
_PICTURES = (".jpg", ".png", ".webp")
_NOT_THEIRS = ("-previews/", "/checkpoint-", f"/{EXPORTS}/")


@dataclass(frozen=True)
class Wish:
    """Somebody who wants their data, and where they asked."""

    user_id: str
    address: Address
    language: Language


async def export(parts: Parts, wish: Wish) -> None:
    """Packs everything into archives of a size that the platform takes, and has them told in the chat."""
    export_id = new_id()
    async with parts.db.transaction() as store:
        data = await store.records.of(wish.user_id)
    if data is None:
        return  # they were forgotten meanwhile
    keys: list[str] = []
    try:
        async for archive in _archives(parts, wish, json.dumps(data, indent=2, ensure_ascii=False).encode()):
            keys.append(f"{user_prefix(wish.user_id)}/{EXPORTS}/{export_id}/my-data-{len(keys) + 1}.zip")
            await parts.blobs.put(keys[-1], archive)
    except BlobNotFound:
        return  # the key is gone with them
    tellings = tuple(pack_telling(Tell(r.ExportPart(key, n, len(keys)))) for n, key in enumerate(keys, 1))
    async with parts.db.transaction() as store:
        if not await store.people.exists(wish.user_id):
            return
        turn = UnsaidTurn(f"export:{export_id}", wish.address, wish.language, tellings, None)
        await store.turns.add(turn, parts.clock())


async def _archives(parts: Parts, wish: Wish, data: bytes) -> AsyncIterator[bytes]:
    """The first one begins with data.json. One at a time is in memory."""
    most = PART_BYTES[wish.address.platform]
    buffer = io.BytesIO()
    archive = zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED)  # pictures do not shrink any more
    archive.writestr("data.json", data, zipfile.ZIP_DEFLATED)
    async for name, picture in _pictures(parts, wish.user_id):
        if len(picture) > most:
            logger.warning("a picture of %d bytes is too large to be exported", len(picture))
            continue
        if buffer.tell() + len(picture) > most:
            archive.close()
            yield buffer.getvalue()
            buffer = io.BytesIO()
            archive = zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED)
        archive.writestr(name, picture)
    archive.close()
    yield buffer.getvalue()


async def _pictures(parts: Parts, user_id: str) -> AsyncIterator[tuple[str, bytes]]:
    """Photos, templates, portraits and the cards of models, as they can be looked at."""
    prefix = f"{user_prefix(user_id)}/"
    for key in await parts.blobs.keys(user_prefix(user_id)):
        if PurePath(key).suffix in _PICTURES and not any(part in key for part in _NOT_THEIRS):
            try:
                yield key.removeprefix(prefix), await parts.blobs.get(key)
            except BlobNotFound:
                continue  # deleted meanwhile
