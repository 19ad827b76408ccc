"""Complaints about a portrait: noted, and brought before the operator's people."""

from __future__ import annotations

import logging
from datetime import datetime

from bot import replies as r
from bot.acts import Tell
from bot.db.operations import StoredReport
from bot.db.people import address_of
from bot.db.store import Store
from bot.db.turns import UnsaidTurn
from bot.packing import pack_telling
from bot.replies import Reply
from bot.settings import Settings

logger = logging.getLogger(__name__)


async def take_report(store: Store, settings: Settings, user_id: str, portrait_id: str, now: datetime) -> Reply:
    """Notes the report and has every admin told, in the caller's transaction. Only what one may see can be reported."""
    portrait = await store.library.portrait(portrait_id)
    if portrait is None:
        return r.OutOfDate()
    if portrait.user_id != user_id:
        return r.NotYours()
    report_id = await store.operations.report(user_id, portrait_id, now)
    if report_id is None:
        return r.Reported()
    if not settings.admin_list:
        logger.warning("report %s waits, but PORTRAIT_ADMINS names nobody who could look at it", report_id)
    [report] = await store.operations.reports(report_id)
    for platform, person in settings.admin_list:
        address = address_of(platform, person, person)
        known = await store.people.find(address)
        telling = pack_telling(Tell(as_reply(report)))
        turn = UnsaidTurn(f"report:{report_id}:{person}", address, known.language if known else "en", (telling,), None)
        await store.turns.add(turn, now)
    return r.Reported()


def as_reply(report: StoredReport) -> r.AdminReport:
    owner = report.portrait_owner
    who = f"{owner.platform}:{owner.person}" if owner else "?"
    return r.AdminReport(report.report_id, report.portrait_key, who, f"{report.at:%Y-%m-%d %H:%M}")
