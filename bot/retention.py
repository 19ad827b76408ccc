"""Deletes what has lain long enough, and blobs that belong to nothing."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import datetime, timedelta

from redis.exceptions import RedisError

from bot import replies as r
from bot.acts import Tell
from bot.db.store import Store
from bot.db.turns import UnsaidTurn
from bot.domain import new_id
from bot.export import EXPORTS
from bot.packing import pack_telling
from bot.parts import Parts
from gpu_worker.contract.blobs import photo_key, subject_prefix

logger = logging.getLogger(__name__)

_EVERY_S = 3600.0
_EVENTS_KEPT = timedelta(days=3)  # platforms repeat an event within minutes or hours
_JOBS_KEPT = timedelta(days=60)


class Retention:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._suspects: set[str] = set()
        self.wanted = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self.wanted.clear()
            try:
                await self.warn()
                await self.expire()
                await self.sweep_blobs()
            except (RedisError, OSError) as error:
                logger.warning("retention: %s", error)
            except Exception:  # the border of the loop
                logger.exception("retention failed")
            with suppress(TimeoutError):
                await asyncio.wait_for(self.wanted.wait(), _EVERY_S)

    async def expire(self) -> None:
        """Old collections, portraits, unused subjects, and records that nobody needs."""
        settings, now, blobs = self._parts.settings, self._parts.clock(), list[str]()
        async with self._parts.db.transaction() as store:
            for session_id in await store.collections.idle_since(now - timedelta(days=settings.keep_collections_days)):
                stored = await store.collections.get(session_id)
                photos = await store.collections.drop(session_id)
                blobs += [photo_key(stored.user_id, photo) for photo in photos] if stored else []
            warned = now - timedelta(days=settings.warn_days)
            for portrait_id in await store.expiry.portraits(now - timedelta(days=settings.keep_portraits_days), warned):
                portrait = await store.library.portrait(portrait_id)
                blobs += [portrait.view.key] if portrait else []
                await store.library.delete("portrait", portrait_id)
            unused_since = now - timedelta(days=settings.keep_subjects_days)
            for user_id, subject_id in await store.expiry.subjects(unused_since, warned):
                blobs.append(subject_prefix(user_id, subject_id))
                photos = await store.library.delete_subject(subject_id)
                blobs += [photo_key(user_id, photo) for photo in photos]
            await _expire_records(store, now)
        for key in blobs:
            await self._parts.blobs.delete_prefix(key)

    async def warn(self) -> None:
        """Tells everybody what of theirs will be deleted soon. Who cannot be written to is not waited for."""
        settings, now = self._parts.settings, self._parts.clock()
        soon = timedelta(days=settings.warn_days)
        async with self._parts.db.transaction() as store:
            doomed = await store.expiry.to_warn_of(
                now + soon - timedelta(days=settings.keep_portraits_days),
                now + soon - timedelta(days=settings.keep_subjects_days),
                now,
            )
            for user_id, what in doomed.items():
                address = await store.operations.address_of_user(user_id)
                known = await store.people.find(address) if address else None
                if address and known:
                    reply = r.Expiring(what.portraits, tuple(what.models), settings.warn_days)
                    telling = pack_telling(Tell(reply))
                    turn = UnsaidTurn(f"expiry:{new_id()}", address, known.language, (telling,), None)
                    await store.turns.add(turn, now)

    async def sweep_blobs(self) -> int:
        """Deletes users' blobs that no row knows, seen so twice: a blob is always written before its row."""
        stray = await self._stray()
        doomed, self._suspects = stray & self._suspects, stray - self._suspects
        for key in doomed:
            await self._parts.blobs.delete_prefix(key)
        if doomed:
            logger.info("%d stray blobs deleted", len(doomed))
        return len(doomed)

    async def _stray(self) -> set[str]:
        keys = await self._parts.blobs.keys("users")
        async with self._parts.db.transaction() as store:
            users = await store.people.all_ids()
            owned = await _owned(store)
        return {key for key in keys if not _is_owned(key, users, owned)}


async def _expire_records(store: Store, now: datetime) -> None:
    await store.turns.delete_before(now - _EVENTS_KEPT)
    await store.mail.delete_before(now - _EVENTS_KEPT)
    await store.jobs.delete_sent_before(now - _EVENTS_KEPT)
    await store.jobs.delete_final_before(now - _JOBS_KEPT)
    await store.collections.delete_trained_before(now - _JOBS_KEPT)
    await store.operations.delete_grants_before(now - _EVENTS_KEPT)


async def _owned(store: Store) -> dict[str, set[str]]:
    """The ids that somebody needs, by the part of the key that names their kind."""
    training = {job.subject_id for job in await store.jobs.all_open() if job.kind == "train" and job.subject_id}
    return {
        "photos": await store.collections.all_stored(),
        "templates": await store.library.all_ids("template"),
        "subjects": await store.library.all_ids("subject") | training,
        "jobs": await store.jobs.living_ids(),
        EXPORTS: set(),  # fetched by now, or asked for again
    }


def _is_owned(key: str, users: set[str], owned: dict[str, set[str]]) -> bool:
    """`users/<user>/<kind>/<id>…`; anything of another shape is left alone."""
    parts = key.split("/")
    if len(parts) < 4:
        return True
    user, kind, name = parts[1], parts[2], parts[3].partition(".")[0]
    return user in users and (kind not in owned or name in owned[kind])
