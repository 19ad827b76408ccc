"""What an update costs in the database: statements take the processor, commits wait for the disk, one by one."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event
from telegram import Update

from bot.dialogue import Asked, Pressed, Said, SentPicture
from bot.domain import MessageRef
from bot.replies import Choice, CollectingPhotos, Gallery, Help, Results
from bot.telegram_chat.inbox import InboxQueue
from tests.bot_bench import ANNA, BotBench, bot_bench
from tests.fakes import jpeg
from tests.integration.conftest import valkey
from tests.valkey import ValkeyServer

__all__ = ["valkey"]


@pytest.fixture
async def bench(valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[BotBench]:
    async with bot_bench(f"sqlite+aiosqlite:///{tmp_path / 'bot.sqlite3'}", valkey.url, tmp_path, quiet_s=2) as made:
        yield made


@dataclass
class Cost:
    """`statements` without BEGIN and COMMIT."""

    statements: list[str] = field(default_factory=list)
    commits: int = 0


@contextmanager
def counted() -> Iterator[Cost]:
    cost = Cost()

    def executed(_: Any, __: Any, statement: str, *___: Any) -> None:
        if not statement.startswith("BEGIN"):
            cost.statements.append(statement.partition("\n")[0])

    def committed(connection: Any) -> None:
        cost.commits += not connection.get_execution_options().get("portrait_reads")

    event.listen(Engine, "before_cursor_execute", executed)
    event.listen(Engine, "commit", committed)
    try:
        yield cost
    finally:
        event.remove(Engine, "before_cursor_execute", executed)
        event.remove(Engine, "commit", committed)


_numbers = itertools.count(1)


async def said(bench: BotBench, what: Said, **more: Any) -> None:
    """As Telegram's frontend takes it: stored, handled, out of the inbox."""
    number = next(_numbers)
    await bench.bot.inbox.store("telegram", {number: "{}"})
    await bench.hear(what, event_id=f"telegram:{number}", inbox_id=number, **more)
    await bench.bot.inbox.done("telegram", number)


async def test_what_one_poll_brings_is_stored_in_one_commit(bench: BotBench) -> None:
    queue = InboxQueue(bench.bot.inbox)
    updates = [Update(update_id=number) for number in range(1, 101)]
    with counted() as cost:
        await queue.store(updates)
    assert (len(cost.statements), cost.commits) == (2, 1)
    assert queue.empty(), "nobody hears of an update before it is stored"
    for update in updates:
        await queue.put(update)
    assert queue.qsize() == 100 == len(await bench.bot.inbox.pending("telegram"))


async def test_a_command_takes_few_statements_and_three_commits(bench: BotBench) -> None:
    await bench.train()
    with counted() as cost:
        await said(bench, Asked("help"))
    assert bench.chat.last(Help)
    assert len(cost.statements) <= 15, "\n".join(cost.statements)
    assert cost.commits <= 3
    assert await bench.bot.inbox.pending("telegram") == []


async def test_a_button_takes_few_statements_and_three_commits(bench: BotBench) -> None:
    await bench.train()
    await said(bench, Asked("portrait"))
    shown = [message_id for message_id, reply in bench.chat.shown.items() if isinstance(reply, Gallery)]
    with counted() as cost:
        await said(bench, Pressed(Choice("gallery", "film.1")), pressed=MessageRef(ANNA, shown[-1]))
    assert bench.chat.last(Gallery).index == 1
    assert len(cost.statements) <= 17, "\n".join(cost.statements)
    assert cost.commits <= 3


async def test_a_page_of_many_results_costs_as_much_as_one_of_few(bench: BotBench) -> None:
    await bench.train()
    costs = []
    for _ in range(2):
        await bench.portrait()
        with counted() as cost:
            await said(bench, Asked("results"))
        costs.append(len(cost.statements))
    assert bench.chat.last(Results).pages == 2
    assert costs[0] == costs[1] <= 20


async def test_an_album_takes_two_commits_a_photo_and_is_answered_once(bench: BotBench) -> None:
    await bench.consent()
    pictures = [jpeg(number, (320, 240)) for number in range(6)]
    with counted() as cost:
        for picture in pictures:
            await said(bench, SentPicture(picture))
        await bench.parts.tasks.settle()
    assert len(bench.chat.last(CollectingPhotos).photos) == 6
    assert len(cost.statements) <= 6 * 21 + 14, "\n".join(cost.statements)
    assert cost.commits <= 6 * 2 + 3
