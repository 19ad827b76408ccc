"""What was accepted is not lost to an outage: of the database, the disk, the chat, or the clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError
from telegram import Update

from bot import erasure
from bot import replies as r
from bot.app import SqlInbox
from bot.chat import ChatError
from bot.db.database import Database
from bot.dialogue import Asked
from bot.outbox import relay
from bot.parts import utc_now
from bot.replies import Choice
from bot.telegram_chat.inbox import InboxQueue
from gpu_worker.contract.events import EVENT_STREAM
from tests.bot_bench import ANNA, BotBench, bot_bench, read_all
from tests.fakes import FakeChat
from tests.valkey import ValkeyServer


@pytest.fixture
async def bench(valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[BotBench]:
    async with bot_bench(f"sqlite+aiosqlite:///{tmp_path / 'bot.sqlite3'}", valkey.url, tmp_path) as made:
        yield made


@pytest.fixture
def outage(bench: BotBench, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`outage(n)`: the next n transactions fail as when the server restarts; `after`: so many go well before."""
    plan = {"after": 0, "left": 0}

    def unreliable(transaction: Callable[..., Any]) -> Callable[..., Any]:
        @asynccontextmanager
        async def maybe(self: Database, **how: Any) -> AsyncIterator[Any]:
            if plan["after"] > 0:
                plan["after"] -= 1
            elif plan["left"] > 0:
                plan["left"] -= 1
                raise OperationalError("SELECT 1", {}, ConnectionResetError("the server is restarting"))
            async with transaction(self, **how) as store:
                yield store

        return maybe

    def begin(left: int, after: int = 0) -> None:
        plan.update(after=after, left=left)

    for kind in ("transaction", "reading"):
        monkeypatch.setattr(Database, kind, unreliable(getattr(Database, kind)))
    return begin


async def say_yes_twice(bench: BotBench) -> None:
    await bench.push(r.ConfirmForget, "forget_yes")
    await bench.push(r.ConfirmForgetAgain, "forget_sure")


async def test_updates_wait_for_the_database_instead_of_ending_the_polling(
    bench: BotBench, outage: Callable[..., None]
) -> None:
    inbox = SqlInbox(bench.parts.db, utc_now)
    queue = InboxQueue(inbox)
    outage(3)
    await queue.store([Update(update_id=7)])
    await queue.put(Update(update_id=7))
    assert queue.qsize() == 1
    outage(2)
    assert len(await inbox.pending("telegram")) == 1
    outage(2)
    await inbox.done("telegram", 7)
    assert await inbox.pending("telegram") == []


