"""All that arq knows of us: one arq worker per queue, kept going through outages of Redis."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from arq import Retry
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix
from arq.worker import Function, Worker, func
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry as ConnectionRetry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gpu_worker.background import end
from gpu_worker.contract import codec
from gpu_worker.contract.jobs import QUEUE_OF_KIND, TASK_OF_KIND
from gpu_worker.tasks import Delivery, JobRunner

logger = logging.getLogger(__name__)

_NEVER = 10 * 365 * 24 * 3600  # our own limits hold: timeouts per kind, and how often a worker may die at a job
_PAUSE_AFTER_OUTAGE_S = 1.0
_HEALTH_EVERY_S = 15
_LOOK_EVERY_S = 0.03  # three queues: 3 % of a core


def connect(redis_url: str) -> ArqRedis:
    """A client whose every command is tried for half a second. Longer outages are waited out by the callers."""
    pool: ConnectionPool = ConnectionPool.from_url(
        redis_url,
        socket_timeout=10,
        socket_connect_timeout=5,
        health_check_interval=15,
        retry=ConnectionRetry(ExponentialBackoff(cap=1, base=0.1), 2),
        retry_on_error=[RedisConnectionError, RedisTimeoutError, OSError],
    )
    return ArqRedis(
        pool,
        job_serializer=codec.to_bytes,
        job_deserializer=codec.from_bytes,
        expires_extra_ms=codec.QUEUED_FOR_S * 1000,
    )


class _Turn:
    """One queue's hold on a turn that several share, in arq's eyes a semaphore.

    arq takes the turn, asks Redis about the job, and keeps the turn for ever if Redis goes away at that moment.
    """

    def __init__(self, turn: asyncio.Semaphore) -> None:
        self._turn, self._held = turn, 0

    async def acquire(self) -> bool:
        await self._turn.acquire()
        self._held += 1
        return True

    def release(self) -> None:
        if self._held:
            self._held -= 1
            self._turn.release()

    def give_back(self) -> None:
        """Once no job of this queue runs any more: whatever is still held."""
        while self._held:
            self.release()

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.release()


class _LeasedWorker(Worker):
    """An arq worker that leaves a job's keys alone once the job belongs to another worker."""

    def __init__(self, lease_s: float, turn: asyncio.Semaphore, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.turn = _Turn(turn)
        self.sem = self.turn  # type: ignore[assignment]  # arq's own counts the jobs of one queue only
        # arq would mark a job as in progress once, for the longest timeout; our claims renew a short mark instead.
        self.in_progress_timeout_s = lease_s
        self.not_ours: set[str] = set()

    async def finish_job(self, job_id: str, *arguments: Any, **keywords: Any) -> None:
        if job_id in self.not_ours:
            self.not_ours.discard(job_id)
            return
        await super().finish_job(job_id, *arguments, **keywords)


async def serve_queue(
    queue: str,
    runner: JobRunner,
    turn: asyncio.Semaphore,
    redis: ArqRedis,
    lease_s: float,
    stopping: asyncio.Event,
) -> None:
    """Runs the queue's jobs, lowest score first, until `stopping` is set and the last one has ended.

    One at a time, and only when it is this queue's `turn`: queues that share an engine share it.
    """
    while not stopping.is_set():
        worker = _build_worker(queue, runner, turn, redis, lease_s)
        polling = asyncio.create_task(worker.main())
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({polling, stop}, return_when=asyncio.FIRST_COMPLETED)
        await end(polling, stop)
        # A job goes on without the polling; it has its own ways through an outage, and no second one may start beside.
        endings = await asyncio.gather(*worker.tasks.values(), return_exceptions=True)
        worker.turn.give_back()
        errors = [error for error in endings if isinstance(error, BaseException)]
        if not polling.cancelled() and (error := polling.exception()):
            errors.append(error)
        await _survive(queue, errors)


async def _survive(queue: str, errors: Sequence[BaseException]) -> None:
    """Outages are waited out; anything else is a mistake that must end this process."""
    for error in errors:
        if not isinstance(error, RedisError | OSError):
            raise error
    if errors:
        logger.warning("%s: Redis is away, trying again: %s", queue, errors[0])
        await asyncio.sleep(_PAUSE_AFTER_OUTAGE_S)


def _build_worker(
    queue: str, runner: JobRunner, turn: asyncio.Semaphore, redis: ArqRedis, lease_s: float
) -> _LeasedWorker:
    worker = _LeasedWorker(
        lease_s,
        turn,
        functions=[_task(TASK_OF_KIND[kind], runner) for kind, name in QUEUE_OF_KIND.items() if name == queue],
        queue_name=queue,
        redis_pool=redis,
        handle_signals=False,
        max_jobs=1,
        poll_delay=_LOOK_EVERY_S,
        job_timeout=_NEVER,
        keep_result=codec.REMEMBERED_FOR_S,
        max_tries=1_000_000,
        health_check_interval=_HEALTH_EVERY_S,
        job_serializer=codec.to_bytes,
        job_deserializer=codec.from_bytes,
        expires_extra_ms=codec.QUEUED_FOR_S * 1000,
    )
    worker.ctx["not_ours"] = worker.not_ours
    return worker


def _task(name: str, runner: JobRunner) -> Function:
    async def run(ctx: dict[str, Any], payload: Any) -> None:
        job_id: str = ctx["job_id"]
        delivery = await runner.deliver(payload, job_id, in_progress_key_prefix + job_id)
        if delivery is Delivery.NOT_OURS:
            ctx["not_ours"].add(job_id)
        if delivery is not Delivery.FINISHED:
            raise Retry  # without a delay, which would cost the job its place in the queue

    return func(run, name=name)
