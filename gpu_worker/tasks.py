"""One delivery of a job, from claim to outcome: the only place that knows the order of things.

claim → fetch inputs → engine process → store results → outcome on the stream. Whatever happens to the worker in
between, the job is delivered again, and the next claim goes on from the last checkpoint.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gpu_worker import failures
from gpu_worker.background import beside
from gpu_worker.claims import Claim, Claims, Lease, LeaseLost, NotTaken
from gpu_worker.contract.blobs import BlobNotFound, BlobStore, run_prefix
from gpu_worker.contract.codec import AnyJob, read_job
from gpu_worker.contract.jobs import MakePortraits, TrainSubject, cancel_key
from gpu_worker.contract.sealed_blobs import SealedBlobs
from gpu_worker.contract.sealing import CannotOpen, MasterKeys
from gpu_worker.engine_messages import Done, Ended, Failure, Run, StoppedEarly
from gpu_worker.engine_process import EngineCannotStart, EngineDied, EngineProcess
from gpu_worker.health import Numbers
from gpu_worker.logs import job_in_logs
from gpu_worker.reporting import Reporter
from gpu_worker.settings import WorkerSettings
from gpu_worker.workspace import (
    CheckpointMirror,
    Workspace,
    checkpoints_prefix,
    fetch_inputs,
    files_of,
    keep_result,
    kept_result,
    persistently,
    store_results,
)

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5  # for cancellation
_CHECKPOINT_LOOK_S = 0.2  # the shorter, the fewer steps are repeated after a worker's death
_TRIES_IN_ENGINE = 2  # the second one in a fresh process, if the first one's is dead or out of memory
_FETCH_FOR_S = 20.0
_STORE_FOR_S = 900.0  # hours of work may hang on it


class Delivery(StrEnum):
    """What the queue shall do with a delivered job."""

    FINISHED = "finished"  # forget it
    AGAIN = "again"  # deliver it again
    NOT_OURS = "not_ours"  # leave it alone: it belongs to another worker


class GivenBack(Exception):
    """This worker is shutting down; the job goes on elsewhere."""


class _Interruption(StrEnum):
    LEASE_LOST = "lease_lost"
    STOPPING = "stopping"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class WorkerParts:
    """What the runners of one worker share. `stopping` is set when the worker shall end soon."""

    settings: WorkerSettings
    redis: Redis
    claims: Claims
    blobs: BlobStore  # as stored: what belongs to users is sealed
    master: MasterKeys
    workspace: Workspace
    stopping: asyncio.Event
    numbers: Numbers


class JobRunner:
    """Runs the jobs of one queue, one at a time, in one engine process."""

    def __init__(self, parts: WorkerParts, engine: EngineProcess, patient: EngineProcess | None = None) -> None:
        """`patient` shares the device and pauses while a job runs here."""
        self._parts, self._engine, self._patient = parts, engine, patient
        self.job_id: str | None = None  # what it is doing, for the heartbeat

    async def deliver(self, payload: Any, delivery_id: str, in_progress_key: str) -> Delivery:
        """Runs a delivered job. Raises nothing, whatever happens to job, engine, blobs or Redis."""
        job_id, _, attempt = delivery_id.partition(":")
        with job_in_logs(job_id):
            self.job_id = job_id
            try:
                claim = await self._parts.claims.take(job_id, int(attempt or 1))
                if isinstance(claim, NotTaken):
                    logger.info("not taken: %s", claim)
                    return Delivery.NOT_OURS if claim is NotTaken.HELD else Delivery.FINISHED
                logger.info("claimed, attempt %d, run %d", claim.attempt, claim.run)
                async with self._parts.claims.renewed(claim, in_progress_key) as lease:
                    return await self._with_claim(payload, lease)
            except LeaseLost:
                logger.warning("another worker has taken over")
                return Delivery.NOT_OURS
            except (RedisError, OSError) as error:
                logger.warning("put back, as Redis is away: %s", error)
                return Delivery.AGAIN
            finally:
                self.job_id = None

    async def _with_claim(self, payload: Any, lease: Lease) -> Delivery:
        parts = self._parts
        try:
            job: AnyJob | None = read_job(payload)
        except ValidationError as error:
            logger.error("not a job of this version: %s", error)
            job = None
        may_go_on = partial(self._may_go_on, lease)
        blobs = self._blobs_of(job) if job else parts.blobs
        reporter = Reporter(lease, job.kind if job else "inspect", blobs, parts.settings.report_every_s)
        began = time.monotonic()
        parts.numbers.begun()
        try:
            async with AsyncExitStack() as told:  # nobody waits for the job's folder to be deleted
                outcome = await self._outcome(job, lease, reporter, told) if job else failures.CONTRACT_VERSION
                await reporter.finish(outcome, may_go_on)
        except GivenBack:
            logger.info("given back")
            await lease.release(given_back=True)
            return Delivery.AGAIN
        finally:
            parts.numbers.ended()
        reason = outcome.reason if isinstance(outcome, Failure) else None
        logger.info("outcome: %s", reason or "succeeded")
        if job:
            parts.numbers.outcome(job.kind, reason, time.monotonic() - began)
            await self._tidy_up(job, lease.claim, outcome)
        await lease.release()
        return Delivery.FINISHED

    def _blobs_of(self, job: AnyJob) -> BlobStore:
        """Blobs as the job's user sees them."""

        async def key(_: str) -> bytes:
            if job.user_key is None:
                raise CannotOpen("the job brings no key")
            return self._parts.master.unwrap(job.user_key)

        return SealedBlobs(self._parts.blobs, key)

    def _may_go_on(self, lease: Lease) -> None:
        """Raises LeaseLost or GivenBack when this worker has no more business with the job."""
        if lease.lost.is_set():
            raise LeaseLost(lease.claim.job_id)
        if self._parts.stopping.is_set():
            raise GivenBack

    async def _outcome(self, job: AnyJob, lease: Lease, reporter: Reporter, told: AsyncExitStack) -> Done | Failure:
        """`told` is left when the outcome has been told. Raises LeaseLost and GivenBack."""
        if lease.claim.deaths >= self._parts.settings.max_deaths:
            return failures.WORKER_DIED
        if await self._is_cancelled(job.job_id):
            return failures.CANCELLED
        await reporter.started()
        try:
            folder = await told.enter_async_context(self._parts.workspace.job_folder(lease.claim))
            return await self._in_folder(job, lease, reporter, folder)
        except BlobNotFound:
            return failures.INPUT_MISSING
        except OSError as error:
            return failures.of_storage(error)
        except (LeaseLost, GivenBack):
            raise
        except Exception as error:  # the border of a job: a mistake of ours must not leave it without an outcome
            logger.exception("the worker failed")
            return failures.of_worker_error(error)

    async def _in_folder(self, job: AnyJob, lease: Lease, reporter: Reporter, folder: Path) -> Done | Failure:
        blobs, prefix, may_go_on = self._blobs_of(job), _run_prefix(job, lease.claim), partial(self._may_go_on, lease)
        may_go_on()
        if result := await persistently(partial(kept_result, job, blobs), _FETCH_FOR_S, may_go_on):
            logger.info("it was done before, and is reported again")
            return Done(result=result)
        await persistently(partial(fetch_inputs, job, folder, blobs), _FETCH_FOR_S, may_go_on)
        request = Run(number=0, job=job, folder=folder, prefix=prefix)
        async with reporter.publishing(folder, prefix), self._checkpoints_kept(job, lease, folder):
            for _ in range(_TRIES_IN_ENGINE):
                ended = await self._in_engine(request, lease, reporter)
                if not (isinstance(ended, Failure) and ended.needs_fresh_engine):
                    break
                logger.warning("the engine process is replaced: %s", ended.detail)
                await self._engine.kill()
        if isinstance(ended, Done):
            if not await lease.is_ours():
                raise LeaseLost(job.job_id)
            await persistently(partial(store_results, folder / "out", prefix, blobs), _STORE_FOR_S, may_go_on)
            if await self._is_cancelled(job.job_id):
                return failures.CANCELLED
            await persistently(partial(keep_result, job, ended.result, blobs), _STORE_FOR_S, may_go_on)
        return ended

    @asynccontextmanager
    async def _checkpoints_kept(self, job: AnyJob, lease: Lease, folder: Path) -> AsyncIterator[None]:
        if not isinstance(job, TrainSubject):
            yield
            return
        mirror = CheckpointMirror(job, lease, folder / "checkpoints", self._blobs_of(job))
        try:
            async with beside(mirror.keep(_CHECKPOINT_LOOK_S)):
                yield
        except GivenBack:
            try:
                await mirror.store()
            except OSError as error:
                logger.warning("last checkpoint not stored: %s", error)
            raise

    async def _in_engine(self, request: Run, lease: Lease, reporter: Reporter) -> Done | Failure:
        """One run in the engine process, watched from beside. Raises LeaseLost and GivenBack."""
        async with self._device_to_itself():
            running = asyncio.create_task(self._engine.run(request, reporter.note))
            interruption = await self._wait(running, request.job, lease)
            if interruption is not None:
                await self._end_early(running, interruption)
        ended = _how_it_ended(running)
        match interruption:
            case _Interruption.LEASE_LOST:
                raise LeaseLost(request.job.job_id)
            case _Interruption.CANCELLED:
                return failures.CANCELLED
            case _Interruption.STOPPING if not isinstance(ended, Done):
                raise GivenBack
            case _Interruption.TIMEOUT if not isinstance(ended, Done):
                return failures.TIMEOUT
        return ended

    @asynccontextmanager
    async def _device_to_itself(self) -> AsyncIterator[None]:
        if self._patient is None:
            yield
            return
        await self._patient.pause()
        try:
            yield
        finally:
            await self._patient.resume()

    async def _wait(self, running: asyncio.Task[Ended], job: AnyJob, lease: Lease) -> _Interruption | None:
        """Until the run has ended (None), or there is a reason to end it."""
        settings, loop = self._parts.settings, asyncio.get_running_loop()
        starting_s = 0 if self._engine.is_ready else settings.start_timeout_s
        deadline = loop.time() + settings.timeout_s(job.kind) + starting_s
        while True:
            if (await asyncio.wait({running}, timeout=_LOOK_EVERY_S))[0]:
                return None
            if lease.lost.is_set():
                return _Interruption.LEASE_LOST
            if self._parts.stopping.is_set():
                return _Interruption.STOPPING
            if loop.time() > deadline:
                return _Interruption.TIMEOUT
            if await self._is_cancelled(job.job_id):
                return _Interruption.CANCELLED

    async def _end_early(self, running: asyncio.Task[Ended], why: _Interruption) -> None:
        """Lets the run end between two steps if there is time for that, else kills it."""
        logger.info("stopping the engine: %s", why)
        if why is not _Interruption.LEASE_LOST:
            await self._engine.ask_to_stop()
            await asyncio.wait({running}, timeout=self._parts.settings.stop_grace_s)
        if not running.done():
            await self._engine.kill()
            await asyncio.wait({running})

    async def _is_cancelled(self, job_id: str) -> bool:
        """A Redis that is away or slow cannot cancel anything."""
        try:
            async with asyncio.timeout(2):
                return bool(await self._parts.redis.exists(cancel_key(job_id)))
        except (RedisError, OSError):  # TimeoutError is an OSError
            return False

    async def _tidy_up(self, job: AnyJob, claim: Claim, outcome: Done | Failure) -> None:
        """Deletes what nobody will read. Rubbish that stays costs space, not the job."""
        blobs = self._parts.blobs
        useless = [f"{_output_prefix(job)}/{claim.attempt}-{run}" for run in range(1, claim.run)]
        if isinstance(outcome, Failure):
            useless.append(_run_prefix(job, claim))
        else:  # an earlier run may be the one that did the work
            needed = files_of(outcome.result)
            useless = [run for run in useless if not any(f"{key}/".startswith(f"{run}/") for key in needed)]
        if isinstance(job, TrainSubject) and not (isinstance(outcome, Failure) and outcome.kind == "transient"):
            useless.append(checkpoints_prefix(job))
        try:
            for prefix in useless:
                await blobs.delete_prefix(prefix)
        except OSError as error:
            logger.warning("not tidied up: %s", error)


def _output_prefix(job: AnyJob) -> str:
    """Checks store nothing; they get a name that no user's blobs have."""
    return job.output_prefix if isinstance(job, TrainSubject | MakePortraits) else f"checks/{job.job_id}"


def _run_prefix(job: AnyJob, claim: Claim) -> str:
    """No two runs write the same key, so a paused worker that wakes up spoils nothing."""
    return run_prefix(_output_prefix(job), claim.attempt, claim.run)


def _how_it_ended(running: asyncio.Task[Ended]) -> Done | Failure:
    try:
        ended = running.result()
    except EngineDied as error:
        return failures.of_dead_engine(error.exit_code)
    except EngineCannotStart as error:
        return error.failure
    return failures.CANCELLED if isinstance(ended, StoppedEarly) else ended
