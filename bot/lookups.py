"""Replies that show what is stored: gallery, results, queue, models, privacy."""

from __future__ import annotations

from dataclasses import replace

from bot import replies as r
from bot.acts import LookUp
from bot.db.library import OwnedPortrait, Thing, chosen_among
from bot.db.store import Store
from bot.domain import PortraitView, Template, Workers
from bot.replies import Reply
from bot.templates import BuiltInTemplates, by_category, numbered_key


class Lookups:
    """Read-only, within one transaction, for one person."""

    def __init__(self, store: Store, built_in: BuiltInTemplates, user_id: str, workers: Workers) -> None:
        self._store, self._built_in, self._user_id, self._workers = store, built_in, user_id, workers

    async def answer(self, order: LookUp) -> Reply:
        match order.what:
            case "gallery":
                return await self.gallery(order.place)
            case "results":
                return await self._results(order.place)
            case "others":
                return await self._others(order.place)
            case "subject" | "delete_subject":
                return await self._subject(order.place, is_deleting=order.what == "delete_subject")
            case "queue":
                return await self._queue()
            case "models":
                return await self._models()
            case "privacy":
                subjects = tuple(await self._store.library.subjects(self._user_id))
                return r.Privacy(
                    await self._photos(), subjects, await self._store.library.count_portraits(self._user_id)
                )
            case "forget":
                subjects = tuple(await self._store.library.subjects(self._user_id))
                portraits = await self._store.library.count_portraits(self._user_id)
                return r.ConfirmForget(await self._photos(), len(subjects), portraits)
            case "original":
                return await self._original(order.place)

    async def refusal(self, what: Thing, thing_id: str) -> r.NotYours | r.OutOfDate | None:
        """Why the person may not touch it; None for what is theirs."""
        owner = await self._store.library.owner_of(what, thing_id)
        if owner == self._user_id:
            return None
        return r.OutOfDate() if owner is None else r.NotYours()

    async def gallery(self, place: str) -> Reply:
        """`place` is `category.index`; "" or one that is gone: the first template."""
        own = await self._store.library.templates(self._user_id)
        shelves = by_category([*self._built_in.templates, *own])
        if not shelves:
            return r.AskTemplatePicture()
        category, _, index = place.partition(".")
        if category not in shelves:
            category, index = next(iter(shelves)), "0"
        shelf = shelves[category]
        number = int(index) % len(shelf) if index.isdecimal() else 0
        can_use = bool(await self._store.library.subjects(self._user_id))
        return r.Gallery(shelf[number], number, len(shelf), category, tuple(shelves), can_use)

    async def gallery_at(self, template: Template) -> Reply:
        own = await self._store.library.templates(self._user_id)
        shelf = by_category([*self._built_in.templates, *own])[template.category]
        ids = [each.template_id for each in shelf]
        return await self.gallery(f"{template.category}.{ids.index(template.template_id)}")

    async def face(self, template_id: str, chosen: tuple[str, ...]) -> Reply:
        """Who shall be the next face, of a template with several."""
        template = await self.template(template_id)
        if template is None:
            return await self.refusal("template", template_id) or r.OutOfDate()
        subjects = await self._store.library.subjects(self._user_id)
        names = {subject.subject_id: subject.name for subject in subjects}
        boxes = self._built_in.boxes.get(template_id) or await self._store.library.boxes(template_id)
        return r.ChooseFace(
            template,
            numbered_key(template.key),
            tuple(boxes),
            len(chosen) + 1,
            tuple(names.get(subject_id, "") for subject_id in chosen),
            tuple(subjects),
        )

    async def template(self, wanted: str) -> Template | None:
        """One that the person may use, by id or title."""
        found = self._built_in.find(wanted)
        own = await self._store.library.templates(self._user_id)
        return found or next((template for template in own if template.template_id == wanted), None)

    def view(self, portrait: OwnedPortrait) -> PortraitView:
        """With its template, also when that is a built-in one."""
        if portrait.view.template or not portrait.template_id:
            return portrait.view
        return replace(portrait.view, template=self._built_in.find(portrait.template_id))

    async def _results(self, place: str) -> Reply:
        """One portrait a page: a page can then be turned by editing one message, on every platform.

        `place` is a page, with "f" before it a page of the favourites.
        """
        library, only = self._store.library, place.startswith("f")
        favourites = await library.count_shown(self._user_id, favourites=True)
        only = only and favourites > 0
        pages = favourites if only else await library.count_shown(self._user_id)
        number = place.removeprefix("f")
        page = min(int(number) if number.isdecimal() else 0, max(pages - 1, 0))
        found = await library.portraits(self._user_id, page, 1, favourites=only)
        return r.Results(tuple(self.view(portrait) for portrait in found), page, pages, favourites, only)

    async def _others(self, job_id: str) -> Reply:
        found = await self._store.library.portraits_of_job(job_id)
        if found and found[0].user_id != self._user_id:
            return r.NotYours()
        others = tuple(self.view(portrait) for portrait in found[1:])
        return r.OtherCandidates(job_id, others) if others else r.OutOfDate()

    async def _subject(self, subject_id: str, *, is_deleting: bool) -> Reply:
        if refusal := await self.refusal("subject", subject_id):
            return refusal
        subjects = await self._store.library.subjects(self._user_id)
        subject = next(subject for subject in subjects if subject.subject_id == subject_id)
        if is_deleting:
            return r.ConfirmDeleteSubject(subject)
        current = chosen_among(subjects, await self._store.library.chosen_subject(self._user_id))
        portraits = await self._store.library.count_portraits_of(subject_id)
        return r.SubjectCard(subject, current is not None and current.subject_id == subject_id, portraits)

    async def _queue(self) -> Reply:
        jobs = await self._store.jobs.open_of(self._user_id)
        views = [job.view(await self._store.jobs.place_of(job, self._workers)) for job in jobs]
        return r.QueueStatus(tuple(views), await self._store.jobs.waiting(), self._workers.count)

    async def _models(self) -> Reply:
        subjects = await self._store.library.subjects(self._user_id)
        current = chosen_among(subjects, await self._store.library.chosen_subject(self._user_id))
        return r.Models(tuple(subjects), current.subject_id if current else None)

    async def _original(self, portrait_id: str) -> Reply:
        found = await self._store.library.portrait(portrait_id)
        if found is None:
            return r.OutOfDate()
        return r.OriginalFile(self.view(found)) if found.user_id == self._user_id else r.NotYours()

    async def _photos(self) -> int:
        return len(await self._store.collections.stored_photos(self._user_id))
