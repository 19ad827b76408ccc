"""Stand-ins for the core's tests: a chat that remembers what was said, and a worker that decides at once."""

from __future__ import annotations

import io
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from arq.constants import job_key_prefix
from PIL import Image

from bot.chat import ChatError
from bot.choices import rows_of
from bot.domain import Address, Language, MessageRef
from bot.queue import JobQueue
from bot.replies import Choice, Reply
from gpu_worker.contract import events as e
from gpu_worker.contract.blobs import BlobStore, run_prefix
from gpu_worker.contract.codec import AnyJob, from_bytes, read_job
from gpu_worker.contract.jobs import (
    QUEUES,
    CheckTemplate,
    InspectPhotos,
    MakePortraits,
    TrainSubject,
    cancel_key,
)
from tests.sealed import blobs_of_one_key, the_master_keys


def jpeg(seed: int = 0, size: tuple[int, int] = (640, 480)) -> bytes:
    """A picture unlike those of other seeds."""
    noise = np.random.default_rng(seed).integers(0, 255, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize(size).save(out, "JPEG")
    return out.getvalue()


@dataclass
class FakeChat:
    """What a platform shows: messages in order, each as last edited. `said` is every send and edit, in order."""

    shown: dict[str, Reply] = field(default_factory=dict)
    said: list[tuple[Literal["send", "update"], Reply]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    fail: list[ChatError] = field(default_factory=list)  # raised by the next calls, one each
    meanwhile: Callable[[Reply], Awaitable[None]] | None = None  # happens while a message is on its way
    _ids: Any = field(default_factory=lambda: itertools.count(1))

    async def send(self, to: Address, reply: Reply, language: Language) -> list[MessageRef]:
        if self.fail:
            raise self.fail.pop(0)
        if self.meanwhile is not None:
            await self.meanwhile(reply)
        message_id = str(next(self._ids))
        self.shown[message_id] = reply
        self.said.append(("send", reply))
        return [MessageRef(to, message_id)]

    async def update(self, ref: MessageRef, reply: Reply, language: Language) -> MessageRef:
        if self.fail:
            raise self.fail.pop(0)
        self.shown[ref.message_id] = reply
        self.said.append(("update", reply))
        return ref

    async def delete(self, ref: MessageRef) -> bool:
        self.deleted.append(ref.message_id)
        return self.shown.pop(ref.message_id, None) is not None

    def last(self, kind: type[Any]) -> Any:
        """The newest shown reply of a kind. Raises AssertionError with what is shown instead."""
        found = [reply for reply in self.shown.values() if isinstance(reply, kind)]
        assert found, f"no {kind.__name__} among {[type(reply).__name__ for reply in self.shown.values()]}"
        return found[-1]

    def sent(self, kind: type[Any]) -> int:
        """How often a reply of that kind was sent as a new message."""
        return sum(how == "send" and isinstance(reply, kind) for how, reply in self.said)

    def button(self, kind: type[Any], action: str) -> Choice:
        """That button of the newest reply of a kind."""
        buttons = [button.choice for row in rows_of(self.last(kind)) for button in row]
        return next(choice for choice in buttons if choice.action == action)


@dataclass
class FakeWorker:
    """Takes what is queued, in arq's order, and reports as a worker does. `verdicts` overrides verdicts by number."""

    queue: JobQueue
    stored: BlobStore
    runs: dict[tuple[str, int], int] = field(default_factory=dict)
    done: list[AnyJob] = field(default_factory=list)
    refuse: dict[int, str] = field(default_factory=dict)  # place in the job -> reason
    fail_with: dict[str, Any] | None = None
    template_reason: str | None = None
    template_faces: int = 1
    skip: dict[int, str] = field(default_factory=dict)  # index of a face -> why it cannot be done

    async def take(self) -> AnyJob | None:
        """The next job, off the queue."""
        for name in QUEUES:
            for arq_id in await self.queue.redis.zrange(name, 0, 0):
                await self.queue.redis.zrem(name, arq_id)
                body = await self.queue.redis.getdel(job_key_prefix + arq_id.decode())
                return read_job(from_bytes(body)["a"][0])
        return None

    async def work(self) -> int:
        """Everything that is queued; how many jobs."""
        count = 0
        while (job := await self.take()) is not None:
            await self.run(job)
            count += 1
        return count

    async def run(self, job: AnyJob) -> None:
        base = self.begin(job)
        await self.report(e.Started(**base, seq=1))
        if await self.queue.redis.exists(cancel_key(job.job_id)):
            await self.report(e.Failed(**base, seq=2, kind="cancelled", reason="cancelled"))
            return
        await self.report(e.Progress(**base, seq=2, stage="inspect", done=1, total=2, fraction=0.5))
        if self.fail_with:
            await self.report(e.Failed(**base, seq=3, **self.fail_with))
        else:
            await self.report(e.Succeeded(**base, seq=3, result=await self.result(job, base["run"])))
            self.done.append(job)

    def begin(self, job: AnyJob) -> dict[str, Any]:
        claim = (job.job_id, job.attempt)
        self.runs[claim] = self.runs.get(claim, 0) + 1
        return {"job_id": job.job_id, "attempt": job.attempt, "run": self.runs[claim], "at": 0.0, "worker": "fake"}

    async def report(self, event: e.EventBase) -> None:
        await self.queue.redis.xadd(e.EVENT_STREAM, {e.EVENT_FIELD: event.model_dump_json()})

    async def result(self, job: AnyJob, run: int) -> e.Result:
        assert job.user_key, "every queued job brings its user's key"
        blobs = blobs_of_one_key(self.stored, the_master_keys().unwrap(job.user_key))
        match job:
            case InspectPhotos():
                photos = self._verdicts([photo.photo_id for photo in job.photos])
                usable = [photo for photo in photos if photo.verdict != "refused"]
                return e.InspectResult(
                    photos=photos, usable=len(usable), reference=usable[0].photo_id if usable else None
                )
            case CheckTemplate():
                count = 0 if self.template_reason else self.template_faces
                faces = [e.TemplateFace(box_xyxy=(n / count, 0.2, (n + 0.8) / count, 0.8)) for n in range(count)]
                return e.CheckTemplateResult(faces=tuple(faces), reason=self.template_reason)
            case TrainSubject():
                prefix = run_prefix(job.output_prefix, job.attempt, run)
                await blobs.put(f"{prefix}/lora.safetensors", b"weights")
                await blobs.put(f"{prefix}/preview.jpg", jpeg(1))
                return e.TrainResult(
                    photos=self._verdicts([photo.photo_id for photo in job.photos]),
                    usable=len(job.photos),
                    held_out=(job.photos[-1].photo_id,),
                    steps=10,
                    checkpoints=(e.Checkpoint(step=10, likeness=0.6),),
                    likeness=0.6,
                    real_likeness=0.7,
                    recogniser="fake",
                    preview_key=f"{prefix}/preview.jpg",
                    seconds={"train": 1.0},
                )
            case MakePortraits():
                prefix = run_prefix(job.output_prefix, job.attempt, run)
                keys = [f"{prefix}/{number}.jpg" for number in range(job.count)]
                for number, key in enumerate(keys):
                    await blobs.put(key, jpeg(number))
                files = tuple(e.PortraitFile(key=key, width=640, height=480, likeness=0.5) for key in keys)
                skipped = tuple(
                    e.SkippedFace(face=face, subject_id=seat.subject_id, reason=self.skip[face])
                    for face, seat in enumerate(job.faces)
                    if seat and face in self.skip
                )
                return e.PortraitResult(portraits=files, seconds={"fuse": 1.0}, skipped=skipped)

    def _verdicts(self, photo_ids: list[str]) -> tuple[e.PhotoVerdict, ...]:
        return tuple(
            e.PhotoVerdict(photo_id=photo_id, verdict="refused", reason=self.refuse[place])
            if place in self.refuse
            else e.PhotoVerdict(photo_id=photo_id, verdict="ok")
            for place, photo_id in enumerate(photo_ids, 1)
        )


def elsewhere(address: Address) -> Address:
    """Somebody else's chat."""
    return replace(address, chat=f"{address.chat}9", person=f"{address.person}9")
