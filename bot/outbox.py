"""The relay: jobs that were decided in SQL -> arq. At least once; arq refuses the second of an attempt."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import timedelta

from redis.exceptions import RedisError

from bot.db.jobs import Parcel
from bot.parts import Parts
from gpu_worker.contract.blobs import BlobNotFound

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_LONGEST_PAUSE_S = 60


async def relay(parts: Parts) -> int:
    """Hands every parcel that is due to arq; how many were taken. One that fails does not hold up the others."""
    async with parts.db.reading() as store:
        parcels = await store.jobs.unsent_parcels(parts.clock())
    sent = 0
    for parcel in parcels:
        try:
            if not parcel.job.status.is_final and parcel.attempt == parcel.job.attempt:
                await parts.queue.put(parcel.job, parcel.attempt, await parts.keys.wrapped(parcel.job.user_id))
        except BlobNotFound:
            continue  # the person was forgotten, and the parcel with them
        except (RedisError, OSError) as error:
            await _postpone(parts, parcel, error)
        else:
            sent += 1
            async with parts.db.transaction() as store:
                await store.jobs.parcel_sent(parcel.outbox_id, parts.clock())
    return sent


async def relay_forever(parts: Parts, stop: asyncio.Event) -> None:
    while not stop.is_set():
        parts.relay_wanted.clear()
        try:
            await relay(parts)
        except Exception:  # the border of the loop: whatever is wrong, jobs must go out again later
            logger.exception("the outbox relay failed")
            await asyncio.sleep(_LOOK_EVERY_S)
        with suppress(TimeoutError):
            await asyncio.wait_for(parts.relay_wanted.wait(), _LOOK_EVERY_S)


async def _postpone(parts: Parts, parcel: Parcel, error: Exception) -> None:
    pause = timedelta(seconds=min(2**parcel.tries, _LONGEST_PAUSE_S))
    logger.warning("job %s not queued, next try in %d s: %s", parcel.job.job_id, pause.total_seconds(), error)
    async with parts.db.transaction() as store:
        await store.jobs.parcel_failed(parcel.outbox_id, type(error).__name__, parts.clock() + pause)
