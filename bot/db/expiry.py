"""What is about to be deleted for its age: portraits, and models that nobody uses. Warned first, then deleted."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from bot.db import tables as t


@dataclass
class Doomed:
    """What a person is to be warned of."""

    portraits: int = 0
    models: list[str] = field(default_factory=list)


class Expiry:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def portraits(self, older_than: datetime, warned_before: datetime, limit: int) -> list[str]:
        """Some of those whose time is over and whose owner has known it for long enough."""
        query = select(t.Portrait.id).where(*_portraits_before(older_than), t.Portrait.warned_at <= warned_before)
        query = query.limit(limit)
        return list(await self._session.scalars(query))

    async def subjects(self, unused_since: datetime, warned_before: datetime, limit: int) -> list[tuple[str, str]]:
        """(user, subject) likewise."""
        is_due = (t.Subject.used_at < unused_since, t.Subject.warned_at <= warned_before)
        query = select(t.Subject.user_id, t.Subject.id).where(*is_due).limit(limit)
        return [(user_id, subject_id) for user_id, subject_id in (await self._session.execute(query)).tuples().all()]

    async def to_warn_of(self, older_than: datetime, unused_since: datetime, now: datetime) -> dict[str, Doomed]:
        """Who has to be warned of what, by user; from now on it counts as told."""
        found: dict[str, Doomed] = {}
        old, idle = self._unwarned(t.Portrait, *_portraits_before(older_than)), t.Subject.used_at < unused_since
        portraits = await self._session.execute(
            select(t.Portrait.user_id, func.count()).where(*old).group_by(t.Portrait.user_id)
        )
        for user_id, count in portraits.tuples().all():
            found.setdefault(user_id, Doomed()).portraits = count
        models = await self._session.execute(
            select(t.Subject.user_id, t.Subject.name).where(*self._unwarned(t.Subject, idle)).order_by(t.Subject.name)
        )
        for user_id, name in models.tuples().all():
            found.setdefault(user_id, Doomed()).models.append(name)
        await self._session.execute(update(t.Portrait).where(*old).values(warned_at=now))
        await self._session.execute(update(t.Subject).where(*self._unwarned(t.Subject, idle)).values(warned_at=now))
        return found

    async def keep(self, user_id: str, now: datetime) -> tuple[int, int]:
        """Everything that the person was warned of begins its time anew: how many portraits, how many models."""
        portraits = self._warned(t.Portrait, user_id)
        models = self._warned(t.Subject, user_id)
        counts = (await self._count(t.Portrait, portraits), await self._count(t.Subject, models))
        await self._session.execute(update(t.Portrait).where(*portraits).values(kept_at=now, warned_at=None))
        await self._session.execute(update(t.Subject).where(*models).values(used_at=now, warned_at=None))
        return counts

    async def _count(self, table: type[t.Portrait] | type[t.Subject], where: tuple[ColumnElement[bool], ...]) -> int:
        return await self._session.scalar(select(func.count()).select_from(table).where(*where)) or 0

    @staticmethod
    def _unwarned(
        table: type[t.Portrait] | type[t.Subject], *conditions: ColumnElement[bool]
    ) -> tuple[ColumnElement[bool], ...]:
        return *conditions, table.warned_at.is_(None)

    @staticmethod
    def _warned(table: type[t.Portrait] | type[t.Subject], user_id: str) -> tuple[ColumnElement[bool], ...]:
        return table.user_id == user_id, table.warned_at.is_not(None)


def _portraits_before(moment: datetime) -> tuple[ColumnElement[bool], ...]:
    """Made, and last kept, before a moment. The first condition has an index and spares reading the younger ones."""
    return t.Portrait.created_at < moment, func.coalesce(t.Portrait.kept_at, t.Portrait.created_at) < moment
