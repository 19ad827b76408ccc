"""Forgetting a person outside of the database: what /forget does after their rows are gone."""

from __future__ import annotations

import logging

from redis.exceptions import RedisError

from bot.chat import ChatError
from bot.db.people import ForgottenUser
from bot.domain import DeletionReceipt
from bot.parts import Parts
from gpu_worker.contract.blobs import user_prefix

logger = logging.getLogger(__name__)


async def erase(parts: Parts, gone: ForgottenUser) -> DeletionReceipt:
    """Deletes blobs, traces in Redis and messages; says what was deleted. What fails now, the sweeps find later."""
    parts.forgotten[gone.user_id] = parts.clock()
    parts.keys.forget(gone.user_id)
    for job_id, attempts in gone.jobs:
        try:
            await parts.queue.forget(job_id, attempts)
        except (RedisError, OSError) as error:
            logger.warning("Redis could not forget a job yet: %s", error)
    try:
        await parts.blobs.delete_prefix(user_prefix(gone.user_id))
    except OSError as error:
        logger.warning("blobs of a forgotten user are left for the sweep: %s", error)
    deleted = 0
    for ref in gone.messages:
        chat = parts.chats.get(ref.address.platform)
        try:
            deleted += chat is not None and await chat.delete(ref)
        except ChatError as error:
            logger.info("a message could not be deleted: %s", error)
    counts = gone.counts | {"messages": deleted, "messages_left": len(gone.messages) - deleted}
    return DeletionReceipt(counts)


async def forget_again(parts: Parts) -> int:
    """After a restore: deletes whom the backup has brought back although they were forgotten since; how many."""
    async with parts.db.transaction() as store:
        returned = parts.tombstones.all() & await store.people.all_ids()
        gone = [await store.people.forget(user_id) for user_id in sorted(returned)]
    for user in gone:
        await erase(parts, user)
    if gone:
        logger.warning("%d people in the restored backup were forgotten before; they are deleted again", len(gone))
    return len(gone)
