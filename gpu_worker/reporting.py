"""What a worker reports of a job: progress that never holds the job up, and one outcome that must arrive."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from redis.exceptions import RedisError

from gpu_worker.background import beside
from gpu_worker.claims import Lease, LeaseLost
from gpu_worker.contract.blobs import BlobStore
from gpu_worker.contract.events import EventBase, Failed, Progress, Started, Succeeded
from gpu_worker.contract.jobs import JobKind
from gpu_worker.engine_messages import Done, Failure, Step

logger = logging.getLogger(__name__)

# Share of a job's time that each stage takes, in order, as measured with the mini profile; they need not add up to 1.
STAGE_WEIGHTS: Mapping[JobKind, Mapping[str, float]] = MappingProxyType(
    {
        "inspect": {"inspect": 1},
        "check_template": {"template": 1},
        "train": {"inspect": 6, "preview": 2, "prepare": 10, "train": 78, "merge": 6},
        "portrait": {
            "template": 6,
            "fuse": 6,
            "first_diffusion": 44,
            "second_fusion": 6,
            "second_diffusion": 24,
            "harmonise": 4,  # of several people
            "enhance": 6,
        },
    }
)


def fraction_of_job(kind: JobKind, step: Step) -> float:
    """How much of the whole job is done, 0..1. A stage that the table does not know counts as not begun."""
    weights = STAGE_WEIGHTS[kind]
    if step.stage not in weights:
        return min(1.0, step.part / step.parts)
    names = list(weights)
    before = sum(weights[name] for name in names[: names.index(step.stage)])
    share = min(1.0, step.done / step.total) if step.total > 0 else 0.0
    done = (before + weights[step.stage] * share) / sum(weights.values())
    return min(1.0, (step.part + done) / step.parts)


class Reporter:
    """The events of one claim, numbered from 1."""

    def __init__(self, lease: Lease, kind: JobKind, blobs: BlobStore, every_s: float) -> None:
        self._lease, self._kind, self._blobs, self._every_s = lease, kind, blobs, every_s
        self._seq = 0
        self._fraction = 0.0
        self._last_stage: tuple[str, int] | None = None
        self._last_time = 0.0
        self._waiting: Step | None = None
        self._has_waiting = asyncio.Event()

    async def started(self) -> None:
        """Tells that the job has begun. Lost when Redis is away: progress says the same."""
        await self._try_to_publish(Started(**self._envelope()))

    def note(self, step: Step) -> None:
        """Takes a step of the engine; only a new stage, a preview, or one after `every_s` seconds becomes an event."""
        now, stage = time.monotonic(), (step.stage, step.part)
        if stage == self._last_stage and now - self._last_time < self._every_s and step.preview is None:
            return
        self._last_stage, self._last_time = stage, now
        if step.preview is None and self._waiting is not None:
            step = step.model_copy(update={"preview": self._waiting.preview})
        self._waiting = step
        self._has_waiting.set()

    @asynccontextmanager
    async def publishing(self, folder: Path, prefix: str) -> AsyncIterator[None]:
        """While the block runs, noted steps are published beside it: the newest one only, if publishing is slow."""
        async with beside(self._publish_steps(folder, prefix)):
            yield

    async def finish(self, outcome: Done | Failure, may_go_on: Callable[[], None]) -> None:
        """Publishes the outcome. Tries until Redis has it or `may_go_on`, asked before each further try, raises."""
        event = self._last_event(outcome)
        while True:
            try:
                return await self._lease.publish(event, is_last=True)
            except (RedisError, OSError) as error:
                logger.warning("outcome not published, trying again: %s", error)
            await asyncio.sleep(1)
            may_go_on()

    def _last_event(self, outcome: Done | Failure) -> Succeeded | Failed:
        if isinstance(outcome, Done):
            return Succeeded(**self._envelope(), result=outcome.result)
        return Failed(
            **self._envelope(), kind=outcome.kind, reason=outcome.reason, photos=outcome.photos, detail=outcome.detail
        )

    async def _publish_steps(self, folder: Path, prefix: str) -> None:
        while True:
            await self._has_waiting.wait()
            self._has_waiting.clear()
            step, self._waiting = self._waiting, None
            if step is not None:
                preview_key = await self._store_preview(step.preview, folder, prefix)
                self._fraction = max(self._fraction, fraction_of_job(self._kind, step))
                await self._try_to_publish(
                    Progress(
                        **self._envelope(),
                        stage=step.stage,
                        done=step.done,
                        total=step.total,
                        fraction=round(self._fraction, 4),
                        preview_key=preview_key,
                    )
                )

    async def _store_preview(self, path: Path | None, folder: Path, prefix: str) -> str | None:
        if path is None or not await self._lease.is_ours():
            return None
        key = f"{prefix}-previews/{self._seq + 1}{path.suffix}"
        try:
            await self._blobs.put(key, await asyncio.to_thread(_read_inside, folder, path))
        except OSError as error:
            logger.warning("preview not stored: %s", error)
            return None
        return key

    async def _try_to_publish(self, event: EventBase) -> None:
        try:
            await self._lease.publish(event)
        except (RedisError, OSError) as error:
            logger.warning("progress not published: %s", error)
        except LeaseLost:
            pass  # `lost` is set, and ends the run

    def _envelope(self) -> dict[str, Any]:
        self._seq += 1
        claim = self._lease.claim
        return {
            "job_id": claim.job_id,
            "attempt": claim.attempt,
            "run": claim.run,
            "seq": self._seq,
            "at": time.time(),
            "worker": claim.worker,
        }


def _read_inside(folder: Path, path: Path) -> bytes:
    if not path.resolve().is_relative_to(folder.resolve()):
        raise FileNotFoundError("it does not lie in the job's folder")
    return path.read_bytes()
