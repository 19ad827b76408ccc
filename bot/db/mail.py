"""Raw updates of the platforms that are not handled yet, and what the platforms call pictures that they have."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.db import tables as t


class Mail:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def store(self, platform: str, raws: Mapping[int, str], now: datetime) -> set[int]:
        """Raw updates by their ids; the ids of those that are new."""
        known = select(t.Inbox.update_id).where(t.Inbox.platform == platform, t.Inbox.update_id.in_(raws))
        new = raws.keys() - set(await self._session.scalars(known))
        if new:
            rows = [{"platform": platform, "update_id": i, "raw": raws[i], "received_at": now} for i in new]
            await self._session.execute(insert(t.Inbox), rows)
        return new

    async def done(self, platform: str, update_id: int) -> None:
        await self._session.execute(delete(t.Inbox).where(t.Inbox.platform == platform, t.Inbox.update_id == update_id))

    async def pending(self, platform: str) -> list[str]:
        query = select(t.Inbox.raw).where(t.Inbox.platform == platform).order_by(t.Inbox.update_id)
        return list(await self._session.scalars(query))

    async def delete_before(self, moment: datetime) -> None:
        """What nobody could handle: the platform itself would have dropped it by then."""
        await self._session.execute(delete(t.Inbox).where(t.Inbox.received_at < moment))

    async def kept_file(self, platform: str, key: str) -> str | None:
        row = await self._session.get(t.KeptFile, (platform, key))
        return row.file_id if row else None

    async def keep_file(self, platform: str, key: str, file_id: str) -> None:
        await self._session.merge(t.KeptFile(platform=platform, key=key, file_id=file_id))