async def test_an_update_whose_storing_was_never_confirmed_is_handled(
    bench: BotBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    transaction, is_lost = Database.transaction, True

    @asynccontextmanager
    async def answer_lost_once(self: Database, **how: Any) -> AsyncIterator[Any]:
        nonlocal is_lost
        async with transaction(self, **how) as store:
            yield store
        if is_lost:
            is_lost = False
            raise OperationalError("COMMIT", {}, ConnectionResetError("after the commit"))

    monkeypatch.setattr(Database, "transaction", answer_lost_once)
    queue = InboxQueue(SqlInbox(bench.parts.db, utc_now))
    for _ in range(2):
        await queue.store([Update(update_id=7)])
        await queue.put(Update(update_id=7))
    assert queue.qsize() == 1


async def test_a_command_outlasts_a_restart_of_the_database(bench: BotBench, outage: Callable[..., None]) -> None:
    outage(3)
    await bench.ask("help")
    assert bench.chat.sent(r.Help) == 1
    assert bench.chat.sent(r.Apology) == 0


async def test_a_photo_waits_for_room_on_the_disk(bench: BotBench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.consent()
    put, failures = bench.parts.blobs.put, [OSError(28, "No space left on device")] * 2

    async def full(key: str, data: bytes) -> None:
        if failures:
            raise failures.pop()
        await put(key, data)

    monkeypatch.setattr(bench.parts.blobs, "put", full)
    await bench.photos(1)
    await bench.settle()
    assert len(bench.chat.last(r.CollectingPhotos).photos) == 1
    assert bench.chat.sent(r.Apology) == 0


async def test_a_mistake_of_ours_is_not_tried_again(bench: BotBench, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0

    async def broken(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise IntegrityError("INSERT", {}, ValueError("twice"))

    monkeypatch.setattr("bot.app.converse", broken)
    await bench.ask("help")
    assert tries == 1
    assert bench.chat.sent(r.Apology) == 1


async def test_no_result_is_given_up_because_the_database_was_away(
    bench: BotBench, outage: Callable[..., None]
) -> None:
    await bench.train()
    await bench.press(Choice("use", bench.parts.templates.templates[0].template_id))
    await bench.parts.tasks.settle()
    await relay(bench.parts)
    await bench.worker.work()
    for _ in range(8):
        outage(1)
        with pytest.raises(OperationalError):
            await read_all(bench.bot.events)
    await bench.settle()
    assert bench.chat.sent(r.PortraitsReady) == 1
    assert await bench.parts.queue.redis.xlen(EVENT_STREAM) == 0


@pytest.mark.parametrize("transactions", range(2, 6))
async def test_an_outage_while_a_result_is_shown_shows_it_once(
    bench: BotBench, outage: Callable[..., None], transactions: int
) -> None:
    await bench.train()
    await bench.press(Choice("use", bench.parts.templates.templates[0].template_id))
    await bench.parts.tasks.settle()
    await relay(bench.parts)
    await bench.worker.work()
    outage(2, after=transactions)
    for _ in range(3):  # as often as the reader begins anew
        with suppress(OperationalError):
            await read_all(bench.bot.events)
    await bench.parts.tasks.settle()
    await bench.bot.reconciler.tick()
    assert [how for how, reply in bench.chat.said if isinstance(reply, r.PortraitsReady)] == ["send"]


async def test_the_progress_message_is_ended_later_when_the_chat_is_away(
    bench: BotBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.train()
    await bench.press(Choice("use", bench.parts.templates.templates[0].template_id))
    await bench.parts.tasks.settle()
    await relay(bench.parts)
    await bench.worker.work()
    send = bench.chat.send

    async def then_away(*arguments: Any) -> Any:
        refs = await send(*arguments)
        bench.chat.fail = [ChatError("the network is away")]
        return refs

    with monkeypatch.context() as here:
        here.setattr(bench.chat, "send", then_away)
        await read_all(bench.bot.events)
        await bench.parts.tasks.settle()
    assert bench.chat.sent(r.PortraitsReady) == 1
    shown = [reply for reply in bench.chat.shown.values() if isinstance(reply, r.Working)]
    assert any(not reply.job.status.is_final for reply in shown), "the chat was away at that moment"
    await bench.bot.reconciler.tick()
    await bench.bot.reconciler.tick()
    shown = [reply for reply in bench.chat.shown.values() if isinstance(reply, r.Working)]
    assert all(reply.job.status.is_final for reply in shown)
    assert bench.chat.sent(r.PortraitsReady) == 1


async def test_a_crash_between_forgetting_rows_and_the_rest_leaves_nothing(
    bench: BotBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.train()
    await bench.portrait()
    ours = set(bench.chat.shown)

    async def killed(*_: object) -> None:
        raise RuntimeError("killed here")

    await bench.ask("forget")
    with monkeypatch.context() as here:
        here.setattr("bot.app.erase", killed)
        await say_yes_twice(bench)
    assert ours & set(bench.chat.shown), "nothing outside of the database is deleted yet"
    await bench.bot.reconciler.tick()
    await bench.parts.tasks.settle()
    assert not ours & set(bench.chat.shown)
    assert not await bench.parts.blobs.keys("users")
    assert not await bench.parts.queue.traces()
    bench.parts.clock = lambda: utc_now() + timedelta(minutes=11)
    await bench.bot.reconciler.tick()
    async with bench.parts.db.transaction() as store:
        assert await store.people.erasures() == []


async def test_messages_are_deleted_when_the_chat_is_back(bench: BotBench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.train()
    ours = set(bench.chat.shown)

    async def away(*_: object) -> bool:
        raise ChatError("the network is away")

    await bench.ask("forget")
    with monkeypatch.context() as here:
        here.setattr(FakeChat, "delete", away)
        await say_yes_twice(bench)
        await bench.parts.tasks.settle()
    assert ours <= set(bench.chat.shown)
    await bench.bot.reconciler.tick()
    assert not ours & set(bench.chat.shown)


async def test_a_second_press_does_not_make_a_forgotten_person_known_again(bench: BotBench) -> None:
    await bench.collect()
    await bench.ask("forget")
    await bench.push(r.ConfirmForget, "forget_yes")
    yes = bench.chat.button(r.ConfirmForgetAgain, "forget_sure")
    await bench.press(yes)
    assert await bench.press(yes) == r.OutOfDate()
    async with bench.parts.db.transaction() as store:
        assert await store.people.find(ANNA) is None


async def test_a_clock_that_is_put_back_holds_up_nothing(bench: BotBench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.train()
    bench.parts.clock = lambda: utc_now() + timedelta(hours=2)
    await bench.press(Choice("use", bench.parts.templates.templates[0].template_id))
    bench.parts.clock = utc_now
    await bench.settle()
    assert bench.chat.sent(r.PortraitsReady) == 1
    # An answer and an outcome that were not shown before the clock was put back, after the first tick's impatience.
    await bench.bot.reconciler.tick()
    bench.parts.clock = lambda: utc_now() + timedelta(hours=2)
    await bench.press(Choice("use", bench.parts.templates.templates[0].template_id))
    await bench.parts.tasks.settle()
    await relay(bench.parts)
    await bench.worker.work()
    bench.chat.fail = [ChatError("away", retry_after_s=1)] * 2
    await read_all(bench.bot.events)
    await bench.parts.tasks.settle()
    await bench.hear(Asked("help"))
    assert (bench.chat.sent(r.PortraitsReady), bench.chat.sent(r.Help)) == (1, 0)
    bench.parts.clock = utc_now
    await bench.bot.reconciler.tick()
    assert (bench.chat.sent(r.PortraitsReady), bench.chat.sent(r.Help)) == (2, 1)


async def test_an_erasure_of_the_future_ends_all_the_same(bench: BotBench) -> None:
    await bench.collect()
    await bench.ask("forget")
    bench.parts.clock = lambda: utc_now() + timedelta(hours=2)
    await say_yes_twice(bench)
    bench.parts.clock = utc_now
    await erasure.finish_erasures(bench.parts)
    async with bench.parts.db.transaction() as store:
        assert await store.people.erasures() == []
