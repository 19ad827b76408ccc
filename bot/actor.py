"""Carries out what a step of the dialogue orders, in the caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from bot import acts as a
from bot import replies as r
from bot.core import Incoming
from bot.db.library import Thing
from bot.db.people import ForgottenUser
from bot.db.store import Store
from bot.dialogue import AwaitingTemplatePicture, ConfirmingForget, Dialogue, Pressed, Step
from bot.domain import DeletionReceipt, JobStatus, MessageRef, Person, StoredJob
from bot.lookups import Lookups
from bot.ordering import Ordering
from bot.parts import Parts
from bot.replies import Reply
from gpu_worker.contract.blobs import own_template_key, photo_key, subject_prefix


@dataclass
class Aftermath:
    """What has to be done outside of the database once the transaction is committed."""

    blobs: list[str] = field(default_factory=list)
    jobs: list[StoredJob] = field(default_factory=list)
    messages: list[MessageRef] = field(default_factory=list)
    forgotten: ForgottenUser | None = None


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
        self._ordering = Ordering(store, parts.settings, now)
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
        match order:
            case a.StartTraining() | a.CheckOwnTemplate() | a.OrderPortrait() | a.OrderAgain():
                return await self._order_job(order)
            case a.CancelJob(job_id):
                return await self._cancel_one(job_id)
            case a.CancelAllJobs():
                return await self._cancel_all()
            case a.LookUp():
                return self._answer(await self._lookups.answer(order), in_place=order.in_place)
            case a.Delete(what, thing_id):
                return await self._delete(what, thing_id)
            case a.UseSubject(subject_id):
                return await self._use_subject(subject_id)
            case a.Forget():
                return await self._forget()
            case _:
                await self._collect(order)
                return []

    async def _collect(
        self,
        order: a.RecordConsent | a.OpenCollection | a.KeepPhoto | a.DropPicture | a.RemovePhotos | a.DropCollection,
    ) -> None:
        collections, user_id = self._store.collections, self._user_id
        match order:
            case a.RecordConsent(version):
                locale = self._incoming.language
                await self._store.people.record_consent(user_id, version, self._address, locale, self._now)
            case a.OpenCollection(session_id):
                await collections.open(session_id, user_id, self._address, self._now)
            case a.KeepPhoto(session_id, picture_id):
                await collections.add_photo(session_id, picture_id, self._now)
            case a.DropPicture(picture_id):
                self.aftermath.blobs.append(picture_key(self._before, user_id, picture_id))
            case a.RemovePhotos(session_id, which):
                gone = await collections.remove_photos(session_id, which, self._now)
                self.aftermath.blobs += [photo_key(user_id, photo_id) for photo_id in gone]
            case a.DropCollection(session_id):
                for job in await self._store.jobs.inspecting(session_id):
                    await self._mark_cancelled(job)
                gone = await collections.drop(session_id)
                self.aftermath.blobs += [photo_key(user_id, photo_id) for photo_id in gone]

    async def _order_job(
        self, order: a.StartTraining | a.CheckOwnTemplate | a.OrderPortrait | a.OrderAgain
    ) -> list[a.Telling]:
        match order:
            case a.StartTraining(session_id):
                stored = await self._store.collections.get(session_id)
                assert stored, "conversation.advance has just seen it"
                return [a.ShowJob(await self._ordering.training(stored, self._address))]
            case a.CheckOwnTemplate(picture_id):
                key = own_template_key(self._user_id, picture_id)
                await self._store.library.add_template(self._user_id, picture_id, key, self._now)
                job_id = await self._ordering.template_check(self._user_id, self._address, picture_id, key)
                return [a.ShowJob(job_id)]
            case a.OrderPortrait(wanted):
                return await self._order_portrait(wanted)
            case a.OrderAgain(job_id, only_failed):
                return await self._again(job_id, only_failed)

    async def _order_portrait(self, wanted: str, subject_id: str | None = None) -> list[a.Telling]:
        """Of that subject if the person still has it, else of the current one."""
        template = await self._lookups.template(wanted)
        if template is None:
            owner = await self._store.library.owner_of("template", wanted)
            if owner and owner != self._user_id:
                return self._answer(r.NotYours())
            return [a.Tell(await self._lookups.gallery(""))]
        quota = await self._ordering.portrait_quota(self._user_id)
        if quota:
            return [a.Tell(quota)]
        subjects = await self._store.library.subjects(self._user_id)
        if subject_id not in [subject.subject_id for subject in subjects]:
            current = await self._store.library.current_subject(self._user_id)
            subject_id = current.subject_id if current else None
        if subject_id is None:
            return [a.Tell(r.NoSubject(is_training=False))]
        job_id = await self._ordering.portrait(self._user_id, self._address, subject_id, template)
        return [a.ShowJob(job_id)]

    async def _again(self, job_id: str, only_failed: bool) -> list[a.Telling]:
        job = await self._own_job(job_id)
        if job is None:
            return []
        if only_failed and job.status is not JobStatus.FAILED:
            return self._answer(r.OutOfDate())
        if job.kind == "portrait" and job.template_id:
            return await self._order_portrait(job.template_id, job.subject_id)
        stored = await self._store.collections.get(job.session_id) if job.session_id else None
        if stored is None or stored.state != "collecting":
            return self._answer(r.OutOfDate())
        if job.kind == "inspect" or not stored.collection.can_start:
            await self._ordering.inspection(stored, even_if_failed=True)
            return [a.ShowCollection(stored.collection.session_id, anew=True)]
        if quota := await self._ordering.training_quota(self._user_id):
            return [a.Tell(quota)]
        return [a.ShowJob(await self._ordering.training(replace(stored, message=None), self._address))]

    async def _own_job(self, job_id: str) -> StoredJob | None:
        """The person's job, locked; else None, and the alert says why."""
        job = await self._store.jobs.lock(job_id)
        if job is None:
            self._alert = r.OutOfDate()
        elif job.user_id != self._user_id:
            self._alert = r.NotYours()
            return None
        return job

    async def _cancel_one(self, job_id: str) -> list[a.Telling]:
        job = await self._own_job(job_id)
        if job is None:
            return []
        if job.status.is_final:
            return self._answer(r.OutOfDate())
        await self._mark_cancelled(job)
        return [a.ShowJob(job_id)]

    async def _cancel_all(self) -> list[a.Telling]:
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

    async def _delete(self, what: Thing, thing_id: str) -> list[a.Telling]:
        owner = await self._store.library.owner_of(what, thing_id)
        if owner != self._user_id:
            return self._answer(r.OutOfDate() if owner is None else r.NotYours())
        if what == "portrait":
            await self._delete_portrait(thing_id)
        else:
            await self._delete_input(what, thing_id)
        await self._store.library.delete(what, thing_id)
        return [a.Tell(r.Deleted(what))]

    async def _delete_portrait(self, portrait_id: str) -> None:
        portrait = await self._store.library.portrait(portrait_id)
        assert portrait, "the caller has just seen it"
        self.aftermath.blobs.append(portrait.view.key)
        if len(await self._store.library.portraits_of_job(portrait.job_id)) == 1:
            self.aftermath.messages += await self._store.library.messages_of_portraits(portrait.job_id)

    async def _delete_input(self, what: Literal["template", "subject"], thing_id: str) -> None:
        for job in await self._store.jobs.open_of(self._user_id, ("portrait",)):
            if thing_id in (job.template_id, job.subject_id):
                await self._mark_cancelled(job)
        key = own_template_key if what == "template" else subject_prefix
        self.aftermath.blobs.append(key(self._user_id, thing_id))

    async def _use_subject(self, subject_id: str) -> list[a.Telling]:
        owner = await self._store.library.owner_of("subject", subject_id)
        if owner != self._user_id:
            return self._answer(r.OutOfDate() if owner is None else r.NotYours())
        await self._store.library.use_subject(self._user_id, subject_id)
        return [a.Tell(await self._lookups.answer(a.LookUp("models")), in_place=True)]

    async def _forget(self) -> list[a.Telling]:
        self.aftermath.forgotten = await self._store.people.forget(self._user_id)
        return [a.Tell(r.Forgotten(DeletionReceipt(self.aftermath.forgotten.counts)))]

    def _answer(self, reply: Reply, *, in_place: bool = False) -> list[a.Telling]:
        """In the chat; a refusal of a button only to whoever pressed it."""
        if isinstance(reply, r.NotYours | r.OutOfDate) and isinstance(self._incoming.said, Pressed):
            self._alert = reply
            return []
        return [a.Tell(reply, in_place=in_place)]
