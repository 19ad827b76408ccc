"""What a job that has ended says to the person who ordered it."""

from __future__ import annotations

from typing import Any

from bot import replies as r
from bot.db.store import Store
from bot.domain import JobStatus, PhotoVerdict, StoredJob
from bot.guilds import GuildRules
from bot.lookups import Lookups
from bot.replies import Reply


async def outcome(store: Store, lookups: Lookups, job: StoredJob) -> Reply | None:
    """What a final job says; None when it has nothing to say."""
    if job.status is JobStatus.CANCELLED:
        return r.Cancelled(job.kind)
    if job.status is JobStatus.FAILED:
        return await _failure(store, job)
    seconds = (job.finished_at - job.started_at).total_seconds() if job.finished_at and job.started_at else 0.0
    match job.kind:
        case "train":
            subjects = await store.library.subjects(job.user_id)
            subject = next((s for s in subjects if s.subject_id == job.subject_id), None)
            refused = tuple(p for p in await _photos(store, job) if p.verdict == "refused")
            return r.SubjectReady(subject, refused, subject.preview_key, seconds) if subject else None
        case "portrait":
            portraits = [lookups.view(p) for p in await store.library.portraits_of_job(job.job_id)]
            if not portraits:
                return None
            skipped = tuple(
                r.SkippedFace(face["face"] + 1, face["reason"]) for face in (job.result or {}).get("skipped", ())
            )
            rules = await store.operations.guild(job.guild_id) if job.guild_id else GuildRules()
            return r.PortraitsReady(job.job_id, (portraits[0],), seconds, len(portraits) - 1, skipped, rules.is_spoiler)
        case "check_template":
            template = await lookups.template(job.template_id or "")
            if template is None:
                return r.OwnTemplateRefused((job.result or {}).get("reason") or "no_face")
            return r.OwnTemplateReady(template, len((job.result or {}).get("faces", ())))
        case "inspect":
            return None


async def _failure(store: Store, job: StoredJob) -> Reply | None:
    failure: dict[str, Any] = job.failure or {}
    reason = failure.get("reason", "internal")
    stored = await store.collections.get(job.session_id) if job.session_id else None
    photos = stored.collection.photos if stored else ()
    if job.kind == "check_template":
        return r.OwnTemplateRefused(reason)
    if job.kind == "inspect" and (not photos or (stored and stored.version != job.session_version)):
        return None  # the photos have changed or are gone meanwhile: nobody waits for verdicts on the old set
    return r.JobFailed(
        job.kind,
        reason,
        photos=tuple(p for p in photos if p.verdict == "refused"),
        reference=job.job_id[:6],
        can_retry=failure.get("kind") != "user",
        job_id=job.job_id,
    )


async def _photos(store: Store, job: StoredJob) -> tuple[PhotoVerdict, ...]:
    stored = await store.collections.get(job.session_id) if job.session_id else None
    return stored.collection.photos if stored else ()
