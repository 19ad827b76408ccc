"""Events that were handled, and what is still to be said because of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from bot.db import tables as t
from bot.db.people import address_of
from bot.domain import Address, Language, MessageRef, Platform


@dataclass(frozen=True)
class UnsaidTurn:
    """`tellings` are packed (bot/packing.py); `pressed` is the message whose button caused them."""

    event_id: str
    address: Address
    language: Language
    tellings: tuple[dict[str, Any], ...]
    pressed: MessageRef | None


# What is left of a turn keeps its event from being handled twice; it says nothing about the person.
_SAID: dict[str, Any] = {"chat": None, "person": None, "language": None, "tellings": [], "pressed_message": None}


class Turns:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def is_known(self, platform: Platform, event_id: str) -> bool:
        return await self._session.get(t.Turn, (platform, event_id)) is not None

    async def add(self, turn: UnsaidTurn, now: datetime) -> None:
        """Raises IntegrityError for an event that was handled by somebody else meanwhile."""
        address, pressed = turn.address, turn.pressed
        left: dict[str, Any] = _SAID | {"said_at": now}
        if turn.tellings:
            left = {
                "chat": address.chat,
                "person": address.person,
                "language": turn.language,
                "tellings": list(turn.tellings),
                "pressed_message": {"id": pressed.message_id, "is_picture": pressed.is_picture} if pressed else None,
            }
        await self._session.execute(
            insert(t.Turn).values(platform=address.platform, event_id=turn.event_id, at=now, **left)
        )

    async def amend(self, turn: UnsaidTurn) -> None:
        """Says something else than was planned."""
        await self._session.execute(
            update(t.Turn)
            .where(t.Turn.platform == turn.address.platform, t.Turn.event_id == turn.event_id)
            .values(tellings=list(turn.tellings))
        )

    async def unsaid(self, platform: str, person: str) -> list[UnsaidTurn]:
        """In the order in which they happened."""
        rows = await self._session.scalars(
            select(t.Turn)
            .where(t.Turn.platform == platform, t.Turn.person == person, t.Turn.said_at.is_(None))
            .order_by(t.Turn.at, t.Turn.event_id)
        )
        return [_unsaid(row) for row in rows]

    async def waiting_people(self, before: datetime, now: datetime) -> list[tuple[str, str]]:
        """(platform, person) of everybody who has waited for an answer since `before`, or after `now`."""
        rows = await self._session.execute(
            select(t.Turn.platform, t.Turn.person)
            .where(t.Turn.said_at.is_(None), t.Turn.person.is_not(None), (t.Turn.at < before) | (t.Turn.at > now))
            .distinct()
        )
        return [(platform, person) for platform, person in rows if person is not None]

    async def said(self, address: Address, event_ids: list[str], now: datetime) -> None:
        """Empties the turns of these events."""
        await self._session.execute(
            update(t.Turn)
            .where(t.Turn.platform == address.platform, t.Turn.event_id.in_(event_ids))
            .values(said_at=now, **_SAID)
        )

    async def delete_before(self, moment: datetime) -> None:
        await self._session.execute(delete(t.Turn).where(t.Turn.at < moment))


def _unsaid(row: t.Turn) -> UnsaidTurn:
    address = address_of(row.platform, row.chat or "", row.person or "")
    pressed = row.pressed_message
    ref = MessageRef(address, pressed["id"], pressed["is_picture"]) if pressed else None
    return UnsaidTurn(row.event_id, address, "zh" if row.language == "zh" else "en", tuple(row.tellings), ref)
