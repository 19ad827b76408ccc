"""What people own: subjects, templates of their own, portraits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from bot.db import tables as t
from bot.db.people import message_ref
from bot.domain import Box, MessageRef, PortraitView, Subject, Template
from bot.texts import own_template_title

Thing = Literal["portrait", "template", "subject"]
_TABLES: dict[Thing, type[t.Portrait] | type[t.OwnTemplate] | type[t.Subject]] = {
    "portrait": t.Portrait,
    "template": t.OwnTemplate,
    "subject": t.Subject,
}


@dataclass(frozen=True)
class OwnedPortrait:
    """A portrait with what it was made of, as ids."""

    view: PortraitView
    job_id: str
    user_id: str
    template_id: str | None
    subject_id: str | None


class Library:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def owner_of(self, what: Thing, thing_id: str) -> str | None:
        """The user to whom it belongs; None when there is no such thing."""
        table = _TABLES[what]
        return await self._session.scalar(select(table.user_id).where(table.id == thing_id))

    async def delete(self, what: Thing, thing_id: str) -> None:
        table = _TABLES[what]
        await self._session.execute(delete(table).where(table.id == thing_id))

    async def known_among(self, what: Thing, ids: set[str]) -> set[str]:
        """Those of the ids that there are."""
        table = _TABLES[what]
        return set(await self._session.scalars(select(table.id).where(table.id.in_(ids))))

    # --- subjects ---

    async def add_subject(
        self, user_id: str, subject: Subject, prefix: str, kept_session_id: str | None = None
    ) -> None:
        """The newest subject becomes the one that portraits are made of. `kept_session_id`: whose photos are kept."""
        self._session.add(
            t.Subject(
                id=subject.subject_id,
                user_id=user_id,
                name=subject.name,
                prefix=prefix,
                likeness=subject.likeness,
                real_likeness=subject.real_likeness,
                preview_key=subject.preview_key,
                session_id=kept_session_id,
                created_at=subject.created_at,
                used_at=subject.created_at,
            )
        )
        await self._session.flush()
        await self.use_subject(user_id, subject.subject_id)

    async def subjects(self, user_id: str) -> list[Subject]:
        """Newest first."""
        kept = select(func.count()).select_from(t.Photo)
        kept = kept.where(t.Photo.session_id == t.Subject.session_id, t.Photo.is_stored)
        rows = await self._session.execute(
            select(t.Subject, kept.scalar_subquery())
            .where(t.Subject.user_id == user_id)
            .order_by(t.Subject.created_at.desc())
        )
        return [_subject(row, photos) for row, photos in rows.tuples()]

    async def current_subject(self, user_id: str) -> Subject | None:
        """The chosen one, else the newest."""
        return chosen_among(await self.subjects(user_id), await self.chosen_subject(user_id))

    async def chosen_subject(self, user_id: str) -> str | None:
        """The id of the one that portraits shall be made of; it may be gone."""
        return await self._session.scalar(select(t.User.current_subject_id).where(t.User.id == user_id))

    async def kept_session(self, subject_id: str) -> str | None:
        """The collection that holds the photos that the subject was trained on, if they were kept."""
        return await self._session.scalar(select(t.Subject.session_id).where(t.Subject.id == subject_id))

    async def rename_subject(self, subject_id: str, name: str) -> None:
        await self._session.execute(update(t.Subject).where(t.Subject.id == subject_id).values(name=name))

    async def delete_subject(self, subject_id: str) -> list[str]:
        """The ids of the photos that were kept for it and are gone with it."""
        session_id = await self.kept_session(subject_id)
        photos = list(await self._session.scalars(select(t.Photo.id).where(t.Photo.session_id == session_id)))
        await self._session.execute(delete(t.Session).where(t.Session.id == session_id))
        await self.delete("subject", subject_id)
        return photos

    async def replace_subject(self, old_id: str, new_id: str) -> None:
        """What was made of the old subject is of the new one now; the old row goes."""
        await self._session.execute(update(t.Portrait).where(t.Portrait.subject_id == old_id).values(subject_id=new_id))
        await self.delete("subject", old_id)

    async def use_subject(self, user_id: str, subject_id: str) -> None:
        await self._session.execute(update(t.User).where(t.User.id == user_id).values(current_subject_id=subject_id))

    async def subject_prefix(self, subject_id: str) -> str | None:
        return await self._session.scalar(select(t.Subject.prefix).where(t.Subject.id == subject_id))

    async def subject_used(self, subject_id: str, now: datetime) -> None:
        await self._session.execute(
            update(t.Subject).where(t.Subject.id == subject_id).values(used_at=now, warned_at=None)
        )

    # --- templates of one's own ---

    async def add_template(self, user_id: str, template_id: str, key: str, now: datetime) -> None:
        last = await self._session.scalar(
            select(func.max(t.OwnTemplate.number)).where(t.OwnTemplate.user_id == user_id)
        )
        self._session.add(
            t.OwnTemplate(id=template_id, user_id=user_id, number=(last or 0) + 1, key=key, created_at=now)
        )
        await self._session.flush()

    async def template_checked(self, template_id: str, boxes: Sequence[Box]) -> None:
        """It shows these faces (shares of the picture), from left to right."""
        values = {"faces": len(boxes), "boxes": [list(box) for box in boxes]}
        await self._session.execute(update(t.OwnTemplate).where(t.OwnTemplate.id == template_id).values(**values))

    async def templates(self, user_id: str) -> list[Template]:
        """Those that can serve, oldest first."""
        rows = await self._session.scalars(
            select(t.OwnTemplate)
            .where(t.OwnTemplate.user_id == user_id, t.OwnTemplate.faces > 0)
            .order_by(t.OwnTemplate.number)
        )
        return [_template(row) for row in rows]

    async def boxes(self, template_id: str) -> list[Box]:
        """Of the faces of a template of one's own, from left to right."""
        found = await self._session.scalar(select(t.OwnTemplate.boxes).where(t.OwnTemplate.id == template_id))
        return [(left, top, right, bottom) for left, top, right, bottom in found or ()]

    async def template(self, template_id: str) -> Template | None:
        row = await self._session.get(t.OwnTemplate, template_id)
        return _template(row) if row else None

    # --- portraits ---

    async def add_portrait(self, portrait: OwnedPortrait, number: int, now: datetime) -> None:
        view = portrait.view
        self._session.add(
            t.Portrait(
                id=view.portrait_id,
                user_id=portrait.user_id,
                job_id=portrait.job_id,
                subject_id=portrait.subject_id,
                template_id=portrait.template_id,
                number=number,
                key=view.key,
                width=view.width,
                height=view.height,
                likeness=view.likeness,
                notes=list(view.notes),
                created_at=now,
            )
        )
        await self._session.flush()

    async def portrait(self, portrait_id: str) -> OwnedPortrait | None:
        row = await self._session.get(t.Portrait, portrait_id)
        return await self._portrait(row) if row else None

    async def portraits_of_job(self, job_id: str) -> list[OwnedPortrait]:
        rows = await self._session.scalars(
            select(t.Portrait).where(t.Portrait.job_id == job_id).order_by(t.Portrait.number)
        )
        return [await self._portrait(row) for row in rows]

    async def portraits(
        self, user_id: str, offset: int, limit: int, *, favourites: bool = False
    ) -> list[OwnedPortrait]:
        """Those to show, newest first: the best one of every order, and favourites."""
        rows = await self._session.scalars(
            select(t.Portrait)
            .where(t.Portrait.user_id == user_id, _shown(favourites))
            .order_by(t.Portrait.created_at.desc(), t.Portrait.number)
            .offset(offset)
            .limit(limit)
        )
        return [await self._portrait(row) for row in rows]

    async def count_portraits(self, user_id: str) -> int:
        query = select(func.count()).select_from(t.Portrait).where(t.Portrait.user_id == user_id)
        return await self._session.scalar(query) or 0

    async def count_portraits_of(self, subject_id: str) -> int:
        query = select(func.count()).select_from(t.Portrait).where(t.Portrait.subject_id == subject_id, _shown(False))
        return await self._session.scalar(query) or 0

    async def count_shown(self, user_id: str, *, favourites: bool = False) -> int:
        """How many `portraits` has."""
        query = select(func.count()).select_from(t.Portrait).where(t.Portrait.user_id == user_id, _shown(favourites))
        return await self._session.scalar(query) or 0

    async def set_favourite(self, portrait_id: str, *, is_favourite: bool) -> None:
        await self._session.execute(
            update(t.Portrait).where(t.Portrait.id == portrait_id).values(is_favourite=is_favourite)
        )

    async def messages_of_portraits(self, job_id: str) -> list[MessageRef]:
        """The messages that show a job's portraits."""
        rows = await self._session.scalars(select(t.Message).where(t.Message.portrait_job_id == job_id))
        return [message_ref(row) for row in rows]

    async def _portrait(self, row: t.Portrait) -> OwnedPortrait:
        subject = await self._session.get(t.Subject, row.subject_id) if row.subject_id else None
        view = PortraitView(
            row.id,
            row.key,
            row.width,
            row.height,
            row.likeness,
            notes=tuple(row.notes),
            subject=_subject(subject) if subject else None,
            created_at=row.created_at,
            is_favourite=row.is_favourite,
        )
        if row.template_id:
            view = replace(view, template=await self.template(row.template_id))
        return OwnedPortrait(view, row.job_id, row.user_id, row.template_id, row.subject_id)


def chosen_among(subjects: list[Subject], chosen: str | None) -> Subject | None:
    """The chosen one of a person's subjects, else the newest."""
    return next((s for s in subjects if s.subject_id == chosen), subjects[0] if subjects else None)


def _subject(row: t.Subject, photos: int = 0) -> Subject:
    return Subject(row.id, row.name, row.created_at, row.likeness, row.real_likeness, row.preview_key, photos)


def _template(row: t.OwnTemplate) -> Template:
    title = own_template_title(row.number)
    return Template(row.id, "own", title, row.key, owner_id=row.user_id, faces=row.faces or 1)


def _shown(favourites: bool) -> ColumnElement[bool]:
    """Of the candidates of an order the best one that is left speaks for all."""
    if favourites:
        return t.Portrait.is_favourite.is_(True)
    best = aliased(t.Portrait)
    first = select(func.min(best.number)).where(best.job_id == t.Portrait.job_id).scalar_subquery()
    return (t.Portrait.number == first) | t.Portrait.is_favourite.is_(True)
