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
_AT_ONCE = 200  # rows, or keys, that one transaction looks at


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
        while await self._expire_some():
            pass
        async with self._parts.db.transaction() as store:
            await _expire_records(store, self._parts.clock())

    async def _expire_some(self) -> bool:
        """A few at a time, so that nobody who talks to the bot waits for it; whether there may be more."""
        settings, now, blobs = self._parts.settings, self._parts.clock(), list[str]()
        async with self._parts.db.transaction() as store:
            idle_since = now - timedelta(days=settings.keep_collections_days)
            collections = await store.collections.idle_since(idle_since, _AT_ONCE)
            for session_id in collections:
                stored = await store.collections.get(session_id)
                dropped = await store.collections.drop(session_id)
                blobs += [photo_key(stored.user_id, photo) for photo in dropped] if stored else []
            warned = now - timedelta(days=settings.warn_days)
            older_than = now - timedelta(days=settings.keep_portraits_days)
            portraits = await store.expiry.portraits(older_than, warned, _AT_ONCE)
            for portrait_id in portraits:
                portrait = await store.library.portrait(portrait_id)
                blobs += [portrait.view.key] if portrait else []
                await store.library.delete("portrait", portrait_id)
            unused_since = now - timedelta(days=settings.keep_subjects_days)
            subjects = await store.expiry.subjects(unused_since, warned, _AT_ONCE)
            for user_id, subject_id in subjects:
                blobs.append(subject_prefix(user_id, subject_id))
                photos = await store.library.delete_subject(subject_id)
                blobs += [photo_key(user_id, photo) for photo in photos]
        for key in blobs:
            await self._parts.blobs.delete_prefix(key)
        return _AT_ONCE in (len(collections), len(portraits), len(subjects))

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
        keys, stray = await self._parts.blobs.keys("users"), set[str]()
        for first in range(0, len(keys), _AT_ONCE):
            async with self._parts.db.reading() as store:
                stray |= await _stray_among(store, keys[first : first + _AT_ONCE])
        return stray


async def _expire_records(store: Store, now: datetime) -> None:
    await store.turns.delete_before(now - _EVENTS_KEPT)
    await store.mail.delete_before(now - _EVENTS_KEPT)
    await store.jobs.delete_sent_before(now - _EVENTS_KEPT)
    await store.jobs.delete_final_before(now - _JOBS_KEPT)
    await store.collections.delete_trained_before(now - _JOBS_KEPT)
    await store.operations.delete_grants_before(now - _EVENTS_KEPT)


async def _stray_among(store: Store, keys: list[str]) -> set[str]:
    """Those of the keys `users/<user>/<kind>/<id>…` that no row knows; anything of another shape is left alone."""
    parts = {key: key.split("/") for key in keys}
    asked = {key: (p[1], p[2], p[3].partition(".")[0]) for key, p in parts.items() if len(p) > 3}
    users = await store.people.known_among({user for user, _, _ in asked.values()})
    ids: dict[str, set[str]] = {}
    for _, kind, name in asked.values():
        ids.setdefault(kind, set()).add(name)
    owned = {kind: await _owned_among(store, kind, names) for kind, names in ids.items()}
    return {key for key, (user, kind, name) in asked.items() if user not in users or name not in owned[kind]}


async def _owned_among(store: Store, kind: str, names: set[str]) -> set[str]:
    """Those of the ids of a kind that somebody needs."""
    match kind:
        case "photos":
            return await store.collections.stored_among(names)
        case "templates":
            return await store.library.known_among("template", names)
        case "subjects":
            return await store.library.known_among("subject", names) | await store.jobs.learning_among(names)
        case "jobs":
            return await store.jobs.needed_among(names)
        case _ if kind == EXPORTS:
            return set()  # fetched by now, or asked for again
        case _:
            return names
