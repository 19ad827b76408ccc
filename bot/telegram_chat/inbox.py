"""Updates are on disk before Telegram may forget them, and are handled side by side, each chat in its own order.

Polling again with the next offset is what lets Telegram forget updates, so they are stored before the library hears of
them, all of one poll in one transaction: nothing is lost to a kill at any moment, and a crowd waits for the disk once.
What was stored and not handled is put in again at the next start.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Iterable
from typing import Any
from weakref import WeakValueDictionary

import telegram
from telegram import Update
from telegram.ext import BaseUpdateProcessor, ExtBot

from bot.core import Inbox
from bot.telegram_chat.chat import PLATFORM

log = logging.getLogger(__name__)

MAX_AT_ONCE = 256  # chats whose updates are handled
_NO_LIMIT = 1_000_000_000
REMEMBERED = 1000  # updates; one that comes again after that is known by its id when it is handled


class InboxQueue(asyncio.Queue[object]):
    """Given to ApplicationBuilder.update_queue. An update is stored first; without that `put` does not take it."""

    def __init__(self, inbox: Inbox) -> None:
        super().__init__()
        self._inbox = inbox
        self._stored: set[int] = set()  # and not put yet
        self._queued: deque[int] = deque(maxlen=REMEMBERED)

    async def store(self, updates: Iterable[Update]) -> None:
        raws = {update.update_id: update.to_json() for update in updates}
        new = await self._inbox.store(PLATFORM, raws) if raws else set()
        # What is stored already stands in the queue too, unless the first answer of the database got lost.
        self._stored.update(number for number in raws if number in new or number not in self._queued)

    async def put(self, item: object) -> None:
        if isinstance(item, Update):
            if item.update_id not in self._stored:
                return
            self._stored.remove(item.update_id)
            self._queued.append(item.update_id)
        await super().put(item)

    async def replay(self, bot: telegram.Bot) -> int:
        """Puts in what an earlier process stored and did not finish; how many.

        One that this version cannot read is left where it is, for a few days; the others go on.
        """
        replayed = 0
        for raw in await self._inbox.pending(PLATFORM):
            try:
                update = Update.de_json(json.loads(raw), bot)
            except Exception as error:  # noqa: BLE001 - the library raises anything on what it does not know
                log.error("a stored update cannot be read and stays in the inbox: %s", type(error).__name__)
                continue
            self._queued.append(update.update_id)
            await super().put(update)
            replayed += 1
        return replayed


class StoringBot(ExtBot[None]):
    """The library's bot, whose updates are in the inbox before anybody sees them."""

    def __init__(self, queue: InboxQueue, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._inbox_queue = queue

    async def get_updates(self, *arguments: Any, **options: Any) -> tuple[Update, ...]:
        updates = await super().get_updates(*arguments, **options)
        await self._inbox_queue.store(updates)
        return updates


class PerChat(BaseUpdateProcessor):
    """Nobody waits for somebody else; what one chat says is handled in the order it was said."""

    def __init__(self, inbox: Inbox) -> None:
        # The library's own limit counts updates that wait for their chat's turn too: one chat could take all places.
        super().__init__(_NO_LIMIT)
        self._inbox = inbox
        self._places = asyncio.Semaphore(MAX_AT_ONCE)
        self._locks: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    async def initialize(self) -> None:
        pass

    async def shutdown(self) -> None:
        pass

    async def do_process_update(self, update: object, coroutine: Awaitable[Any]) -> None:
        assert isinstance(update, Update)
        chat = update.effective_chat.id if update.effective_chat else 0
        lock = self._locks.setdefault(chat, asyncio.Lock())
        async with lock, self._places:
            await coroutine
        # Handlers report what breaks and never raise; a cancelled one does not get here and is replayed.
        await self._inbox.done(PLATFORM, update.update_id)
