"""The queue as the bot uses it: arq's lists and the workers' keys, all in one Redis. The only module that knows arq."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta

from arq.connections import ArqRedis, RedisSettings, create_pool
from arq.constants import in_progress_key_prefix, job_key_prefix, result_key_prefix, retry_key_prefix

from bot.domain import StoredJob, Workers
from gpu_worker.contract.codec import QUEUED_FOR_S, from_bytes, to_bytes
from gpu_worker.contract.events import EVENT_FIELD, EVENT_STREAM
from gpu_worker.contract.jobs import (
    QUEUE_OF_KIND,
    QUEUES,
    TASK_OF_KIND,
    WORKER_KEYS,
    arq_job_id,
    cancel_key,
    claims_key,
    lease_key,
)

_CANCEL_FOR_S = 24 * 3600
# arq takes the lowest time first and none of the future, so places in the queue are written as times long past.
_FIRST_PLACE = datetime(2020, 1, 1, tzinfo=UTC)
_FIRST_SCORE = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
_PER_JOB_KEYS = ("portrait:claims:", "portrait:cancel:", "portrait:lease:")


@dataclass(frozen=True)
class Stand:
    """Where an attempt of a job stands in Redis."""

    is_queued: bool
    is_running: bool

    @property
    def is_lost(self) -> bool:
        return not self.is_queued and not self.is_running


@dataclass(frozen=True, order=True)
class AliveWorker:
    """A worker by its heartbeat; "?" is what an older one does not say. `master_key`: the name of its first one."""

    profile: str
    device: str
    version: str
    state: str
    master_key: str


_SAID = [field.name for field in fields(AliveWorker)]


class JobQueue:
    """Every method raises RedisError or OSError when Redis is away."""

    def __init__(self, redis: ArqRedis) -> None:
        self.redis = redis

    async def put(self, job: StoredJob, attempt: int, user_key: str) -> None:
        """Queues an attempt; a second time for the same attempt changes nothing. `user_key` is wrapped."""
        await self.redis.enqueue_job(
            TASK_OF_KIND[job.kind],
            job.payload | {"attempt": attempt, "user_key": user_key},
            _job_id=arq_job_id(job.job_id, attempt),
            _queue_name=QUEUE_OF_KIND[job.kind],
            _defer_until=_FIRST_PLACE + timedelta(seconds=max(job.score - _FIRST_SCORE, 0)),
            _expires=QUEUED_FOR_S,
        )

    async def stand(self, job: StoredJob) -> Stand:
        arq_id = arq_job_id(job.job_id, job.attempt)
        async with self.redis.pipeline(transaction=False) as pipe:
            pipe.zscore(QUEUE_OF_KIND[job.kind], arq_id)
            pipe.exists(in_progress_key_prefix + arq_id, lease_key(job.job_id))
            score, running = await pipe.execute()
        return Stand(score is not None, bool(running))

    async def withdraw(self, job_id: str, attempts: int) -> None:
        """Takes a cancelled job out of the queue and tells a worker that already runs it to stop."""
        arq_ids = [arq_job_id(job_id, attempt) for attempt in range(1, attempts + 1)]
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.set(cancel_key(job_id), 1, ex=_CANCEL_FOR_S)
            for queue in QUEUES:
                pipe.zrem(queue, *arq_ids)
            pipe.delete(*(prefix + i for i in arq_ids for prefix in (job_key_prefix, retry_key_prefix)))
            await pipe.execute()

    async def forget(self, job_id: str, attempts: int) -> bool:
        """Leaves no trace of a job. False while a worker still holds it: it was told to stop, ask again later."""
        await self.withdraw(job_id, attempts)
        if await self.redis.exists(lease_key(job_id)):
            return False
        arq_ids = [arq_job_id(job_id, attempt) for attempt in range(1, attempts + 1)]
        await self.redis.delete(
            cancel_key(job_id),
            claims_key(job_id),
            *(p + i for i in arq_ids for p in (result_key_prefix, job_key_prefix, retry_key_prefix)),
        )
        return True

    async def traces(self) -> dict[str, int]:
        """Every job of which Redis knows anything, with the highest attempt seen: what /forget must leave empty."""
        found: dict[str, int] = {}
        for queue in QUEUES:
            for arq_id in await self.redis.zrange(queue, 0, -1):
                _note(found, arq_id.decode())
        for prefix in (job_key_prefix, result_key_prefix, *_PER_JOB_KEYS):
            async for key in self.redis.scan_iter(match=f"{prefix}*", count=500):
                _note(found, key.decode().removeprefix(prefix))
        return found

    async def jobs_with_unread_events(self) -> set[str]:
        entries = await self.redis.xrange(EVENT_STREAM)
        events = (from_bytes(fields[EVENT_FIELD.encode()]) for _, fields in entries if EVENT_FIELD.encode() in fields)
        return {event["job_id"] for event in events if isinstance(event, dict) and "job_id" in event}

    async def alive(self) -> list[AliveWorker]:
        """What every worker says of itself."""
        keys = [key async for key in self.redis.scan_iter(match=WORKER_KEYS, count=500)]
        async with self.redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hmget(key, _SAID)
            answers = await pipe.execute()
        return sorted(AliveWorker(*((said or b"?").decode() for said in answer)) for answer in answers)

    async def workers(self) -> Workers:
        keys = [key async for key in self.redis.scan_iter(match=WORKER_KEYS, count=500)]
        async with self.redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hmget(key, ["one_engine", "state"])
            answers = await pipe.execute()
        starting = sum(state == b"loading" for _, state in answers)
        return Workers(len(keys), any(one_engine == b"1" for one_engine, _ in answers), starting)

    async def close(self) -> None:
        await self.redis.aclose(close_connection_pool=True)


async def open_queue(redis_url: str) -> JobQueue:
    """Raises RedisError or OSError when no server answers there, ValueError for what is no address."""
    try:
        settings = RedisSettings.from_dsn(redis_url)
    except RuntimeError as error:
        raise ValueError("that is no address of a Redis") from error
    settings.conn_retries, settings.conn_retry_delay = 3, 1
    return JobQueue(await create_pool(settings, job_serializer=to_bytes, job_deserializer=from_bytes))


def _note(found: dict[str, int], arq_id: str) -> None:
    job_id, _, attempt = arq_id.partition(":")
    found[job_id] = max(found.get(job_id, 1), int(attempt) if attempt.isdecimal() else 1)
