"""Deciding on jobs: the contract's job, the job row and the outbox row, in the caller's transaction."""

from __future__ import annotations

import secrets
from datetime import datetime

from bot.db.collections import StoredCollection
from bot.db.store import Store
from bot.domain import Address, JobKind, JobStatus, NewJob, Template, new_id, queue_score
from bot.settings import Settings
from gpu_worker.contract.blobs import job_prefix, photo_key, subject_prefix
from gpu_worker.contract.codec import job_payload
from gpu_worker.contract.jobs import CheckTemplate, InspectPhotos, MakePortraits, PhotoRef, Sitter, TrainSubject


class Ordering:
    """Orders for one person, within one transaction."""

    def __init__(self, store: Store, settings: Settings, now: datetime, guild_id: str | None = None) -> None:
        self._store, self._settings, self._now, self._guild_id = store, settings, now, guild_id

    async def inspection(self, stored: StoredCollection, *, even_if_failed: bool = False) -> str | None:
        """A check of the collection as it is now.

        None when there is nothing to check, a check is under way, or the last one of the same photos failed.
        """
        session_id, photos = stored.collection.session_id, stored.collection.photos
        if stored.state != "collecting" or not stored.collection.is_checking:
            return None
        last = await self._store.jobs.last_inspection(session_id)
        if last and not last.status.is_final:
            return None
        if last and last.status is JobStatus.FAILED and last.session_version == stored.version and not even_if_failed:
            return None
        refs = tuple(PhotoRef(photo_id=p.photo_id, key=photo_key(stored.user_id, p.photo_id)) for p in photos)
        job = InspectPhotos(job_id=new_id(), photos=refs)
        score = queue_score(self._now, 0)
        await self._store.jobs.add(
            NewJob(
                *(job.job_id, stored.user_id, "inspect", stored.address, job_payload(job), score),
                session_id=session_id,
                session_version=stored.version,
            ),
            self._now,
        )
        return job.job_id

    async def training(self, stored: StoredCollection, address: Address) -> str:
        """A training on the collection's usable photos, shown in the collection's message."""
        session_id, user_id = stored.collection.session_id, stored.user_id
        usable = [photo for photo in stored.collection.photos if photo.is_usable]
        subject_id = new_id()
        job = TrainSubject(
            job_id=new_id(),
            subject_id=subject_id,
            photos=tuple(PhotoRef(photo_id=p.photo_id, key=photo_key(user_id, p.photo_id)) for p in usable),
            output_prefix=subject_prefix(user_id, subject_id),
            seed=secrets.randbelow(2**31),
        )
        score = await self._score(user_id, "train")
        await self._store.jobs.add(
            NewJob(
                *(job.job_id, user_id, "train", address, job_payload(job), score),
                session_id=session_id,
                subject_id=subject_id,
                guild_id=self._guild_id,
            ),
            self._now,
        )
        if stored.message:
            await self._store.jobs.set_message(job.job_id, stored.message)
        await self._store.collections.set_state(session_id, "training")
        return job.job_id

    async def portrait(
        self, user_id: str, address: Address, template: Template, sitters: tuple[str, ...], count: int | None = None
    ) -> str:
        """`sitters`: subjects of theirs by face, "" where a face stays; at least one."""
        seats = [await self._sitter(subject_id) if subject_id else None for subject_id in sitters]
        first = next(seat for seat in seats if seat)
        job_id = new_id()
        job = MakePortraits(
            job_id=job_id,
            subject_id=first.subject_id,
            subject_prefix=first.subject_prefix,
            faces=tuple(seats) if template.faces > 1 else (),
            template_key=template.key,
            output_prefix=job_prefix(user_id, job_id),
            count=count or self._settings.portraits_per_job,
            seed=secrets.randbelow(2**31),
        )
        score = await self._score(user_id, "portrait")
        await self._store.jobs.add(
            NewJob(
                *(job_id, user_id, "portrait", address, job_payload(job), score),
                subject_id=first.subject_id,
                template_id=template.template_id,
                guild_id=self._guild_id,
            ),
            self._now,
        )
        return job_id

    async def _sitter(self, subject_id: str) -> Sitter:
        prefix = await self._store.library.subject_prefix(subject_id)
        assert prefix, "the caller has just seen the subject"
        await self._store.library.subject_used(subject_id, self._now)
        return Sitter(subject_id=subject_id, subject_prefix=prefix)

    async def template_check(self, user_id: str, address: Address, template_id: str, key: str) -> str:
        job = CheckTemplate(job_id=new_id(), template_key=key)
        score = queue_score(self._now, 0)
        await self._store.jobs.add(
            NewJob(*(job.job_id, user_id, "check_template", address, job_payload(job), score), template_id=template_id),
            self._now,
        )
        return job.job_id

    async def _score(self, user_id: str, kind: JobKind) -> float:
        return queue_score(self._now, len(await self._store.jobs.open_of(user_id, (kind,))))
