"""What the running bot is made of, and its housekeeping of tasks and locks."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bot.chat import Chat
from bot.db.database import Database
from bot.domain import Workers
from bot.intake import Intake
from bot.keys import UserKeys
from bot.metrics import Metrics
from bot.queue import JobQueue
from bot.settings import Settings
from bot.templates import BuiltInTemplates
from bot.tombstones import Tombstones
from gpu_worker.contract.blobs import BlobStore

logger = logging.getLogger(__name__)

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


class Locks:
    """One lock per key, for as long as somebody wants it."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def held(self, *key: Hashable) -> AsyncIterator[None]:
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(key)
            if users > 1:
                self._locks[key] = (lock, users - 1)

    def is_held(self, *key: Hashable) -> bool:
        return key in self._locks


class Tasks:
    """Work beside the conversation. What breaks in it is logged and breaks nothing else."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, what: str, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(self._guarded(what, work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def settle(self) -> None:
        """Returns when nothing is left to do."""
        while self._running:
            await asyncio.wait(set(self._running))

    async def cancel(self) -> None:
        for task in self._running:
            task.cancel()
        await self.settle()

    async def _guarded(self, what: str, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except Exception:
            logger.exception("%s failed (%s)", what, new_reference())


def new_reference() -> str:
    """Short enough to be read out; finds the log lines."""
    return secrets.token_hex(3)


@dataclass
class Parts:
    """Wired in bot/app.py, passed to whatever needs them.

    `workers` is what the reconciler last counted; `erasing` are people (platform, person) whose receipt is not complete
    yet, with the event that asked for it: until then nothing is said to them.
    """

    settings: Settings
    db: Database
    blobs: BlobStore
    keys: UserKeys
    queue: JobQueue
    intake: Intake
    templates: BuiltInTemplates
    tombstones: Tombstones
    clock: Clock = utc_now
    chats: dict[str, Chat] = field(default_factory=dict)
    locks: Locks = field(default_factory=Locks)
    metrics: Metrics = field(default_factory=Metrics)
    tasks: Tasks = field(default_factory=Tasks)
    relay_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    workers: Workers = field(default_factory=lambda: Workers(0))
    erasing: dict[tuple[str, str], str] = field(default_factory=dict)
