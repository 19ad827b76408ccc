"""What workers report, from the Redis stream into SQL, and from there into the chat."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any, assert_never

from pydantic import ValidationError
from redis.exceptions import RedisError, ResponseError

from bot.chat import ChatError
from bot.db.collections import Judgement
from bot.db.database import is_away
from bot.db.library import OwnedPortrait
from bot.db.store import Store
from bot.delivery import Delivery, Painter
from bot.domain import JobStatus, PortraitView, StoredJob, Subject, new_id
from bot.parts import Parts
from bot.texts import subject_name
from gpu_worker.contract import events as e
from gpu_worker.contract.blobs import own_template_key, photo_key, run_prefix, subject_prefix

logger = logging.getLogger(__name__)

# One bot process reads the stream. Under a fixed name a restarted one goes on with what the last one left unfinished.
_CONSUMER = "bot"
_BATCH = 50
_BLOCK_MS = 500  # how long a stop may take
_TRIES = 5
_RETRY_AFTER_S = (5.0, 30.0, 120.0, 300.0)

AnyEvent = e.Started | e.Progress | e.Succeeded | e.Failed


@dataclass
class Recorded:
    """What an event changed. `job` is as it was before; blobs are to be deleted after the commit."""

    job: StoredJob
    is_final: bool = False
    is_news: bool = True
    blobs: list[str] = field(default_factory=list)


async def record_job_event(parts: Parts, event: AnyEvent) -> Recorded | None:
    """One event into SQL, in one transaction. None for a job that nobody knows (any more).

    A duplicate, an event of an older run, and whatever comes after the end change nothing.
    """
    # After a power cut progress is reported anew; an outcome would be lost with the event that is deleted now.
    async with parts.db.transaction(lasting=isinstance(event, e.Succeeded | e.Failed)) as store:
        job = await store.jobs.lock(event.job_id)
        if job is None:
            return None
        recorded = Recorded(job)
        if job.status.is_final or event.attempt < job.attempt or (event.attempt, event.run, event.seq) <= job.seen:
            recorded.is_news = False
            if job.status is JobStatus.CANCELLED and isinstance(event, e.Succeeded):
                recorded.blobs += _outputs(job, event)
            return recorded
        await store.jobs.change(
            job.job_id,
            seen_attempt=event.attempt,
            seen_run=event.run,
            seen_seq=event.seq,
            **_moved_on(parts, job, event),
        )
        match event:
            case e.Started() | e.Progress():
                pass
            case e.Succeeded():
                recorded.is_final = True
                await _succeeded(parts, store, recorded, event)
            case e.Failed():
                recorded.is_final = await _failed(parts, store, recorded, event)
            case _:
                assert_never(event)
    parts.metrics.job_event(job, event, parts.clock())
    return recorded


def _moved_on(parts: Parts, job: StoredJob, event: AnyEvent) -> dict[str, Any]:
    """Whatever a worker says shows that it runs the job; only the first word of a run starts the clock."""
    columns: dict[str, Any] = {}
    if job.status is JobStatus.QUEUED:
        columns |= {"status": JobStatus.RUNNING, "started_at": parts.clock()}
    if isinstance(event, e.Started):
        columns |= {"stage": None, "fraction": 0.0}
    if isinstance(event, e.Progress):
        columns |= {"stage": event.stage, "fraction": event.fraction}
        columns |= {"preview_key": event.preview_key} if event.preview_key else {}
    return columns


async def _succeeded(parts: Parts, store: Store, recorded: Recorded, event: e.Succeeded) -> None:
    job, now, result = recorded.job, parts.clock(), event.result
    await store.jobs.change(
        job.job_id, status=JobStatus.SUCCEEDED, finished_at=now, fraction=1.0, result=result.model_dump(mode="json")
    )
    match result:
        case e.InspectResult() if job.session_id:
            verdicts = _judgements(result.photos)
            await store.collections.judge(job.session_id, verdicts, result.reference, job.session_version)
        case e.CheckTemplateResult() if job.template_id:
            if result.faces and not result.reason:
                await store.library.template_checked(job.template_id, [face.box_xyxy for face in result.faces])
            else:
                await _drop_template(store, recorded)
        case e.TrainResult() if job.subject_id and job.session_id:
            await _keep_subject(parts, store, recorded, event, result)
        case e.PortraitResult():
            for number, file in enumerate(result.portraits, 1):
                view = PortraitView(new_id(), file.key, file.width, file.height, file.likeness, file.notes)
                made = OwnedPortrait(view, job.job_id, job.user_id, job.template_id, job.subject_id)
                await store.library.add_portrait(made, number, now)
        case _:
            logger.error("job %s (%s) ended with a result of kind %s", job.job_id, job.kind, result.kind)
            await end_badly(parts, store, recorded, {"kind": "permanent", "reason": "internal"})


async def _keep_subject(
    parts: Parts, store: Store, recorded: Recorded, event: e.Succeeded, result: e.TrainResult
) -> None:
    job, now = recorded.job, parts.clock()
    assert job.session_id
    assert job.subject_id
    stored = await store.collections.get(job.session_id)
    here = stored.collection if stored else None
    subjects = await store.library.subjects(job.user_id)
    old = next((s for s in subjects if here and s.subject_id == here.retrains_id), None)
    name = old.name if old else await _name(store, job, job.session_id, len(subjects) + 1)
    picture = result.card_key or result.preview_key
    subject = Subject(job.subject_id, name, now, result.likeness, result.real_likeness, picture)
    prefix = result.files_prefix or run_prefix(job.payload["output_prefix"], event.attempt, event.run)
    keeps_photos = parts.settings.keep_photos or (here is not None and here.keeps_photos)
    await store.library.add_subject(job.user_id, subject, prefix, job.session_id if keeps_photos else None)
    if old:
        await store.library.replace_subject(old.subject_id, job.subject_id)
        waiting = await store.jobs.open_of(job.user_id, ("portrait",))
        if not waiting:  # else the sweep deletes it once they are done with it
            recorded.blobs.append(subject_prefix(job.user_id, old.subject_id))
    await store.collections.judge(job.session_id, _judgements(result.photos), None, None)
    await store.collections.set_state(job.session_id, "trained")
    if not keeps_photos:
        used = await store.collections.photos_used_up(job.session_id)
        recorded.blobs += [photo_key(job.user_id, photo_id) for photo_id in used]


async def _name(store: Store, job: StoredJob, session_id: str, number: int) -> str:
    """What the person called it, or else its number."""
    person = await store.people.find(job.address)
    given = await store.collections.name_of(session_id)
    return given or subject_name(number, person.language if person else "en")


async def _failed(parts: Parts, store: Store, recorded: Recorded, event: e.Failed) -> bool:
    """Whether that is the end: what is only for now is tried again, later each time."""
    job = recorded.job
    logger.log(
        logging.INFO if event.kind in ("user", "cancelled") else logging.WARNING,
        "job %s attempt %d failed: %s %s %s",
        *(job.job_id, event.attempt, event.kind, event.reason, event.detail),
    )
    if event.kind == "transient" and job.attempt < parts.settings.job_attempts:
        pause = _RETRY_AFTER_S[min(job.attempt, len(_RETRY_AFTER_S)) - 1]
        await store.jobs.attempt_again(job.job_id, parts.clock(), pause)
        return False
    failure = event.model_dump(mode="json", include={"kind", "reason"})
    await end_badly(parts, store, recorded, failure)
    if event.photos and job.session_id:
        await store.collections.judge(job.session_id, _judgements(event.photos), None, None)
    return True


async def end_badly(parts: Parts, store: Store, recorded: Recorded, failure: dict[str, Any]) -> None:
    """A job's final failure or cancellation, and what goes back to where it was."""
    job = recorded.job
    status = JobStatus.CANCELLED if failure["kind"] == "cancelled" else JobStatus.FAILED
    await store.jobs.change(job.job_id, status=status, finished_at=parts.clock(), failure=failure)
    if job.kind == "train" and job.session_id:
        await store.collections.set_state(job.session_id, "collecting")
    if job.kind == "check_template":
        await _drop_template(store, recorded)


