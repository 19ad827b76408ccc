"""Puts right what a crash, a lost message or a forgetful Redis left half done. SQL is the truth; this makes it true."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

from redis.exceptions import RedisError

from bot.chat import ChatError
from bot.delivery import Delivery, Painter
from bot.domain import StoredJob
from bot.erasure import finish_erasures
from bot.job_events import Recorded, end_badly
from bot.parts import Parts

logger = logging.getLogger(__name__)

_EVERY_S = 10.0
_SWEEP_EVERY = 6  # ticks
_PATIENCE = timedelta(seconds=15)  # younger ones are being dealt with
_QUIET = timedelta(seconds=5)
_CANCELLED_LATELY = timedelta(hours=1)


class Reconciler:
    """One `tick` looks after everything. The first one, after a start, waits for nothing."""

    def __init__(self, parts: Parts, delivery: Delivery, painter: Painter) -> None:
        self._parts, self._delivery, self._painter = parts, delivery, painter
        self._ticks = 0
        self.wanted = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self.wanted.clear()
            await self.tick()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.wanted.wait(), _EVERY_S)

    async def tick(self) -> None:
        """Each step by itself: one that fails keeps none of the others from being done."""
        steps: list[Callable[[], Awaitable[None]]] = [
            self._count_workers,
            self._find_lost_jobs,
            self._repeat_cancellations,
            self._check_collections,
            self._show_outcomes,
            self._answer_people,
            self._refresh_queue_places,
            self._finish_erasures,
        ]
        if self._ticks % _SWEEP_EVERY == 0:
            steps.append(self._sweep_redis)
        for step in steps:
            try:
                await step()
            except (RedisError, OSError) as error:
                logger.warning("reconciler: %s: %s", step.__name__, error)
            except Exception:  # the border of the loop
                logger.exception("reconciler: %s failed", step.__name__)
        self._ticks += 1

    def _patience(self) -> timedelta:
        return _PATIENCE if self._ticks else timedelta(0)

    async def _count_workers(self) -> None:
        self._parts.workers = await self._parts.queue.workers()

    async def _find_lost_jobs(self) -> None:
        """Open jobs of which neither outbox nor Redis knows: Redis forgot them, or what their worker said of them."""
        async with self._parts.db.reading() as store:
            jobs = await store.jobs.all_open()
            unsent = await store.jobs.unsent()
        lost = [job for job in jobs if job.job_id not in unsent and (await self._parts.queue.stand(job)).is_lost]
        if not lost:
            return
        reported = await self._parts.queue.jobs_with_unread_events()
        for job in lost:
            if job.job_id not in reported:
                await self._start_again(job)

    async def _start_again(self, lost: StoredJob) -> None:
        async with self._parts.db.transaction() as store:
            job = await store.jobs.lock(lost.job_id)
            if job is None or job.status.is_final or job.attempt != lost.attempt or job.seen != lost.seen:
                return  # it has moved since
            if job.attempt < self._parts.settings.job_attempts:
                logger.warning("job %s was lost in attempt %d; starting it again", job.job_id, job.attempt)
                await store.jobs.attempt_again(job.job_id, self._parts.clock())
                self._parts.relay_wanted.set()
                return
            recorded = Recorded(job)
            logger.error("job %s was lost %d times and is given up", job.job_id, job.attempt)
            await end_badly(self._parts, store, recorded, {"kind": "permanent", "reason": "lost"})
        for key in recorded.blobs:
            await self._parts.blobs.delete_prefix(key)
        await self._quietly(self._delivery.show_job(lost.job_id))

    async def _repeat_cancellations(self) -> None:
        """The bot may have died, or Redis been away, between a cancellation and telling the workers."""
        async with self._parts.db.reading() as store:
            jobs = await store.jobs.cancelled_since(self._parts.clock() - _CANCELLED_LATELY)
        for job in jobs:
            if not (await self._parts.queue.stand(job)).is_lost:
                await self._parts.queue.withdraw(job.job_id, job.attempt)

    async def _check_collections(self) -> None:
        async with self._parts.db.reading() as store:
            waiting = await store.collections.to_be_checked(self._parts.clock() - _QUIET, self._parts.clock())
            due = []
            for session_id in waiting:
                last = await store.jobs.last_inspection(session_id)
                if last is None or last.status.is_final:
                    due.append(session_id)
        for session_id in due:
            await self._quietly(self._delivery.show_collection(session_id))

    async def _show_outcomes(self) -> None:
        async with self._parts.db.reading() as store:
            jobs = await store.jobs.unshown()
        now = self._parts.clock()
        for job in jobs:
            # A moment to come is one that was noted before the clock was put back.
            is_due = job.finished_at and not timedelta(0) <= now - job.finished_at < self._patience()
            if is_due and not self._parts.locks.is_held("job", job.job_id):
                await self._quietly(self._delivery.show_job(job.job_id))

    async def _answer_people(self) -> None:
        async with self._parts.db.reading() as store:
            people = await store.turns.waiting_people(self._parts.clock() - self._patience(), self._parts.clock())
        for platform, person in people:
            await self._delivery.answer(platform, person)

    async def _refresh_queue_places(self) -> None:
        async with self._parts.db.reading() as store:
            jobs = await store.jobs.all_open()
        for job in jobs:
            if job.kind in ("train", "portrait"):
                self._painter.note(job)

    async def _finish_erasures(self) -> None:
        await finish_erasures(self._parts)

    async def _sweep_redis(self) -> None:
        """What Redis knows of jobs whose person was forgotten."""
        traces = await self._parts.queue.traces()
        if not traces:
            return
        async with self._parts.db.reading() as store:
            known = await store.jobs.known_among(traces)
        for job_id, attempts in traces.items():
            if job_id not in known:
                await self._parts.queue.forget(job_id, attempts)

    async def _quietly(self, showing: Awaitable[None]) -> None:
        try:
            await showing
        except ChatError as error:
            logger.info("not shown yet: %s", error)
