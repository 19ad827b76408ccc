"""Replies that show what is stored: gallery, results, queue, models, privacy."""

from __future__ import annotations

from dataclasses import replace

from bot import replies as r
from bot.acts import LookUp
from bot.db.library import OwnedPortrait
from bot.db.store import Store
from bot.domain import PortraitView, Template, Workers
from bot.replies import Reply
from bot.templates import BuiltInTemplates, by_category


class Lookups:
    """Read-only, within one transaction, for one person."""

    def __init__(self, store: Store, built_in: BuiltInTemplates, user_id: str, workers: Workers) -> None:
        self._store, self._built_in, self._user_id, self._workers = store, built_in, user_id, workers

    async def answer(self, order: LookUp) -> Reply:
        match order.what:
            case "gallery":
                return await self.gallery(order.place)
            case "results":
                return await self._results(int(order.place) if order.place.isdecimal() else 0)
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

    async def _results(self, page: int) -> Reply:
        """One portrait a page: a page can then be turned by editing one message, on every platform."""
        pages = await self._store.library.count_portraits(self._user_id)
        page = min(page, max(pages - 1, 0))
        found = await self._store.library.portraits(self._user_id, page, 1)
        return r.Results(tuple(self.view(portrait) for portrait in found), page, pages)

    async def _queue(self) -> Reply:
        jobs = await self._store.jobs.open_of(self._user_id)
        views = [job.view(await self._store.jobs.place_of(job, self._workers)) for job in jobs]
        return r.QueueStatus(tuple(views), await self._store.jobs.waiting(), self._workers.count)

    async def _models(self) -> Reply:
        current = await self._store.library.current_subject(self._user_id)
        subjects = tuple(await self._store.library.subjects(self._user_id))
        return r.Models(subjects, current.subject_id if current else None)

    async def _original(self, portrait_id: str) -> Reply:
        found = await self._store.library.portrait(portrait_id)
        if found is None:
            return r.OutOfDate()
        return r.OriginalFile(self.view(found)) if found.user_id == self._user_id else r.NotYours()

    async def _photos(self) -> int:
        return len(await self._store.collections.stored_photos(self._user_id))
