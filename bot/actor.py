"""Carries out what a step of the dialogue orders, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from bot import acts as a
from bot import replies as r
from bot.core import Incoming
from bot.db.people import ForgottenUser
from bot.db.store import Store
from bot.dialogue import AwaitingTemplatePicture, ConfirmingForget, Dialogue, Pressed, Step
from bot.domain import DeletionReceipt, JobStatus, MessageRef, Person, StoredJob
from bot.export import Wish
from bot.lookups import Lookups
from bot.ordering import Ordering
from bot.outcomes import outcome
from bot.parts import Parts
from bot.quotas import Quotas
from bot.replies import Reply
from bot.reports import take_report
from bot.templates import numbered_key
from gpu_worker.contract.blobs import own_template_key, photo_key, subject_prefix
from gpu_worker.contract.jobs import MORE_CANDIDATES


@dataclass
class Aftermath:
    """What has to be done outside of the database once the transaction is committed."""

    blobs: list[str] = field(default_factory=list)
    jobs: list[StoredJob] = field(default_factory=list)
    messages: list[MessageRef] = field(default_factory=list)
    forgotten: ForgottenUser | None = None
    export: Wish | None = None


def picture_key(dialogue: Dialogue, user_id: str, picture_id: str) -> str:
    """Where the next picture goes; the same rule before and after it is decoded."""
    state = dialogue.back if isinstance(dialogue, ConfirmingForget) else dialogue
    is_template = isinstance(state, AwaitingTemplatePicture)
    return own_template_key(user_id, picture_id) if is_template else photo_key(user_id, picture_id)


class Actor:
    """Carries out a step's acts in the open transaction."""

    def __init__(
        self, parts: Parts, store: Store, person: Person, incoming: Incoming, dialogue: Dialogue, now: datetime
    ) -> None:
        self._parts, self._store, self._person, self._incoming, self._now = parts, store, person, incoming, now
        self._user_id, self._address, self._before = person.user_id, incoming.address, dialogue
        guild_id = incoming.place.guild_id if incoming.place else None
        self._ordering = Ordering(store, parts.settings, now, guild_id)
        self._quotas = Quotas(store, parts.settings, now, guild_id)
        self._lookups = Lookups(store, parts.templates, person.user_id, parts.workers)
        self._alert: Reply | None = None
        self.aftermath = Aftermath()

    async def carry_out(self, step: Step) -> tuple[list[a.Telling], Reply | None]:
        """What is to be said, and the alert."""
        self._alert = step.alert
        tellings: list[a.Telling] = []
        for act in step.acts:
            match act:
                case a.Tell() | a.ShowCollection() | a.ShowJob():
                    tellings.append(act)
                case _:
                    tellings += await self._order(act)
        return tellings, self._alert

    async def _order(self, order: a.Order) -> list[a.Telling]:
        acts: dict[type, Callable[[Any], Awaitable[list[a.Telling]]]] = {
            a.Settle: self._settle,
            a.RecordConsent: self._record_consent,
            a.OpenCollection: self._open_collection,
            a.Retrain: self._retrain,
            a.KeepPhoto: self._keep_photo,
            a.KeepPhotos: self._keep_photos,
            a.DropPicture: self._drop_picture,
            a.RemovePhotos: self._remove_photos,
            a.DropCollection: self._drop_collection,
            a.NameModel: self._name_model,
            a.StartTraining: self._start_training,
            a.CheckOwnTemplate: self._check_own_template,
            a.AskFace: self._ask_face,
            a.OrderPortrait: self._portrait,
            a.OrderAgain: self._again,
            a.OrderMore: self._more,
            a.Favourite: self._favourite,
            a.CancelJob: self._cancel_one,
            a.CancelAllJobs: self._cancel_all,
            a.LookUp: self._look_up,
            a.Delete: self._delete,
            a.UseSubject: self._use_subject,
            a.Report: self._report,
            a.Keep: self._keep,
            a.Export: self._export,
            a.Forget: self._forget,
        }
        return await acts[type(order)](order)

    async def _settle(self, order: a.Settle) -> list[a.Telling]:
        return [a.Tell(order.reply, in_place=True)] if self._incoming.pressed else []

    async def _look_up(self, order: a.LookUp) -> list[a.Telling]:
        reply = await self._lookups.answer(order)
        if isinstance(reply, r.Privacy):
            reply = replace(reply, terms=self._parts.settings.terms)
        return self._answer(reply, in_place=order.in_place)

    # --- photos ---

    async def _record_consent(self, order: a.RecordConsent) -> list[a.Telling]:
        locale = self._incoming.language
        await self._store.people.record_consent(self._user_id, order.version, self._address, locale, self._now)
        return []

    async def _open_collection(self, order: a.OpenCollection) -> list[a.Telling]:
        await self._store.collections.open(order.session_id, self._user_id, self._address, self._now)
        return []

    async def _retrain(self, order: a.Retrain) -> list[a.Telling]:
        collections, subject_id = self._store.collections, order.subject_id
        kept = await self._store.library.kept_session(subject_id)
        if kept:
            await collections.open_for_retraining(kept, subject_id, self._address, self._now)
        else:
            await collections.open(order.session_id, self._user_id, self._address, self._now, subject_id)
        return [a.ShowCollection(kept or order.session_id)]

    async def _keep_photo(self, order: a.KeepPhoto) -> list[a.Telling]:
        await self._store.collections.add_photo(order.session_id, order.picture_id, self._now)
        return []

    async def _keep_photos(self, order: a.KeepPhotos) -> list[a.Telling]:
        await self._store.collections.keep_photos(order.session_id, keeps=order.keeps)
        return []

    async def _drop_picture(self, order: a.DropPicture) -> list[a.Telling]:
        self.aftermath.blobs.append(picture_key(self._before, self._user_id, order.picture_id))
        return []

    async def _remove_photos(self, order: a.RemovePhotos) -> list[a.Telling]:
        gone = await self._store.collections.remove_photos(order.session_id, order.which, self._now)
        self._drop_photos(gone)
        return []

    async def _drop_collection(self, order: a.DropCollection) -> list[a.Telling]:
        for job in await self._store.jobs.inspecting(order.session_id):
            await self._mark_cancelled(job)
        self._drop_photos(await self._store.collections.drop(order.session_id))
        return []

    def _drop_photos(self, photo_ids: list[str]) -> None:
        self.aftermath.blobs += [photo_key(self._user_id, photo_id) for photo_id in photo_ids]

    async def _name_model(self, order: a.NameModel) -> list[a.Telling]:
        if order.what == "collection":
            await self._store.collections.set_name(order.thing_id, order.name)
        else:
            await self._store.library.rename_subject(order.thing_id, order.name)
        return []

    # --- orders ---

    async def _start_training(self, order: a.StartTraining) -> list[a.Telling]:
        stored = await self._store.collections.get(order.session_id)
        assert stored, "conversation.advance has just seen it"
        return [a.ShowJob(await self._ordering.training(stored, self._address))]

    async def _check_own_template(self, order: a.CheckOwnTemplate) -> list[a.Telling]:
        key = own_template_key(self._user_id, order.picture_id)
        await self._store.library.add_template(self._user_id, order.picture_id, key, self._now)
        return [a.ShowJob(await self._ordering.template_check(self._user_id, self._address, order.picture_id, key))]

    async def _ask_face(self, order: a.AskFace) -> list[a.Telling]:
        return self._answer(await self._lookups.face(order.template_id, order.chosen), in_place=order.in_place)

    async def _portrait(self, order: a.OrderPortrait) -> list[a.Telling]:
        return await self._order_portrait(order.template, order.sitters)

    async def _order_portrait(
        self, wanted: str, sitters: tuple[str, ...] = (), count: int | None = None
    ) -> list[a.Telling]:
        """`sitters`: subjects by face, "" where a face stays; those that are gone are left out."""
        template = await self._lookups.template(wanted)
        if template is None:
            return self._answer(await self._lookups.refusal("template", wanted) or await self._lookups.gallery(""))
        if template.faces > 1 and not sitters:
            return [a.Tell(await self._lookups.gallery_at(template))]
        if quota := await self._quotas.portrait(self._user_id):
            return [a.Tell(quota)]
        own = {subject.subject_id for subject in await self._store.library.subjects(self._user_id)}
        sitters = tuple(sitter if sitter in own else "" for sitter in sitters)
        if not any(sitters):
            current = await self._store.library.current_subject(self._user_id)
            if current is None:
                return [a.Tell(r.NoSubject(is_training=False))]
            sitters = (current.subject_id,)
        return [a.ShowJob(await self._ordering.portrait(self._user_id, self._address, template, sitters, count))]

    async def _again(self, order: a.OrderAgain) -> list[a.Telling]:
        job = await self._own_job(order.job_id)
        if job is None:
            return []
        if order.only_failed and job.status is not JobStatus.FAILED:
            return self._answer(r.OutOfDate())
        if job.kind == "portrait" and job.template_id:
            return await self._order_portrait(job.template_id, _sitters_of(job))
        stored = await self._store.collections.get(job.session_id) if job.session_id else None
        if stored is None or stored.state != "collecting":
            return self._answer(r.OutOfDate())
        if job.kind == "inspect" or not stored.collection.can_start:
            await self._ordering.inspection(stored, even_if_failed=True)
            return [a.ShowCollection(stored.collection.session_id, anew=True)]
        if quota := await self._quotas.training(self._user_id, is_new=not stored.collection.retrains_id):
            return [a.Tell(quota)]
        return [a.ShowJob(await self._ordering.training(replace(stored, message=None), self._address))]

    async def _more(self, order: a.OrderMore) -> list[a.Telling]:
        if refusal := await self._lookups.refusal("portrait", order.portrait_id):
            return self._answer(refusal)
        portrait = await self._store.library.portrait(order.portrait_id)
        job = await self._store.jobs.get(portrait.job_id) if portrait else None
        if job is None or job.template_id is None:
            return self._answer(r.OutOfDate())
        return await self._order_portrait(job.template_id, _sitters_of(job), MORE_CANDIDATES)

    async def _favourite(self, order: a.Favourite) -> list[a.Telling]:
        """The message that was pressed shows it; a text below an album only says so."""
        portrait_id, page = order.portrait_id, order.page
        if refusal := await self._lookups.refusal("portrait", portrait_id):
            return self._answer(refusal)
        portrait = await self._store.library.portrait(portrait_id)
        assert portrait, "just seen"
        is_favourite = not portrait.view.is_favourite
        await self._store.library.set_favourite(portrait_id, is_favourite=is_favourite)
        if page:
            return [a.Tell(await self._lookups.answer(a.LookUp("results", page)), in_place=True)]
        job = await self._store.jobs.get(portrait.job_id)
        ready = await outcome(self._store, self._lookups, job) if job else None
        if isinstance(ready, r.PortraitsReady) and ready.portraits[0].portrait_id == portrait_id:
            return [a.Tell(ready, in_place=True)]
        self._alert = r.FavouriteSet(is_favourite)
        return []

    async def _own_job(self, job_id: str) -> StoredJob | None:
        """The person's job, locked; else None, and the alert says why."""
        job = await self._store.jobs.lock(job_id)
        if job is None:
            self._alert = r.OutOfDate()
        elif job.user_id != self._user_id:
            self._alert = r.NotYours()
            return None
        return job

    async def _cancel_one(self, order: a.CancelJob) -> list[a.Telling]:
        job = await self._own_job(order.job_id)
        if job is None:
            return []
        if job.status.is_final:
            return self._answer(r.OutOfDate())
        await self._mark_cancelled(job)
        return [a.ShowJob(job.job_id)]

    async def _cancel_all(self, _: a.CancelAllJobs) -> list[a.Telling]:
        jobs = await self._store.jobs.open_of(self._user_id, ("train", "portrait", "check_template"))
        for job in jobs:
            await self._mark_cancelled(job)
        kinds = dict.fromkeys(job.kind for job in jobs)
        return [*(a.ShowJob(job.job_id) for job in jobs), *(a.Tell(r.Cancelled(kind)) for kind in kinds)]

    async def _mark_cancelled(self, job: StoredJob) -> None:
        shown = "yes" if job.kind == "inspect" else "no"
        await self._store.jobs.change(job.job_id, status=JobStatus.CANCELLED, finished_at=self._now, shown=shown)
        if job.kind == "train" and job.session_id:
            await self._store.collections.set_state(job.session_id, "collecting")
        if job.kind == "check_template" and job.template_id:
            await self._store.library.delete("template", job.template_id)
            self.aftermath.blobs.append(own_template_key(self._user_id, job.template_id))
        self.aftermath.jobs.append(job)

    async def _delete(self, order: a.Delete) -> list[a.Telling]:
        what, thing_id = order.what, order.thing_id
        if refusal := await self._lookups.refusal(what, thing_id):
            return self._answer(refusal)
        match what:
            case "portrait":
                return await self._delete_portrait(thing_id)
            case "template":
                await self._stop_jobs_with(thing_id)
                key = own_template_key(self._user_id, thing_id)
                self.aftermath.blobs += [key, numbered_key(key)]
                await self._store.library.delete("template", thing_id)
            case "subject":
                await self._stop_jobs_with(thing_id)
                photos = await self._store.library.delete_subject(thing_id)
                self.aftermath.blobs.append(subject_prefix(self._user_id, thing_id))
                self._drop_photos(photos)
        return [a.Tell(r.Deleted(what), in_place=what == "subject")]

    async def _delete_portrait(self, portrait_id: str) -> list[a.Telling]:
        """The messages that show it go too; a card with several candidates shows those that are left."""
        library = self._store.library
        portrait = await library.portrait(portrait_id)
        assert portrait, "the caller has just seen it"
        best, *others = await library.portraits_of_job(portrait.job_id)
        self.aftermath.blobs.append(portrait.view.key)
        await library.delete("portrait", portrait_id)
        left = tuple(self._lookups.view(one) for one in others if one.view.portrait_id != portrait_id)
        if best.view.portrait_id == portrait_id:
            showing = await library.messages_of_portraits(portrait.job_id)
            pressed = self._incoming.pressed
            if pressed and pressed.message_id not in [ref.message_id for ref in showing]:
                showing.append(pressed)
            self.aftermath.messages += showing
        elif left:
            return [a.Tell(r.OtherCandidates(portrait.job_id, left), in_place=True)]
        return [a.Tell(r.Deleted("portrait"), in_place=best.view.portrait_id != portrait_id)]

    async def _stop_jobs_with(self, thing_id: str) -> None:
        """Portraits in or of it, and a training on the photos that are kept with it."""
        kept = await self._store.library.kept_session(thing_id)
        for job in await self._store.jobs.open_of(self._user_id):
            if thing_id in (job.template_id, *_sitters_of(job)) or (kept and job.session_id == kept):
                await self._mark_cancelled(job)

    async def _use_subject(self, order: a.UseSubject) -> list[a.Telling]:
        if refusal := await self._lookups.refusal("subject", order.subject_id):
            return self._answer(refusal)
        await self._store.library.use_subject(self._user_id, order.subject_id)
        return [a.Tell(await self._lookups.answer(a.LookUp("models")), in_place=True)]

    async def _report(self, order: a.Report) -> list[a.Telling]:
        settings, portrait_id = self._parts.settings, order.portrait_id
        return self._answer(await take_report(self._store, settings, self._user_id, portrait_id, self._now))

    async def _keep(self, _: a.Keep) -> list[a.Telling]:
        portraits, models = await self._store.expiry.keep(self._user_id, self._now)
        if not portraits and not models:
            return self._answer(r.OutOfDate())
        return [a.Tell(r.Kept(portraits, models), in_place=True)]

    async def _export(self, _: a.Export) -> list[a.Telling]:
        self.aftermath.export = Wish(self._user_id, self._address, self._incoming.language)
        return [a.Tell(r.Exporting())]

    async def _forget(self, _: a.Forget) -> list[a.Telling]:
        self._parts.erasing[(self._address.platform, self._address.person)] = self._incoming.event_id
        self.aftermath.forgotten = await self._store.people.forget(self._user_id, self._now)
        # Before the rows are gone for good: dying in between means to forget them at the next start.
        self._parts.tombstones.add(self._user_id)
        return [a.Tell(r.Forgotten(DeletionReceipt(self.aftermath.forgotten.counts)))]

    def _answer(self, reply: Reply, *, in_place: bool = False) -> list[a.Telling]:
        """In the chat; a refusal of a button only to whoever pressed it."""
        if isinstance(reply, r.NotYours | r.OutOfDate) and isinstance(self._incoming.said, Pressed):
            self._alert = reply
            return []
        return [a.Tell(reply, in_place=in_place)]


def _sitters_of(job: StoredJob) -> tuple[str, ...]:
    """Who sat for a portrait, by face; "" where a face stayed."""
    faces = job.payload.get("faces")
    if faces:
        return tuple(face["subject_id"] if face else "" for face in faces)
    return (job.subject_id,) if job.subject_id else ()
