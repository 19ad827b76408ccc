"""One who floods the bot delays nobody but themselves: in the frontend, and in the queue."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from telegram import Update

from bot.domain import queue_score
from bot.telegram_chat.inbox import MAX_AT_ONCE, PerChat
from tests.fuzz.chats import HeardApp

HANDLING_S = 0.005


def update(number: int, chat: int) -> Update:
    about = {"id": chat, "type": "private"}
    made = Update.de_json({"update_id": number, "message": {"message_id": number, "date": 1, "chat": about}}, None)
    assert made is not None
    return made


async def test_a_flood_of_one_chat_does_not_hold_up_another() -> None:
    handled: list[int] = []

    async def handle(chat: int) -> None:
        await asyncio.sleep(HANDLING_S)
        handled.append(chat)

    processor = PerChat(HeardApp())
    flood = [asyncio.create_task(processor.process_update(update(n, 1), handle(1))) for n in range(2 * MAX_AT_ONCE)]
    await asyncio.sleep(HANDLING_S)
    await processor.process_update(update(9999, 2), handle(2))
    assert handled.index(2) < 20, "somebody else was served behind the flood"
    await asyncio.gather(*flood)
    assert len(handled) == 2 * MAX_AT_ONCE + 1


def test_twenty_orders_of_one_person_stand_behind_the_first_of_everybody_and_still_come_up() -> None:
    noon = datetime(2026, 11, 22, 12, tzinfo=UTC)
    flood = [(queue_score(noon + timedelta(seconds=n), n), "flood") for n in range(20)]
    others = [(queue_score(noon + timedelta(minutes=5, seconds=n), 0), "other") for n in range(10)]
    # People who keep coming do not starve the flood either: its last order is worth so many of its own waits.
    later = (queue_score(noon + timedelta(hours=4), 0), "later")
    order = [who for _, who in sorted([*flood, *others, later])]
    assert order == ["flood", *["other"] * 10, *["flood"] * 19, "later"]
