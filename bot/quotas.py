"""How much a person, and a server, may order. Only work that succeeded or is under way counts."""

from __future__ import annotations

from datetime import datetime, timedelta

from bot.db.store import Store
from bot.domain import JobKind
from bot.replies import QuotaReached
from bot.settings import Settings

DAY = timedelta(days=1)


class Quotas:
    """Each answers with what stands in the way, or None. `guild_id` is the server in which the person asks."""

    def __init__(self, store: Store, settings: Settings, now: datetime, guild_id: str | None = None) -> None:
        self._store, self._settings, self._now, self._guild_id = store, settings, now, guild_id

    async def training(self, user_id: str, *, is_new: bool = True) -> QuotaReached | None:
        """`is_new`: for one more subject, not in the place of one."""
        if is_new and (full := self.subjects(len(await self._store.library.subjects(user_id)))):
            return full
        return await self._daily(user_id, "train", "trainings", self._settings.trainings_per_day)

    def subjects(self, have: int) -> QuotaReached | None:
        """For one more subject of somebody who has so many."""
        most = self._settings.subjects_per_user
        return QuotaReached("subjects", most) if have >= most else None

    async def portrait(self, user_id: str) -> QuotaReached | None:
        most = self._settings.open_portraits
        if len(await self._store.jobs.open_of(user_id, ("portrait",))) >= most:
            return QuotaReached("open_portraits", most)
        return await self._daily(user_id, "portrait", "portraits", self._settings.portraits_per_day)

    def template(self, have: int) -> QuotaReached | None:
        """For one more template of somebody who has so many."""
        most = self._settings.own_templates_per_user
        return QuotaReached("own_templates", most) if have >= most else None

    async def _daily(self, user_id: str, kind: JobKind, what: str, most: int) -> QuotaReached | None:
        allowance = await self._store.operations.allowance(user_id, kind, self._now - DAY)
        if allowance.is_closed:
            return QuotaReached("closed", 0)
        most += allowance.granted
        if allowance.charged >= most:
            return QuotaReached(what, most, self._again_in_s(allowance.oldest))
        return await self._of_guild(kind, what)

    async def _of_guild(self, kind: JobKind, what: str) -> QuotaReached | None:
        if self._guild_id is None:
            return None
        rules = await self._store.operations.guild(self._guild_id)
        most = rules.trainings_per_day if kind == "train" else rules.portraits_per_day
        if most is None:
            return None
        count, oldest = await self._store.operations.charged_to_guild(self._guild_id, kind, self._now - DAY)
        return QuotaReached(f"guild_{what}", most, self._again_in_s(oldest)) if count >= most else None

    def _again_in_s(self, oldest: datetime | None) -> float:
        return ((oldest or self._now) + DAY - self._now).total_seconds()
