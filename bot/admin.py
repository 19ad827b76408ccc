"""`/admin`: what the operator's people may do from a chat. Who they are says PORTRAIT_ADMINS."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import get_args

from bot import acts as a
from bot.actor import Actor, Aftermath
from bot.core import Incoming
from bot.db.operations import DRAIN
from bot.db.people import address_of
from bot.db.store import Store
from bot.dialogue import Asked, Heard, Idle, Pressed, Step
from bot.domain import JobKind, Person, Platform
from bot.parts import Parts
from bot.replies import AdminSays, Reply
from bot.reports import as_reply

_LONGEST_LIST = 20
_KINDS: dict[str, JobKind] = {"trainings": "train", "portraits": "portrait"}
_MOST_GRANTED = 1000


def is_for_admin(parts: Parts, incoming: Incoming, heard: Heard) -> bool:
    """Whether it is an admin's business, said by an admin in private. To everybody else there is no such command."""
    who = (incoming.address.platform, incoming.address.person)
    if who not in parts.settings.admin_list or not incoming.is_private:
        return False
    match heard:
        case Asked("admin"):
            return True
        case Pressed(choice):
            return choice.action.startswith("admin_")
        case _:
            return False


class Desk:
    """Does what an admin says, in the caller's transaction."""

    def __init__(self, parts: Parts, store: Store, incoming: Incoming, now: datetime) -> None:
        self._parts, self._store, self._incoming, self._now = parts, store, incoming, now
        self.aftermath = Aftermath()

    async def answer(self, heard: Heard) -> Reply:
        match heard:
            case Asked(argument=argument):
                return await self._command(argument.split())
            case Pressed(choice):
                return await self._settle(choice.action.removeprefix("admin_"), choice.value)
            case _:
                return AdminSays("help")

    async def _command(self, words: list[str]) -> Reply:
        match words:
            case ["block", who]:
                return await self._of(who, self._block)
            case ["unblock", who]:
                return await self._of(who, self._unblock)
            case ["grant", who, kind, amount] if kind in _KINDS and amount.isdecimal():
                return await self._grant(who, kind, min(int(amount), _MOST_GRANTED))
            case ["drain", "on" | "off" as state]:
                await self._store.operations.switch(DRAIN, self._now, on=state == "on")
                return AdminSays(f"drain_{state}")
            case ["queue"]:
                return await self._queue()
            case ["stats"]:
                return await self._stats()
            case ["reports"]:
                reports = await self._store.operations.reports()
                return as_reply(reports[0]) if reports else AdminSays("no_reports")
            case _:
                return AdminSays("help")

    async def _of(self, who: str, do: Callable[[Platform, str], Awaitable[Reply]]) -> Reply:
        """`telegram:123`, or `123` on the admin's own platform."""
        platform, _, person = who.rpartition(":")
        platform = platform or self._incoming.address.platform
        if platform not in get_args(Platform) or not person.isdecimal():
            return AdminSays("help")
        return await do(address_of(platform, person, person).platform, person)

    async def _block(self, platform: Platform, person: str) -> Reply:
        await self._store.operations.block(platform, person, self._now)
        known = await self._store.people.find(address_of(platform, person, person))
        if known:
            await self._act_for(known, a.CancelAllJobs())
        return AdminSays("blocked", f"{platform}:{person}")

    async def _unblock(self, platform: Platform, person: str) -> Reply:
        was_blocked = await self._store.operations.unblock(platform, person)
        return AdminSays("unblocked" if was_blocked else "not_blocked", f"{platform}:{person}")

    async def _grant(self, who: str, kind: str, amount: int) -> Reply:
        async def grant(platform: Platform, person: str) -> Reply:
            known = await self._store.people.find(address_of(platform, person, person))
            if known is None:
                return AdminSays("nobody", f"{platform}:{person}")
            await self._store.operations.grant(known.user_id, _KINDS[kind], amount, self._now)
            return AdminSays(f"granted_{kind}", f"{platform}:{person}", amount)

        return await self._of(who, grant)

    async def _queue(self) -> Reply:
        jobs = [job for job in await self._store.jobs.all_open() if job.kind in ("train", "portrait")]
        lines = []
        for job in jobs[:_LONGEST_LIST]:
            minutes, who = (self._now - job.created_at).total_seconds() / 60, job.address
            done = f"{job.kind} · {job.status} · {job.fraction:.0%} · {minutes:.0f} min"
            lines.append(f"{done} · {who.platform}:{who.person}")
        return AdminSays("queue", n=len(jobs), lines=tuple(lines))

    async def _stats(self) -> Reply:
        totals = await self._store.operations.totals()
        jobs = await self._store.operations.jobs_by_state(self._now - timedelta(days=1))
        lines = [f"{name}: {count}" for name, count in totals.items()]
        lines += [f"{kind} · {status}: {count}" for kind, status, count in sorted(jobs)]
        lines.append(f"drain: {'on' if await self._store.operations.is_on(DRAIN) else 'off'}")
        return AdminSays("stats", f"{self._parts.workers.count}", lines=tuple(lines))

    async def _settle(self, how: str, report_id: str) -> Reply:
        """What is done about a report; the next one follows when it is settled."""
        found = await self._store.operations.reports(report_id)
        if not found or found[0].state != "open":
            return AdminSays("report_gone")
        report = found[0]
        match how:
            case "dismiss":
                await self._store.operations.settle_report(report_id, "dismissed")
                return AdminSays("report_dismissed")
            case "delete":
                await self._delete(report.owner_id, report.portrait_id)
                return AdminSays("report_deleted")
            case "block" if report.portrait_owner:
                await self._delete(report.owner_id, report.portrait_id)
                return await self._block(report.portrait_owner.platform, report.portrait_owner.person)
            case _:
                return AdminSays("report_gone")

    async def _delete(self, owner_id: str, portrait_id: str) -> None:
        await self._act_for(Person(owner_id, "en", {}), a.Delete("portrait", portrait_id))

    async def _act_for(self, person: Person, act: a.Act) -> None:
        """Something that the person could do themselves; what they would be told is not said to the admin."""
        actor = Actor(self._parts, self._store, person, self._incoming, Idle(), self._now)
        await actor.carry_out(Step(Idle(), (act,)))
        self.aftermath.jobs += actor.aftermath.jobs
        self.aftermath.blobs += actor.aftermath.blobs
        self.aftermath.messages += actor.aftermath.messages
