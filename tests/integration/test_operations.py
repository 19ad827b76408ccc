"""What the operator's people may do from a chat, limits of people and servers, and reports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bot import replies as r
from bot.dialogue import Asked, SentPicture
from bot.domain import Address
from bot.guilds import GuildRules, Place
from bot.parts import utc_now
from bot.replies import Choice
from bot.settings import Settings
from tests.bot_bench import ANNA, BEN, BotBench, bot_bench
from tests.fakes import jpeg
from tests.integration.postgres import database_url
from tests.valkey import ValkeyServer

__all__ = ["database_url"]

BOSS = Address("telegram", "9", "9")
HERE = Place("77", "channel1")


@pytest.fixture
async def bench(database_url: str, valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[BotBench]:
    settings: dict[str, Any] = {"admins": "telegram:9, discord:8", "portraits_per_day": 2, "open_portraits": 5}
    async with bot_bench(database_url, valkey.url, tmp_path, **settings) as made:
        yield made


async def boss(bench: BotBench, words: str) -> r.AdminSays:
    await bench.ask("admin", words, BOSS)
    said: r.AdminSays = bench.chat.last(r.AdminSays)
    return said


async def order(bench: BotBench, place: Place | None = None, who: Address = ANNA) -> None:
    template = bench.parts.templates.templates[0].template_id
    await bench.hear(Asked("portrait", template), who, place=place)


async def settle_guild(bench: BotBench, rules: GuildRules) -> None:
    async with bench.parts.db.transaction() as store:
        await store.operations.keep_guild(HERE.guild_id, rules)


async def test_only_admins_have_the_command(bench: BotBench) -> None:
    await bench.ask("admin", "stats")
    assert bench.chat.sent(r.AdminSays) == 0
    assert bench.chat.last(r.NotUnderstood)
    await bench.hear(Asked("admin", "stats"), BOSS, is_private=False)
    assert bench.chat.sent(r.AdminSays) == 0, "not where others read along"


@pytest.mark.parametrize("words", ["", "what", "block", "block anna", "grant 1 portraits many", "drain", "block fax:1"])
async def test_what_is_not_understood_is_answered_with_the_list(bench: BotBench, words: str) -> None:
    assert (await boss(bench, words)).what == "help"


async def test_the_daily_limit_holds_and_a_grant_lifts_it_for_a_day(bench: BotBench) -> None:
    await bench.train()
    for _ in range(2):
        await order(bench)
        await bench.settle()
    await order(bench)
    assert bench.chat.last(r.QuotaReached).what == "portraits"
    assert await boss(bench, "grant 1001 portraits 1") == r.AdminSays("granted_portraits", "telegram:1001", 1)
    await order(bench)
    await bench.settle()
    assert bench.chat.sent(r.PortraitsReady) == 3
    await order(bench)
    assert bench.chat.last(r.QuotaReached).limit == 3
    async with bench.parts.db.transaction() as store:
        [user_id] = [user for user in await store.people.all_ids() if await store.library.subjects(user)]
        later = utc_now() + timedelta(days=1, minutes=1)
        assert (await store.operations.allowance(user_id, "portrait", later - timedelta(days=1))).granted == 0


async def test_failed_and_cancelled_work_is_not_charged(bench: BotBench) -> None:
    await bench.train()
    bench.worker.fail_with = {"kind": "permanent", "reason": "engine_died"}
    for _ in range(3):
        await order(bench)
        await bench.settle()
    bench.worker.fail_with = None
    for _ in range(3):
        await order(bench)
        await bench.ask("cancel")
        await bench.settle()
    await order(bench)
    await bench.settle()
    assert bench.chat.sent(r.PortraitsReady) == 1
    assert bench.chat.sent(r.QuotaReached) == 0


async def test_a_server_has_a_limit_of_its_own_for_all_its_members(bench: BotBench) -> None:
    await settle_guild(bench, GuildRules(portraits_per_day=1))
    for who in (ANNA, BEN):
        await bench.train(who)
    await order(bench, HERE)
    await bench.settle()
    await order(bench, HERE, BEN)
    assert bench.chat.last(r.QuotaReached).what == "guild_portraits"
    await order(bench, None, BEN)
    await bench.settle()
    assert bench.chat.sent(r.PortraitsReady) == 2, "elsewhere the person's own limit counts"


@pytest.mark.parametrize(
    ("rules", "hurdle"),
    [
        (GuildRules(roles=("r1",)), "role"),
        (GuildRules(channels=("other",)), "channel"),
        (GuildRules(roles=("mine",), channels=("channel1",)), None),
    ],
)
async def test_a_server_says_who_and_where(bench: BotBench, rules: GuildRules, hurdle: str | None) -> None:
    await settle_guild(bench, rules)
    place = Place("77", "channel1", ("mine",))
    await bench.hear(Asked("train"), place=place)
    if hurdle is None:
        assert bench.chat.last(r.AskConsent)
        return
    assert bench.chat.last(r.Refused).reason == hurdle
    await bench.hear(Asked("privacy"), place=place)
    assert bench.chat.last(r.Privacy), "one's own data are open everywhere"
    await bench.hear(Asked("train"), place=Place("77", "channel1", may_manage=True))
    assert bench.chat.last(r.AskConsent), "who manages the server is not kept out"


async def test_only_who_manages_a_server_settles_it(bench: BotBench) -> None:
    def spoil(rules: GuildRules) -> GuildRules:
        return GuildRules(is_spoiler=not rules.is_spoiler)

    assert await bench.bot.settle_guild(HERE, spoil) is None
    manager = Place("77", "channel1", may_manage=True)
    assert await bench.bot.settle_guild(manager, spoil) == GuildRules(is_spoiler=True)
    assert await bench.bot.settle_guild(manager, spoil) == GuildRules()


async def test_results_are_hidden_where_the_server_wants_it(bench: BotBench) -> None:
    await bench.train()
    await order(bench, HERE)
    await bench.settle()
    assert not bench.chat.last(r.PortraitsReady).is_spoiler
    await settle_guild(bench, GuildRules(is_spoiler=True))
    await order(bench, HERE)
    await bench.settle()
    assert bench.chat.last(r.PortraitsReady).is_spoiler


async def test_a_drained_studio_ends_what_it_has_and_takes_nothing_new(bench: BotBench) -> None:
    await bench.train()
    await order(bench)
    assert (await boss(bench, "drain on")).what == "drain_on"
    await order(bench)
    assert bench.chat.last(r.QuotaReached).what == "closed"
    await bench.ask("train", who=BEN)
    await bench.push(r.AskConsent, "agree", BEN)
    assert bench.chat.sent(r.CollectingPhotos) == 1, "Anna's; Ben is told"
    await bench.settle()
    assert bench.chat.sent(r.PortraitsReady) == 1, "what was ordered is made"
    await boss(bench, "drain off")
    await order(bench)
    await bench.settle()
    assert bench.chat.sent(r.PortraitsReady) == 2


async def test_who_is_blocked_orders_nothing_and_keeps_their_rights(bench: BotBench) -> None:
    await bench.collect()
    await bench.push(r.CollectingPhotos, "start")
    assert (await boss(bench, "block telegram:1001")).who == "telegram:1001"
    await bench.bot.reconciler.tick()
    assert bench.chat.last(r.Cancelled).kind == "train", "what they had under way is stopped"
    await bench.ask("train")
    await bench.hear(SentPicture(jpeg(9)))
    assert bench.chat.last(r.Refused) == r.Refused("blocked")
    await bench.ask("forget")
    await bench.push(r.ConfirmForget, "forget_yes")
    await bench.push(r.ConfirmForgetAgain, "forget_sure")
    assert bench.chat.last(r.Forgotten)
    await bench.ask("start")
    assert bench.chat.last(r.Refused), "forgetting is no way around it"
    assert (await boss(bench, "unblock 1001")).what == "unblocked"
    assert (await boss(bench, "unblock 1001")).what == "not_blocked"
    await bench.ask("start")
    assert bench.chat.last(r.Welcome)


async def test_queue_and_stats_name_no_photos_and_no_prompts(bench: BotBench) -> None:
    await bench.train()
    await order(bench)
    queue = await boss(bench, "queue")
    assert queue.n == 1
    assert queue.lines[0].startswith("portrait · queued · 0% · 0 min · telegram:1001")
    stats = await boss(bench, "stats")
    assert {"subjects: 1", "train · succeeded: 1", "portrait · queued: 1", "drain: off"} <= set(stats.lines)


async def reported(bench: BotBench) -> tuple[r.PortraitsReady, r.AdminReport]:
    await bench.train()
    ready = await bench.portrait()
    assert await bench.press(Choice("report", ready.portraits[0].portrait_id)) is None
    assert bench.chat.last(r.Reported)
    await bench.bot.reconciler.tick()
    return ready, bench.chat.last(r.AdminReport)


async def test_a_report_reaches_the_admins_once(bench: BotBench) -> None:
    ready, report = await reported(bench)
    assert (report.picture_key, report.who) == (ready.portraits[0].key, "telegram:1001")
    await bench.press(Choice("report", ready.portraits[0].portrait_id))
    await bench.bot.reconciler.tick()
    assert bench.chat.sent(r.AdminReport) == 1
    await bench.ask("admin", "reports", BOSS)
    assert bench.chat.sent(r.AdminReport) == 2, "and can be looked up"


@pytest.mark.parametrize("how", ["dismiss", "delete", "block"])
async def test_an_admin_settles_a_report(bench: BotBench, how: str) -> None:
    ready, report = await reported(bench)
    await bench.press(Choice(f"admin_{how}", report.report_id), BOSS)
    await bench.settle()
    is_there = await bench.parts.blobs.exists(ready.portraits[0].key)
    async with bench.parts.db.transaction() as store:
        is_blocked = await store.operations.is_blocked("telegram", "1001")
    assert (is_there, is_blocked) == {"dismiss": (True, False), "delete": (False, False), "block": (False, True)}[how]
    await bench.press(Choice(f"admin_{how}", report.report_id), BOSS)
    assert bench.chat.last(r.AdminSays).what == "report_gone"


async def test_nobody_else_settles_or_reports(bench: BotBench) -> None:
    ready, report = await reported(bench)
    assert isinstance(await bench.press(Choice("admin_delete", report.report_id)), r.OutOfDate)
    await bench.ask("start", who=BEN)
    assert isinstance(await bench.press(Choice("report", ready.portraits[0].portrait_id), BEN), r.NotYours)
    assert await bench.parts.blobs.exists(ready.portraits[0].key)


def test_admins_are_named_by_platform_and_number() -> None:
    assert Settings(_env_file=None, admins="telegram:1, discord:22").admin_list == (
        ("telegram", "1"),
        ("discord", "22"),
    )
    with pytest.raises(ValidationError, match="telegram:123"):
        Settings(_env_file=None, admins="anna")
