"""All rows about a person, as plain data for their export."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.db import tables as t

# Table -> the columns that mean something to the person. What is not named is internal: places in a queue, blob keys.
_EXPORTED: dict[str, tuple[type[Any], tuple[str, ...]]] = {
    "accounts": (t.Identity, ("platform", "person", "language")),
    "consents": (t.Consent, ("version", "locale", "platform", "agreed_at")),
    "collections": (t.Session, ("id", "state", "name", "keeps_photos", "created_at", "touched_at")),
    "photos": (t.Photo, ("id", "session_id", "number", "verdict", "reason", "measures", "is_stored", "created_at")),
    "models": (t.Subject, ("id", "name", "likeness", "real_likeness", "created_at", "used_at")),
    "templates": (t.OwnTemplate, ("id", "number", "faces", "created_at")),
    "portraits": (
        t.Portrait,
        ("id", "job_id", "template_id", "subject_id", "width", "height", "likeness", "created_at"),
    ),
    "jobs": (t.Job, ("id", "kind", "status", "template_id", "subject_id", "created_at", "started_at", "finished_at")),
    "grants": (t.Grant, ("kind", "amount", "at")),
    "reports": (t.Report, ("portrait_id", "state", "at")),
    "messages": (t.Message, ("platform", "chat", "message_id", "at")),
}


class Records:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def of(self, user_id: str) -> dict[str, Any] | None:
        """Everything by kind, times as ISO 8601; None for somebody who is not known (any more)."""
        user = await self._session.get(t.User, user_id)
        if user is None:
            return None
        found: dict[str, Any] = {"id": user.id, "known_since": _plain(user.created_at)}
        for kind, (table, columns) in _EXPORTED.items():
            rows = await self._session.scalars(select(table).where(table.user_id == user_id))
            found[kind] = [{name: _plain(getattr(row, name)) for name in columns} for row in rows]
        return found


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