async def _drop_template(store: Store, recorded: Recorded) -> None:
    job = recorded.job
    if job.template_id:
        await store.library.delete("template", job.template_id)
        recorded.blobs.append(own_template_key(job.user_id, job.template_id))


def _outputs(job: StoredJob, event: e.Succeeded) -> list[str]:
    """All that the runs of a cancelled job left: its prefix is its own."""
    prefix = job.payload.get("output_prefix")
    return [prefix] if prefix else []


def _judgements(photos: tuple[e.PhotoVerdict, ...]) -> list[Judgement]:
    return [Judgement(photo.photo_id, photo.verdict, photo.reason, photo.measures) for photo in photos]


class EventReader:
    """Reads the stream with a consumer group: recorded, acknowledged, deleted, and then shown."""

    def __init__(self, parts: Parts, delivery: Delivery, painter: Painter) -> None:
        self._parts, self._delivery, self._painter = parts, delivery, painter
        self._redis = parts.queue.redis
        self._tries: dict[bytes, int] = {}

    async def run(self, stop: asyncio.Event) -> None:
        pause_s = 1.0
        while not stop.is_set():
            try:
                await self.begin()
                while not stop.is_set():
                    await self.read(">", block_ms=_BLOCK_MS)
                    pause_s = 1.0
            except (RedisError, OSError) as error:
                logger.warning("the event stream is away: %s", error)
            except Exception:  # the border of the loop: one event that we cannot record must not end all
                logger.exception("job events could not be recorded")
            if not stop.is_set():
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 30)

    async def begin(self) -> None:
        try:
            await self._redis.xgroup_create(e.EVENT_STREAM, e.EVENT_GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        while await self.read("0"):
            pass

    async def read(self, after: str, *, block_ms: int | None = None) -> int:
        """One batch: "0" is what was read before and not acknowledged, ">" is new. How many there were."""
        answer = await self._redis.xreadgroup(
            e.EVENT_GROUP, _CONSUMER, {e.EVENT_STREAM: after}, count=_BATCH, block=block_ms
        )
        entries = [entry for _, of_stream in answer or () for entry in of_stream]
        for entry_id, fields in entries:
            self._tries[entry_id] = self._tries.get(entry_id, 0) + 1
            if self._tries[entry_id] <= _TRIES:
                await self._take_patiently(entry_id, (fields or {}).get(e.EVENT_FIELD.encode()))
            else:
                logger.error("an event is given up after %d tries", _TRIES)  # the reconciler looks after its job
            del self._tries[entry_id]
            # Deleted as well: nothing about anybody stays in Redis once SQL has it. In one step: what is acknowledged
            # and not deleted would never be read again, and would look like news of its job for ever.
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.xack(e.EVENT_STREAM, e.EVENT_GROUP, entry_id)
                pipe.xdel(e.EVENT_STREAM, entry_id)
                await pipe.execute()
        return len(entries)

    async def _take_patiently(self, entry_id: bytes, raw: bytes | None) -> None:
        try:
            await self._take(raw)
        except Exception as error:
            if is_away(error):
                self._tries[entry_id] -= 1  # not the event's fault
            raise

    async def _take(self, raw: bytes | None) -> None:
        try:
            event = e.EVENT.validate_json(raw or b"")
        except ValidationError as error:
            logger.error("an event that nobody understands: %s", error.errors(include_input=False)[:3])
            return
        recorded = await record_job_event(self._parts, event)
        if recorded is None:
            await self._of_nobody(event)
            return
        for key in recorded.blobs:
            await self._parts.blobs.delete_prefix(key)
        if recorded.is_final:
            self._parts.tasks.begin("showing an outcome", self._show(recorded.job))
        elif recorded.is_news:
            self._painter.note(recorded.job)
            self._parts.relay_wanted.set()

    async def _show(self, job: StoredJob) -> None:
        try:
            await self._delivery.show_job(job.job_id)
            if job.kind == "inspect" and job.session_id:
                await self._delivery.show_collection(job.session_id)
        except ChatError as error:
            logger.info("the outcome of job %s is not shown yet: %s", job.job_id, error)

    async def _of_nobody(self, event: AnyEvent) -> None:
        """The person was forgotten while a worker was at it: it is told to stop, then the job's traces go."""
        if isinstance(event, e.Succeeded | e.Failed):
            await self._parts.queue.forget(event.job_id, event.attempt)
        else:
            await self._parts.queue.withdraw(event.job_id, event.attempt)
