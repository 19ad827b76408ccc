"""Forgetting a person outside of the database: what /forget does after their rows are gone.

What is to be deleted was noted in the transaction that deleted the rows, so neither a crash nor an outage of Redis,
blobs or chat leaves anything behind: the reconciler goes on until all is done.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from redis.exceptions import RedisError

from bot.chat import ChatError
from bot.db.people import ForgottenUser
from bot.domain import DeletionReceipt, MessageRef
from bot.parts import Parts
from gpu_worker.contract.blobs import user_prefix

logger = logging.getLogger(__name__)

# A worker that was busy for somebody who is forgotten stops within seconds, but may write until then.
_LATE_WRITES = timedelta(minutes=10)
_GIVEN_UP = timedelta(days=3)  # messages: no platform lets a bot delete any that old


async def erase(parts: Parts, gone: ForgottenUser) -> DeletionReceipt:
    """Deletes blobs, traces in Redis and messages; says what was deleted now. What fails is left for the next call."""
    parts.keys.forget(gone.user_id)
    is_clean = await _forget_jobs(parts, gone)
    try:
        await parts.blobs.delete_prefix(user_prefix(gone.user_id))
    except OSError as error:
        logger.warning("blobs of a forgotten user are left for later: %s", error)
        is_clean = False
    deleted, left = await _delete_messages(parts, gone)
    age = parts.clock() - gone.at
    async with parts.db.transaction() as store:
        if (is_clean and not left and abs(age) > _LATE_WRITES) or abs(age) > _GIVEN_UP:
            await store.people.erasure_is_done(gone.user_id)
        elif len(left) != len(gone.messages):
            await store.people.erasure_goes_on(gone.user_id, left)
    return DeletionReceipt(gone.counts | {"messages": deleted, "messages_left": len(gone.messages) - deleted})


async def finish_erasures(parts: Parts) -> None:
    """Goes on with everybody of whom something may be left."""
    async with parts.db.reading() as store:
        everybody = await store.people.erasures()
    for gone in everybody:
        await erase(parts, gone)


async def _forget_jobs(parts: Parts, gone: ForgottenUser) -> bool:
    is_clean = True
    for job_id, attempts in gone.jobs:
        try:
            is_clean &= await parts.queue.forget(job_id, attempts)
        except (RedisError, OSError) as error:
            logger.warning("Redis could not forget a job yet: %s", error)
            is_clean = False
    return is_clean


async def _delete_messages(parts: Parts, gone: ForgottenUser) -> tuple[int, list[MessageRef]]:
    """How many are deleted, and which are to be tried again."""
    deleted, left = 0, []
    for ref in gone.messages:
        chat = parts.chats.get(ref.address.platform)
        try:
            if chat is None:
                left.append(ref)
            else:
                deleted += await chat.delete(ref)
        except ChatError as error:
            logger.info("a message could not be deleted: %s", error)
            if not error.is_permanent:
                left.append(ref)
    return deleted, left


async def forget_again(parts: Parts) -> int:
    """After a restore: deletes whom the backup has brought back although they were forgotten since; how many."""
    async with parts.db.transaction() as store:
        returned = parts.tombstones.all() & await store.people.all_ids()
        gone = [await store.people.forget(user_id, parts.clock()) for user_id in sorted(returned)]
    for user in gone:
        await erase(parts, user)
    if gone:
        logger.warning("%d people in the restored backup were forgotten before; they are deleted again", len(gone))
    return len(gone)
