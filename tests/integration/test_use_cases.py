"""Whole conversations with the core: real database, real Valkey, a chat and a worker that stand in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bot import replies as r
from bot.replies import Choice
from tests.bot_bench import ANNA, BEN, BotBench, bot_bench
from tests.integration.postgres import database_url, postgres_server, postgres_url
from tests.valkey import ValkeyServer

__all__ = ["database_url", "postgres_server", "postgres_url"]


@pytest.fixture
async def bench(valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[BotBench]:
    async with bot_bench(f"sqlite+aiosqlite:///{tmp_path / 'bot.sqlite3'}", valkey.url, tmp_path) as made:
        yield made


@pytest.fixture
async def any_bench(database_url: str, valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[BotBench]:
    async with bot_bench(database_url, valkey.url, tmp_path) as made:
        yield made


async def test_selfies_become_a_portrait(any_bench: BotBench) -> None:
    bench, chat = any_bench, any_bench.chat
    await bench.ask("start")
    assert chat.last(r.Welcome) == r.Welcome(has_subject=False)
    await bench.collect(6)
    status = chat.last(r.CollectingPhotos)
    assert [photo.verdict for photo in status.photos] == ["ok"] * 6
    assert status.can_start
    assert not status.is_checking
    assert chat.sent(r.CollectingPhotos) == 1, "one status message, edited"
    await bench.push(r.CollectingPhotos, "start")
    assert chat.last(r.Working).job.status == "queued"
    await bench.settle()
    assert chat.last(r.SubjectReady).subject.likeness == 0.6
    await bench.push(r.SubjectReady, "gallery")
    gallery = chat.last(r.Gallery)
    assert gallery.can_use
    await bench.push(r.Gallery, "use")
    await bench.settle()
    portraits = chat.last(r.PortraitsReady).portraits
    assert len(portraits) == 1
    assert portraits[0].template == gallery.template
    assert await bench.parts.blobs.exists(portraits[0].key)
    assert chat.sent(r.SubjectReady) == chat.sent(r.PortraitsReady) == 1
    assert BEN != ANNA
    assert Choice("gallery") == Choice("gallery", "")
