"""Collections of photos: what a person has handed over for a training, and what a worker said of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from bot.db import tables as t
from bot.db.people import address_of
from bot.domain import Address, Collection, MessageRef, PhotoVerdict


@dataclass(frozen=True)
class StoredCollection:
    """A collection with its owner and the message that shows it. `version` counts changes to the set of photos."""

    user_id: str
    address: Address
    collection: Collection
    message: MessageRef | None
    version: int
    state: str


@dataclass(frozen=True)
class Judgement:
    photo_id: str
    verdict: str
    reason: str | None
    measures: dict[str, float]


class Collections:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def open(
        self, session_id: str, user_id: str, address: Address, now: datetime, retrains_id: str | None = None
    ) -> None:
        self._session.add(
            t.Session(
                id=session_id,
                user_id=user_id,
                platform=address.platform,
                chat=address.chat,
                person=address.person,
                state="collecting",
                retrains_id=retrains_id,
                created_at=now,
                touched_at=now,
            )
        )
        await self._session.flush()

    async def open_one(self, user_id: str) -> Collection | None:
        """The collection that the person is filling."""
        row = await self._session.scalar(
            select(t.Session)
            .where(t.Session.user_id == user_id, t.Session.state == "collecting")
            .order_by(t.Session.created_at.desc())
            .limit(1)
        )
        return await self._collection(row) if row else None

    async def get(self, session_id: str) -> StoredCollection | None:
        row = await self._session.get(t.Session, session_id)
        if row is None:
            return None
        address = address_of(row.platform, row.chat, row.person)
        message = MessageRef(address, row.message_id, row.message_is_picture) if row.message_id else None
        return StoredCollection(row.user_id, address, await self._collection(row), message, row.version, row.state)

    async def set_name(self, session_id: str, name: str) -> None:
        await self._session.execute(update(t.Session).where(t.Session.id == session_id).values(name=name))

    async def name_of(self, session_id: str) -> str | None:
        return await self._session.scalar(select(t.Session.name).where(t.Session.id == session_id))

    async def keep_photos(self, session_id: str, *, keeps: bool) -> None:
        """Whether the photos stay after the training."""
        await self._session.execute(update(t.Session).where(t.Session.id == session_id).values(keeps_photos=keeps))

    async def open_for_retraining(self, session_id: str, subject_id: str, address: Address, now: datetime) -> None:
        """The photos of a training, as an open collection again."""
        row = await self._session.get_one(t.Session, session_id, with_for_update=True)
        row.state, row.retrains_id, row.version, row.touched_at = "collecting", subject_id, row.version + 1, now
        row.platform, row.chat, row.person, row.message_id = address.platform, address.chat, address.person, None
        await self._session.flush()

    async def set_state(self, session_id: str, state: Literal["collecting", "training", "trained"]) -> None:
        """A training takes over the message that showed the collection."""
        changes: dict[str, Any] = {"state": state} | ({"message_id": None} if state == "training" else {})
        await self._session.execute(update(t.Session).where(t.Session.id == session_id).values(**changes))

    async def set_message(self, session_id: str, ref: MessageRef) -> None:
        await self._session.execute(
            update(t.Session)
            .where(t.Session.id == session_id)
            .values(message_id=ref.message_id, message_is_picture=ref.is_picture, chat=ref.address.chat)
        )

    async def add_photo(self, session_id: str, photo_id: str, now: datetime) -> None:
        row = await self._session.get_one(t.Session, session_id, with_for_update=True)
        last = await self._session.scalar(select(func.max(t.Photo.number)).where(t.Photo.session_id == session_id))
        self._session.add(
            t.Photo(
                id=photo_id,
                user_id=row.user_id,
                session_id=session_id,
                number=(last or 0) + 1,
                measures={},
                created_at=now,
            )
        )
        row.version, row.touched_at = row.version + 1, now
        await self._session.flush()

    async def remove_photos(self, session_id: str, which: Literal["refused", "last"], now: datetime) -> list[str]:
        """The ids of the photos that went, newest first. Removing one that counted means judging the rest again."""
        query = select(t.Photo).where(t.Photo.session_id == session_id).order_by(t.Photo.number.desc())
        query = query.where(t.Photo.verdict == "refused") if which == "refused" else query.limit(1)
        photos = list(await self._session.scalars(query))
        row = await self._session.get_one(t.Session, session_id, with_for_update=True)
        row.touched_at = now
        if any(photo.verdict != "refused" for photo in photos):
            row.version += 1
        await self._session.execute(delete(t.Photo).where(t.Photo.id.in_([photo.id for photo in photos])))
        return [photo.id for photo in photos]

    async def drop(self, session_id: str) -> list[str]:
        """Deletes the collection; the ids of its photos.

        One that was opened again for a retraining goes back to the model that keeps its photos.
        """
        kept = select(t.Subject.id).where(t.Subject.session_id == session_id)
        if await self._session.scalar(kept) is not None:
            await self.set_state(session_id, "trained")
            return []
        return await self.delete(session_id)

    async def delete(self, session_id: str) -> list[str]:
        """Deletes the collection for certain; the ids of its photos."""
        photos = list(await self._session.scalars(select(t.Photo.id).where(t.Photo.session_id == session_id)))
        await self._session.execute(delete(t.Session).where(t.Session.id == session_id))
        return photos

    async def judge(
        self, session_id: str, verdicts: Iterable[Judgement], reference: str | None, version: int | None
    ) -> None:
        """Records verdicts; `version` is the state of the collection that they are about (None: leave that open)."""
        for each in verdicts:
            await self._session.execute(
                update(t.Photo)
                .where(t.Photo.id == each.photo_id, t.Photo.session_id == session_id)
                .values(verdict=each.verdict, reason=each.reason, measures=each.measures)
            )
        row = await self._session.get(t.Session, session_id, with_for_update=True)
        if row is not None:
            row.reference_photo_id = reference or row.reference_photo_id
            row.checked_version = max(row.checked_version, version or 0)

    async def to_be_checked(self, before: datetime, now: datetime) -> list[str]:
        """Open collections, untouched since `before`, whose newest state no worker has judged.

        One that was touched after `now` was so before the clock was put back.
        """
        rows = await self._session.scalars(
            select(t.Session.id).where(
                t.Session.state == "collecting",
                t.Session.version > t.Session.checked_version,
                (t.Session.touched_at < before) | (t.Session.touched_at > now),
            )
        )
        return list(rows)

    async def photos_used_up(self, session_id: str) -> list[str]:
        """Notes that the photos' pictures are being deleted; their ids. Numbers and verdicts stay."""
        photos = list(await self._session.scalars(select(t.Photo.id).where(t.Photo.session_id == session_id)))
        await self._session.execute(update(t.Photo).where(t.Photo.session_id == session_id).values(is_stored=False))
        return photos

    async def stored_among(self, photo_ids: set[str]) -> set[str]:
        """Those of the photos whose pictures are kept."""
        query = select(t.Photo.id).where(t.Photo.id.in_(photo_ids), t.Photo.is_stored)
        return set(await self._session.scalars(query))

    async def stored_photos(self, user_id: str) -> list[str]:
        query = select(t.Photo.id).where(t.Photo.user_id == user_id, t.Photo.is_stored)
        return list(await self._session.scalars(query))

    async def delete_trained_before(self, moment: datetime) -> None:
        """The verdicts on photos that were used long ago."""
        await self._session.execute(
            delete(t.Session).where(
                t.Session.state == "trained",
                t.Session.touched_at < moment,
                t.Session.id.not_in(select(t.Subject.session_id).where(t.Subject.session_id.is_not(None))),
            )
        )

    async def idle_since(self, moment: datetime, limit: int) -> list[str]:
        """Some of the collections that nobody has touched or trained since."""
        query = select(t.Session.id).where(t.Session.state == "collecting", t.Session.touched_at < moment).limit(limit)
        return list(await self._session.scalars(query))

    async def _collection(self, row: t.Session) -> Collection:
        photos = await self._session.scalars(
            select(t.Photo).where(t.Photo.session_id == row.id).order_by(t.Photo.number)
        )
        verdicts = tuple(_verdict(photo, row.reference_photo_id) for photo in photos)
        return Collection(
            row.id,
            verdicts,
            is_checking=bool(verdicts) and row.version != row.checked_version,
            keeps_photos=row.keeps_photos,
            retrains_id=row.retrains_id,
        )


def _verdict(photo: t.Photo, reference: str | None) -> PhotoVerdict:
    verdict = cast(Any, photo.verdict)
    return PhotoVerdict(photo.id, photo.number, verdict, photo.reason, is_reference=photo.id == reference)
