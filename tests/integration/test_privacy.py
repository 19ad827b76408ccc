"""What is kept, for how long, with which warning, and that one gets a copy of it."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bot import export, texts
from bot import replies as r
from bot.parts import utc_now
from bot.replies import Choice
from bot.retention import Retention
from gpu_worker.contract.sealing import MAGIC
from tests.bot_bench import ANNA, BEN, BotBench, bot_bench
from tests.integration.postgres import database_url
from tests.valkey import ValkeyServer

__all__ = ["database_url"]


@pytest.fixture
async def bench(database_url: str, valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[BotBench]:
    async with bot_bench(database_url, valkey.url, tmp_path, keep_portraits_days=30, warn_days=3) as made:
        yield made


async def after(bench: BotBench, days: float) -> None:
    """So many days from now, the hourly round is made and what it wants to say is said."""
    moment = utc_now() + timedelta(days=days)
    bench.parts.clock = lambda: moment
    retention = Retention(bench.parts)
    await retention.warn()
    await retention.expire()
    bench.parts.clock = lambda: moment + timedelta(minutes=1)
    await bench.bot.reconciler.tick()


async def portraits(bench: BotBench) -> int:
    return len([key for key in await bench.parts.blobs.keys("users") if "/jobs/" in key])


async def test_a_portrait_goes_after_its_time_and_after_a_warning(bench: BotBench) -> None:
    await bench.train()
    await bench.portrait()
    made = await portraits(bench)
    await after(bench, 26)
    assert bench.chat.sent(r.Expiring) == 0
    await after(bench, 27.5)
    assert bench.chat.last(r.Expiring) == r.Expiring(1, (), 3)
    await after(bench, 29)
    assert (bench.chat.sent(r.Expiring), await portraits(bench)) == (1, made), "warned once"
    await after(bench, 30.6)
    assert await portraits(bench) == 0


async def test_more_than_one_transaction_looks_at_goes_all_the_same(
    bench: BotBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.retention._AT_ONCE", 1)
    await bench.train()
    for _ in range(2):
        await bench.portrait()
    await bench.collect(6, BEN)
    await bench.bot.retention.sweep_blobs()
    await bench.bot.retention.sweep_blobs()
    assert await portraits(bench) == 2
    await after(bench, 27.5)
    await after(bench, 30.6)
    assert not [key for key in await bench.parts.blobs.keys("users") if "/jobs/" in key or "/photos/" in key]


async def test_one_press_keeps_it_for_another_time(bench: BotBench) -> None:
    await bench.train()
    await bench.portrait()
    await after(bench, 28)
    await bench.push(r.Expiring, "keep")
    assert bench.chat.last(r.Kept) == r.Kept(1, 0)
    await after(bench, 40)
    assert await portraits(bench)
    assert isinstance(await bench.press(Choice("keep")), r.OutOfDate), "nothing is about to be deleted"
    await after(bench, 28 + 28)
    assert bench.chat.sent(r.Expiring) == 2, "and the next warning comes in time"
    await after(bench, 28 + 31.1)
    assert await portraits(bench) == 0


async def test_nothing_is_deleted_unwarned_although_the_bot_was_away(bench: BotBench) -> None:
    await bench.train()
    await bench.portrait()
    await after(bench, 100)
    assert bench.chat.last(r.Expiring).portraits == 1
    assert bench.chat.last(r.Expiring).models
    assert await portraits(bench)
    await after(bench, 103.1)
    assert not await portraits(bench)
    async with bench.parts.db.transaction() as store:
        [user_id] = await store.people.all_ids()
        assert not await store.library.subjects(user_id)


async def test_a_model_that_is_used_is_not_idle(bench: BotBench) -> None:
    await bench.train()
    await after(bench, 88)
    assert bench.chat.last(r.Expiring).models
    await bench.portrait()
    await after(bench, 95)
    async with bench.parts.db.transaction() as store:
        [user_id] = await store.people.all_ids()
        assert await store.library.subjects(user_id)


async def test_who_has_left_is_not_waited_for(bench: BotBench) -> None:
    await bench.train()
    await bench.portrait()
    async with bench.parts.db.transaction() as store:
        await store.people.mark_dead(ANNA)
    await after(bench, 28)
    await after(bench, 31.1)
    assert not await portraits(bench)


async def exported(bench: BotBench) -> list[zipfile.ZipFile]:
    await bench.ask("privacy")
    await bench.push(r.Privacy, "export")
    assert bench.chat.last(r.Exporting)
    await bench.parts.tasks.settle()
    shown = [reply for reply in bench.chat.shown.values() if isinstance(reply, r.ExportPart)]
    return [zipfile.ZipFile(io.BytesIO(await bench.parts.blobs.get(part.key))) for part in shown]


async def test_everything_about_a_person_is_in_their_export(bench: BotBench) -> None:
    await bench.train()
    await bench.portrait()
    await bench.ask("train")
    await bench.photos(3, first=20)
    await bench.settle()
    await bench.train(BEN)
    [archive] = await exported(bench)
    data = json.loads(archive.read("data.json"))
    assert {
        kind: len(rows) for kind, rows in data.items() if isinstance(rows, list) and kind not in ("jobs", "messages")
    } == {
        **{"accounts": 1, "consents": 1, "collections": 2, "photos": 9, "models": 1, "templates": 0, "portraits": 1},
        **{"grants": 0, "reports": 0},
    }
    assert {job["kind"] for job in data["jobs"]} == {"inspect", "train", "portrait"}
    assert data["accounts"][0] == {"platform": "telegram", "person": "1001", "language": "en"}
    assert datetime.fromisoformat(data["consents"][0]["agreed_at"])
    pictures = [name for name in archive.namelist() if name.endswith(".jpg")]
    assert len([name for name in pictures if name.startswith("photos/")]) == 3
    assert [name for name in pictures if name.startswith("jobs/")]
    for name in pictures:
        assert archive.read(name).startswith(b"\xff\xd8")
        assert not archive.read(name).startswith(MAGIC)
    assert not [name for name in archive.namelist() if name.endswith(".safetensors")]


async def test_a_large_export_comes_in_parts_that_the_chat_takes(
    bench: BotBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.collect(12)
    size = max([len(await bench.parts.blobs.get(key)) for key in await bench.parts.blobs.keys("users")])
    monkeypatch.setitem(export.PART_BYTES, "telegram", 4 * size)
    archives = await exported(bench)
    assert len(archives) > 2
    names = [name for archive in archives for name in archive.namelist()]
    assert len([name for name in names if name.startswith("photos/")]) == 12
    assert names.count("data.json") == 1
    assert bench.chat.last(r.ExportPart).count == len(archives)


async def test_an_export_is_gone_within_hours(bench: BotBench) -> None:
    await bench.collect(5)
    await exported(bench)
    before = [key for key in await bench.parts.blobs.keys("users") if "/exports/" not in key]
    for _ in range(2):
        await bench.bot.retention.sweep_blobs()
    assert await bench.parts.blobs.keys("users") == before


async def test_privacy_says_how_long_as_it_is_set(valkey: ValkeyServer, tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'bot.sqlite3'}"
    kept: dict[str, Any] = {"keep_collections_days": 1.5, "keep_portraits_days": 11, "keep_subjects_days": 77}
    async with bot_bench(url, valkey.url, tmp_path, warn_days=4, **kept) as bench:
        await bench.ask("privacy")
        said = str(texts.say(bench.chat.last(r.Privacy), "en"))
    assert "after 1.5 days without a training" in said
    assert "Portraits are deleted after 11 days, models after 77 days without use; I tell you 4 days before" in said


async def test_consent_is_recorded_before_the_first_photo_with_its_version(bench: BotBench) -> None:
    await bench.ask("train")
    await bench.photos(1)
    assert not await bench.parts.blobs.keys("users")
    await bench.push(r.AskConsent, "agree")
    await bench.photos(1)
    async with bench.parts.db.transaction() as store:
        [user_id] = await store.people.all_ids()
        data = await store.records.of(user_id)
    assert data
    [consent], [photo] = data["consents"], data["photos"]
    assert (consent["version"], consent["locale"], consent["platform"]) == ("2026-11", "en", "telegram")
    assert consent["agreed_at"] <= photo["created_at"]


@pytest.mark.parametrize(
    ("language", "age", "oneself"), [("en", "18 or older", "photos are of me"), ("zh", "18 岁", "本人")]
)
def test_the_consent_states_age_and_that_it_is_oneself(language: Any, age: str, oneself: str) -> None:
    said = str(texts.say(r.AskConsent("2026-11"), language))
    assert age in said
    assert oneself in said
