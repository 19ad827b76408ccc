"""Who the bot knows, what they agreed to, and how to forget them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

from sqlalchemy import bindparam, delete, exists, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from bot.db import tables as t
from bot.domain import Address, Language, MessageRef, Person, Platform, new_id


@dataclass(frozen=True)
class ForgottenUser:
    """What has to be deleted outside of the database once a user's rows are gone."""

    user_id: str
    jobs: tuple[tuple[str, int], ...]  # job id, attempts
    messages: tuple[MessageRef, ...]
    counts: dict[str, int]
    at: datetime


@dataclass(frozen=True)
class Standing:
    """`is_blocked`: by the operator. `templates`: how many of their own can serve."""

    has_consented: bool
    is_blocked: bool
    templates: int


class People:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def meet(self, address: Address, language: Language, now: datetime) -> Person:
        """The person, known from now on and locked until the transaction ends. Whoever speaks can be written to."""
        mine = (t.Identity.platform == address.platform, t.Identity.person == address.person)
        found = await self._session.scalar(select(t.Identity).where(*mine).with_for_update())
        if found is None:
            user = t.User(id=new_id(), created_at=now)
            self._session.add(user)
            await self._session.flush()
            found = t.Identity(
                platform=address.platform,
                person=address.person,
                user_id=user.id,
                language=language,
                dialogue={"state": "Idle"},
            )
            self._session.add(found)
            await self._session.flush()
        elif found.language != language or found.is_dead:
            found.language, found.is_dead = language, False
        return Person(found.user_id, language, found.dialogue)

    async def find(self, address: Address) -> Person | None:
        row = await self._session.get(t.Identity, (address.platform, address.person))
        return Person(row.user_id, _language(row.language), row.dialogue) if row else None

    async def is_dead(self, address: Address) -> bool:
        row = await self._session.get(t.Identity, (address.platform, address.person))
        return row is not None and row.is_dead

    async def exists(self, user_id: str) -> bool:
        return await self._session.get(t.User, user_id) is not None

    async def all_ids(self) -> set[str]:
        return set(await self._session.scalars(select(t.User.id)))

    async def known_among(self, user_ids: set[str]) -> set[str]:
        return set(await self._session.scalars(select(t.User.id).where(t.User.id.in_(user_ids))))

    async def key(self, user_id: str) -> str | None:
        """The user's wrapped key."""
        return await self._session.scalar(select(t.UserKey.wrapped).where(t.UserKey.user_id == user_id))

    async def keys(self) -> dict[str, str]:
        """Everybody's wrapped key, by user."""
        rows = await self._session.execute(select(t.UserKey.user_id, t.UserKey.wrapped))
        return dict(rows.tuples().all())

    async def keep_key(self, user_id: str, wrapped: str) -> None:
        await self._session.merge(t.UserKey(user_id=user_id, wrapped=wrapped))

    async def keep_dialogue(self, address: Address, dialogue: dict[str, Any]) -> None:
        """Nothing happens when the person was forgotten meanwhile."""
        await self._session.execute(
            update(t.Identity)
            .where(t.Identity.platform == address.platform, t.Identity.person == address.person)
            .values(dialogue=dialogue)
        )

    async def mark_dead(self, address: Address) -> None:
        """The platform says for good that this person cannot be written to."""
        await self._session.execute(
            update(t.Identity)
            .where(t.Identity.platform == address.platform, t.Identity.person == address.person)
            .values(is_dead=True)
        )

    async def record_consent(self, user_id: str, version: str, address: Address, locale: str, now: datetime) -> None:
        self._session.add(
            t.Consent(
                id=new_id(), user_id=user_id, version=version, locale=locale, platform=address.platform, agreed_at=now
            )
        )

    async def standing(self, user_id: str, address: Address, version: str) -> Standing:
        """What decides whether the person may order; `version` is that of the consent."""
        own = select(func.count()).where(t.OwnTemplate.user_id == user_id, t.OwnTemplate.faces > 0)
        query = select(
            exists().where(t.Consent.user_id == user_id, t.Consent.version == version),
            exists().where(t.Block.platform == address.platform, t.Block.person == address.person),
            own.select_from(t.OwnTemplate).scalar_subquery(),
        )
        return Standing(*(await self._session.execute(query)).one())

    async def keep_message(self, user_id: str, ref: MessageRef, now: datetime, portrait_job_id: str | None) -> None:
        """Remembers a message of ours to a user of `meet` or `find`, so that it can be deleted on request."""
        place = {"platform": ref.address.platform, "chat": ref.address.chat, "message_id": ref.message_id}
        row = {
            **place,
            "user_id": user_id,
            "person": ref.address.person,
            "is_picture": ref.is_picture,
            "portrait_job_id": portrait_job_id,
            "at": now,
        }
        known = exists().where(*(getattr(t.Message, name) == value for name, value in place.items()))
        columns = t.Message.__table__.columns
        values = select(*(bindparam(None, value, columns[name].type) for name, value in row.items())).where(~known)
        await self._session.execute(insert(t.Message).from_select(list(row), values))

    async def drop_message(self, ref: MessageRef) -> None:
        await self._session.execute(
            delete(t.Message).where(
                t.Message.platform == ref.address.platform,
                t.Message.chat == ref.address.chat,
                t.Message.message_id == ref.message_id,
            )
        )

    async def forget(self, user_id: str, now: datetime) -> ForgottenUser:
        """Deletes the user with everything that hangs on them, and notes what is to be deleted elsewhere."""
        jobs = await self._session.execute(select(t.Job.id, t.Job.attempt).where(t.Job.user_id == user_id))
        messages = await self._session.scalars(
            select(t.Message).where(t.Message.user_id == user_id).order_by(t.Message.at)
        )
        counts = {
            "photos": await self._count(t.Photo, user_id, t.Photo.is_stored),
            "subjects": await self._count(t.Subject, user_id),
            "portraits": await self._count(t.Portrait, user_id),
            "templates": await self._count(t.OwnTemplate, user_id),
            "jobs": await self._count(t.Job, user_id),
            "consents": await self._count(t.Consent, user_id),
        }
        people = await self._session.execute(
            select(t.Identity.platform, t.Identity.person).where(t.Identity.user_id == user_id)
        )
        for platform, person in people.all():
            await self._session.execute(
                delete(t.Turn).where(t.Turn.platform == platform, t.Turn.person == person, t.Turn.said_at.is_(None))
            )
        gone = ForgottenUser(
            user_id,
            tuple((job_id, attempts) for job_id, attempts in jobs),
            tuple(message_ref(row) for row in messages),
            counts,
            now,
        )
        await self._session.execute(delete(t.User).where(t.User.id == user_id))
        self._session.add(t.Erasure(user_id=user_id, jobs=list(gone.jobs), messages=_packed(gone.messages), at=now))
        return gone

    async def erasures(self) -> list[ForgottenUser]:
        """The forgotten of whom something may be left outside of the database."""
        rows = await self._session.scalars(select(t.Erasure).order_by(t.Erasure.at))
        return [
            ForgottenUser(row.user_id, tuple((i, n) for i, n in row.jobs), _unpacked(row.messages), {}, row.at)
            for row in rows
        ]

    async def erasure_goes_on(self, user_id: str, messages: Sequence[MessageRef]) -> None:
        """These messages are still to be deleted."""
        await self._session.execute(
            update(t.Erasure).where(t.Erasure.user_id == user_id).values(messages=_packed(messages))
        )

    async def erasure_is_done(self, user_id: str) -> None:
        await self._session.execute(delete(t.Erasure).where(t.Erasure.user_id == user_id))

    async def _count(self, table: Any, user_id: str, *where: Any) -> int:
        query = select(func.count()).select_from(table).where(table.user_id == user_id, *where)
        return await self._session.scalar(query) or 0


def _packed(messages: Iterable[MessageRef]) -> list[list[Any]]:
    return [[m.address.platform, m.address.chat, m.address.person, m.message_id, m.is_picture] for m in messages]


def _unpacked(messages: list[Any]) -> tuple[MessageRef, ...]:
    return tuple(
        MessageRef(address_of(platform, chat, person), message_id, is_picture)
        for platform, chat, person, message_id, is_picture in messages
    )


def message_ref(row: t.Message) -> MessageRef:
    return MessageRef(address_of(row.platform, row.chat, row.person), row.message_id, row.is_picture)


def address_of(platform: str, chat: str, person: str) -> Address:
    for known in get_args(Platform):
        if known == platform:
            return Address(known, chat, person)
    raise ValueError(f"unknown platform {platform!r}")


def _language(value: str) -> Language:
    return "zh" if value == "zh" else "en"
