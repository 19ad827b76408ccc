"""What the operator and the managers of servers have settled, and what is going on in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import get_args

from sqlalchemy import delete, exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.db import tables as t
from bot.db.people import address_of
from bot.domain import Address, JobKind, JobStatus, new_id
from bot.guilds import GuildRules

DRAIN = "drain"  # the switch that lets nothing new begin
_CHARGED_NOT = (JobStatus.FAILED, JobStatus.CANCELLED)


@dataclass(frozen=True)
class StoredReport:
    """A complaint about a portrait. `portrait_owner` is where the portrait's owner talks to us."""

    report_id: str
    portrait_id: str
    portrait_key: str
    owner_id: str
    portrait_owner: Address | None
    state: str
    at: datetime


@dataclass(frozen=True)
class Allowance:
    """`charged`: the jobs that count against a limit, the oldest of them ordered at `oldest`.

    `is_closed`: the operator lets nothing new begin.
    """

    is_closed: bool
    granted: int
    charged: int
    oldest: datetime | None


class Operations:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    # --- who is shut out ---

    async def is_blocked(self, platform: str, person: str) -> bool:
        return await self._session.get(t.Block, (platform, person)) is not None

    async def block(self, platform: str, person: str, now: datetime) -> None:
        await self._session.merge(t.Block(platform=platform, person=person, at=now))

    async def unblock(self, platform: str, person: str) -> bool:
        """Whether they were blocked."""
        row = await self._session.get(t.Block, (platform, person))
        if row is not None:
            await self._session.delete(row)
        return row is not None

    # --- more than usual ---

    async def grant(self, user_id: str, kind: JobKind, amount: int, now: datetime) -> None:
        self._session.add(t.Grant(id=new_id(), user_id=user_id, kind=kind, amount=amount, at=now))
        await self._session.flush()

    async def allowance(self, user_id: str, kind: JobKind, moment: datetime) -> Allowance:
        """What counts for the person's limit on a kind of job since that moment, in one statement."""
        granted = (t.Grant.user_id == user_id, t.Grant.kind == kind, t.Grant.at >= moment)
        charged = (t.Job.user_id == user_id, t.Job.kind == kind, t.Job.created_at >= moment)
        jobs = select(func.count().label("count"), func.min(t.Job.created_at).label("oldest"))
        jobs_of = jobs.where(*charged, t.Job.status.not_in(_CHARGED_NOT)).subquery()
        query = select(
            exists().where(t.Switch.name == DRAIN),
            select(func.coalesce(func.sum(t.Grant.amount), 0)).where(*granted).scalar_subquery(),
            jobs_of.c.count,
            jobs_of.c.oldest,
        )
        return Allowance(*(await self._session.execute(query)).one())

    async def delete_grants_before(self, moment: datetime) -> None:
        await self._session.execute(delete(t.Grant).where(t.Grant.at < moment))

    # --- switches ---

    async def is_on(self, name: str) -> bool:
        return await self._session.get(t.Switch, name) is not None

    async def switch(self, name: str, now: datetime, *, on: bool) -> None:
        if on:
            await self._session.merge(t.Switch(name=name, at=now))
        else:
            await self._session.execute(delete(t.Switch).where(t.Switch.name == name))

    # --- servers ---

    async def guild(self, guild_id: str) -> GuildRules:
        """What the server has settled; nothing yet: everything is open."""
        row = await self._session.get(t.Guild, guild_id)
        if row is None:
            return GuildRules()
        return GuildRules(
            tuple(row.roles), tuple(row.channels), row.trainings_per_day, row.portraits_per_day, row.is_spoiler
        )

    async def keep_guild(self, guild_id: str, rules: GuildRules) -> None:
        await self._session.merge(
            t.Guild(
                id=guild_id,
                roles=list(rules.roles),
                channels=list(rules.channels),
                trainings_per_day=rules.trainings_per_day,
                portraits_per_day=rules.portraits_per_day,
                is_spoiler=rules.is_spoiler,
            )
        )

    async def charged_to_guild(self, guild_id: str, kind: JobKind, moment: datetime) -> tuple[int, datetime | None]:
        """How many jobs ordered in a server count against its limit, and when the oldest of them was ordered."""
        query = select(func.count(), func.min(t.Job.created_at)).where(
            t.Job.guild_id == guild_id,
            t.Job.kind == kind,
            t.Job.created_at >= moment,
            t.Job.status.not_in(_CHARGED_NOT),
        )
        count, oldest = (await self._session.execute(query)).one()
        return count, oldest

    # --- reports ---

    async def report(self, user_id: str, portrait_id: str, now: datetime) -> str | None:
        """The new report's id; None when this person has reported that portrait before."""
        known = select(t.Report.id).where(t.Report.user_id == user_id, t.Report.portrait_id == portrait_id)
        if await self._session.scalar(known) is not None:
            return None
        made = t.Report(id=new_id(), user_id=user_id, portrait_id=portrait_id, state="open", at=now)
        self._session.add(made)
        await self._session.flush()
        return made.id

    async def reports(self, report_id: str | None = None) -> list[StoredReport]:
        """Open ones, oldest first; or that one in whatever state."""
        wanted = t.Report.state == "open" if report_id is None else t.Report.id == report_id
        rows = await self._session.execute(
            select(t.Report, t.Portrait)
            .join(t.Portrait, t.Portrait.id == t.Report.portrait_id)
            .where(wanted)
            .order_by(t.Report.at)
        )
        return [
            StoredReport(
                report.id,
                portrait.id,
                portrait.key,
                portrait.user_id,
                await self.address_of_user(portrait.user_id),
                report.state,
                report.at,
            )
            for report, portrait in rows.tuples().all()
        ]

    async def settle_report(self, report_id: str, state: str) -> None:
        row = await self._session.get(t.Report, report_id)
        if row is not None:
            row.state = state

    async def address_of_user(self, user_id: str) -> Address | None:
        """Where a user can be written to: their private chat, whose id is the person's on both platforms."""
        row = await self._session.scalar(
            select(t.Identity).where(t.Identity.user_id == user_id).order_by(t.Identity.is_dead).limit(1)
        )
        return address_of(row.platform, row.person, row.person) if row else None

    # --- numbers ---

    async def jobs_by_state(self, moment: datetime) -> list[tuple[str, str, int]]:
        """(kind, status, how many) of the jobs that are open or have ended since."""
        ended = (t.Job.status.in_([status for status in JobStatus if status.is_final]), t.Job.finished_at >= moment)
        is_open = t.Job.status.in_([status for status in JobStatus if not status.is_final])
        found: list[tuple[str, str, int]] = []
        for where in ((is_open,), ended):  # with all kinds by name each is read along an index
            query = select(t.Job.kind, t.Job.status, func.count()).where(*where, t.Job.kind.in_(get_args(JobKind)))
            query = query.group_by(t.Job.kind, t.Job.status)
            found += (await self._session.execute(query)).tuples().all()
        return found

    async def totals(self) -> dict[str, int]:
        """How many there are of everything that people own."""
        tables: Sequence[tuple[str, type[t.Base]]] = (
            ("users", t.User),
            ("subjects", t.Subject),
            ("portraits", t.Portrait),
            ("templates", t.OwnTemplate),
            ("reports", t.Report),
            ("blocked", t.Block),
        )
        return {
            name: await self._session.scalar(select(func.count()).select_from(table)) or 0 for name, table in tables
        }
