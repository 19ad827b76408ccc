"""Telegram's pace, chat by chat: messages of one chat in order, about one per second, a few at once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

BURST = 10.0  # messages at once: an album with its buttons, or somebody who pages through the gallery
PER_SECOND = 1.0  # https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this
MAX_LANES = 10_000  # chats remembered; one that was forgotten starts with a full burst


class _Lane:
    def __init__(self, now: float) -> None:
        self.lock = asyncio.Lock()
        self.left = BURST
        self.since = now


class Pace:
    """`async with pace.turn(chat)`: waits until this chat may get another message, and keeps others of it out."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[str, _Lane] = OrderedDict()

    @asynccontextmanager
    async def turn(self, chat: str, cost: float = 1.0) -> AsyncIterator[None]:
        lane = self._lane(chat)
        async with lane.lock:
            now = asyncio.get_running_loop().time()
            lane.left = min(BURST, lane.left + (now - lane.since) * PER_SECOND)
            lane.since = now
            # An album may cost more than is left; it goes ahead, and what follows it waits.
            if cost and lane.left < 1:
                await asyncio.sleep((1 - lane.left) / PER_SECOND)
            lane.left -= cost
            yield

    def _lane(self, chat: str) -> _Lane:
        lane = self._lanes.pop(chat, None) or _Lane(asyncio.get_running_loop().time())
        self._lanes[chat] = lane
        while len(self._lanes) > MAX_LANES and not next(iter(self._lanes.values())).lock.locked():
            self._lanes.popitem(last=False)
        return lane
