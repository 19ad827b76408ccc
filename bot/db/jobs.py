"""Jobs, and the outbox that carries them to the queue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Any, Literal, cast, get_args

from sqlalchemy import ColumnElement, TextClause, delete, exists, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from bot.db import tables as t
from bot.db.people import address_of
from bot.domain import (
    Address,
    JobKind,
    JobStatus,
    MessageRef,
    NewJob,
    QueuePlace,
    StoredJob,
    Workers,
    expected_wait_s,
)

_OPEN = (JobStatus.QUEUED, JobStatus.RUNNING)
_RENDERS: tuple[JobKind, ...] = ("train", "portrait")
_KINDS: tuple[JobKind, ...] = get_args(JobKind)
_AT_ONCE = 500  # values of one statement; databases take some thousands
_MEASURED_OVER = 20


@dataclass(frozen=True)
class Parcel:
    """An outbox row: attempt `attempt` of a job that arq does not have yet."""

    outbox_id: int
    job: StoredJob
    attempt: int
    tries: int


class Jobs:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    # --- deciding ---

    async def add(self, job: NewJob, now: datetime) -> None:
        """The job and its outbox row."""
        self._session.add(
            t.Job(
                id=job.job_id,
                user_id=job.user_id,
                kind=job.kind,
                status=JobStatus.QUEUED,
                payload=job.payload,
                session_id=job.session_id,
                session_version=job.session_version,
                subject_id=job.subject_id,
                template_id=job.template_id,
                guild_id=job.guild_id,
                platform=job.address.platform,
                chat=job.address.chat,
                person=job.address.person,
                score=job.score,
                created_at=now,
            )
        )
        await self._session.flush()
        self._session.add(t.Outbox(job_id=job.job_id, attempt=1, created_at=now, next_try_at=now))

    async def attempt_again(self, job_id: str, now: datetime, delay_s: float = 0) -> None:
        """One more attempt at an open job."""
        row = await self._session.get_one(t.Job, job_id, with_for_update=True)
        row.attempt += 1
        row.status, row.started_at = JobStatus.QUEUED, None
        due = now + timedelta(seconds=delay_s)
        self._session.add(t.Outbox(job_id=job_id, attempt=row.attempt, created_at=now, next_try_at=due))

    async def lock(self, job_id: str) -> StoredJob | None:
        """The job, locked until the transaction ends."""
        row = await self._session.get(t.Job, job_id, with_for_update=True, populate_existing=True)
        return _stored(row) if row else None

    async def get(self, job_id: str) -> StoredJob | None:
        row = await self._session.get(t.Job, job_id)
        return _stored(row) if row else None

    async def change(self, job_id: str, **values: Any) -> None:
        """Sets columns of a job by their names in the table."""
        await self._session.execute(update(t.Job).where(t.Job.id == job_id).values(**values))

    async def set_message(self, job_id: str, ref: MessageRef) -> None:
        await self.change(job_id, message_id=ref.message_id, message_is_picture=ref.is_picture, chat=ref.address.chat)

    async def known_among(self, job_ids: Iterable[str]) -> set[str]:
        """Those of the ids that are jobs."""
        asked, known = list(job_ids), set[str]()
        for first in range(0, len(asked), _AT_ONCE):
            some = asked[first : first + _AT_ONCE]
            known.update(await self._session.scalars(select(t.Job.id).where(t.Job.id.in_(some))))
        return known

    # --- finding ---

    async def open_of(self, user_id: str, kinds: Sequence[JobKind] = _RENDERS) -> list[StoredJob]:
        """The person's jobs that are not final, oldest first."""
        return await self._find(t.Job.user_id == user_id, t.Job.status.in_(_OPEN), t.Job.kind.in_(kinds))

    async def inspecting(self, session_id: str) -> list[StoredJob]:
        return await self._find(t.Job.session_id == session_id, t.Job.kind == "inspect", t.Job.status.in_(_OPEN))

    async def last_inspection(self, session_id: str) -> StoredJob | None:
        found = await self._find(t.Job.session_id == session_id, t.Job.kind == "inspect")
        return found[-1] if found else None

    async def all_open(self) -> list[StoredJob]:
        return await self._find(t.Job.status.in_(_OPEN))

    async def cancelled_since(self, moment: datetime) -> list[StoredJob]:
        # All kinds by name: so the index of what ended is read from that moment on.
        return await self._find(
            t.Job.status == JobStatus.CANCELLED, t.Job.kind.in_(_KINDS), t.Job.finished_at >= moment
        )

    async def unshown(self) -> list[StoredJob]:
        """Final jobs whose outcome has not been shown for certain."""
        # Literally the condition of the partial index: with a parameter in it SQLite reads every job.
        return await self._find(t.Job.status.not_in(_OPEN), text("shown <> 'yes'"))

    async def needed_among(self, job_ids: set[str]) -> set[str]:
        """Those of the jobs whose blobs somebody needs: open ones, and those with portraits."""
        has_portraits = exists().where(t.Portrait.job_id == t.Job.id)
        query = select(t.Job.id).where(t.Job.id.in_(job_ids), t.Job.status.in_(_OPEN) | has_portraits)
        return set(await self._session.scalars(query))

    async def learning_among(self, subject_ids: set[str]) -> set[str]:
        """Those of the subjects-to-be whose training is not final."""
        query = select(t.Job.subject_id).where(
            t.Job.status.in_(_OPEN), t.Job.kind == "train", t.Job.subject_id.in_(subject_ids)
        )
        return {subject_id for subject_id in await self._session.scalars(query) if subject_id}

    async def unsent(self) -> set[str]:
        """Jobs that the relay has yet to hand to arq."""
        return set(await self._session.scalars(select(t.Outbox.job_id).where(t.Outbox.sent_at.is_(None))))

    # --- the queue ---

    async def waiting(self) -> int:
        """Everybody's trainings and portraits that are not final."""
        query = select(func.count()).select_from(t.Job).where(t.Job.status.in_(_OPEN), t.Job.kind.in_(_RENDERS))
        return await self._session.scalar(query) or 0

    async def place_of(self, job: StoredJob, workers: Workers) -> QueuePlace | None:
        """Where an open job stands, and in how many seconds it will probably be done."""
        if job.status.is_final or job.kind not in _RENDERS:
            return None
        lane = _RENDERS if workers.one_engine else (job.kind,)
        usual = {kind: s for kind in lane if (s := await self._usual_seconds(kind)) is not None}
        rest = 1.0 - job.fraction
        if job.status is JobStatus.RUNNING:
            return QueuePlace(0, expected_wait_s([(job.kind, rest)], usual, 1))
        queued = await self._queued_before(job, lane)
        ahead: list[tuple[JobKind, float]] = [*(await self._still_running(lane)).items(), *queued.items()]
        wait, own = expected_wait_s(ahead, usual, workers.count), expected_wait_s([(job.kind, 1.0)], usual, 1)
        eta = wait + own if wait is not None and own is not None else None
        return QueuePlace(
            1 + sum(queued.values()),
            eta if workers.count and not workers.are_starting else None,
            is_served=workers.count > 0,
            is_starting=workers.are_starting,
        )

    async def _queued_before(self, job: StoredJob, kinds: Sequence[JobKind]) -> dict[JobKind, int]:
        rows = await self._session.execute(
            select(t.Job.kind, func.count())
            .where(t.Job.status == JobStatus.QUEUED, t.Job.kind.in_(kinds), t.Job.score < job.score)
            .where(t.Job.id != job.job_id)
            .group_by(t.Job.kind)
        )
        return {cast(JobKind, kind): count for kind, count in rows}

    async def _still_running(self, kinds: Sequence[JobKind]) -> dict[JobKind, float]:
        """How much of the running jobs is still to be done, in whole jobs."""
        rows = await self._session.execute(
            select(t.Job.kind, func.sum(1.0 - t.Job.fraction))
            .where(t.Job.status == JobStatus.RUNNING, t.Job.kind.in_(kinds))
            .group_by(t.Job.kind)
        )
        return {cast(JobKind, kind): rest for kind, rest in rows}

    async def _usual_seconds(self, kind: JobKind) -> float | None:
        rows = await self._session.execute(
            select(t.Job.started_at, t.Job.finished_at)
            .where(t.Job.kind == kind, t.Job.status == JobStatus.SUCCEEDED, t.Job.started_at.is_not(None))
            .order_by(t.Job.finished_at.desc())
            .limit(_MEASURED_OVER)
        )
        took = [(finished - started).total_seconds() for started, finished in rows if started and finished]
        return median(took) if took else None

    # --- the outbox ---

    async def unsent_parcels(self, now: datetime, limit: int = 20) -> list[Parcel]:
        query = (
            select(t.Outbox, t.Job)
            .join(t.Job, t.Job.id == t.Outbox.job_id)
            .where(t.Outbox.sent_at.is_(None), (t.Outbox.next_try_at <= now) | (t.Outbox.created_at > now))
            .order_by(t.Outbox.next_try_at, t.Outbox.id)
            .limit(limit)
        )
        return [
            Parcel(parcel.id, _stored(job), parcel.attempt, parcel.tries)
            for parcel, job in await self._session.execute(query)
        ]

    async def parcel_sent(self, outbox_id: int, now: datetime) -> None:
        await self._session.execute(update(t.Outbox).where(t.Outbox.id == outbox_id).values(sent_at=now))

    async def parcel_failed(self, outbox_id: int, error: str, next_try_at: datetime) -> None:
        await self._session.execute(
            update(t.Outbox)
            .where(t.Outbox.id == outbox_id)
            .values(tries=t.Outbox.tries + 1, last_error=error, next_try_at=next_try_at)
        )

    async def delete_final_before(self, moment: datetime) -> None:
        """Jobs that ended long ago and of which nothing is left."""
        ended = [status for status in JobStatus if status.is_final]
        await self._session.execute(
            delete(t.Job)
            .where(t.Job.status.in_(ended), t.Job.kind.in_(_KINDS), t.Job.finished_at < moment)
            .where(~exists().where(t.Portrait.job_id == t.Job.id))
        )

    async def delete_sent_before(self, moment: datetime) -> None:
        await self._session.execute(delete(t.Outbox).where(t.Outbox.sent_at < moment))

    async def _find(self, *where: ColumnElement[bool] | TextClause) -> list[StoredJob]:
        rows = await self._session.scalars(select(t.Job).where(*where).order_by(t.Job.created_at, t.Job.id))
        return [_stored(row) for row in rows]


def _stored(row: t.Job) -> StoredJob:
    address: Address = address_of(row.platform, row.chat, row.person)
    return StoredJob(
        job_id=row.id,
        user_id=row.user_id,
        kind=cast(JobKind, row.kind),
        address=address,
        payload=row.payload,
        score=row.score,
        session_id=row.session_id,
        session_version=row.session_version,
        subject_id=row.subject_id,
        template_id=row.template_id,
        guild_id=row.guild_id,
        status=JobStatus(row.status),
        attempt=row.attempt,
        stage=row.stage,
        fraction=row.fraction,
        preview_key=row.preview_key,
        failure=row.failure,
        result=row.result,
        seen=(row.seen_attempt, row.seen_run, row.seen_seq),
        shown=cast(Literal["no", "showing", "closing", "yes"], row.shown),
        message=MessageRef(address, row.message_id, row.message_is_picture) if row.message_id else None,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
