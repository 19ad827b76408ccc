"""Whole conversations on Discord: real bot, real worker process, real Valkey; Discord and the engine are stand-ins."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from bot import app, texts
from bot import replies as r
from bot.discord_chat import chat as discord_chat
from bot.domain import MAX_PHOTOS
from bot.settings import Settings
from bot.templates import load_templates
from tests.conftest import ROOT
from tests.e2e.conftest import selfie
from tests.fake_discord import FakeDiscord, Interaction, Message, Refused, snowflake
from tests.valkey import ValkeyServer

PEOPLE = (str(970000000000000000 + n) for n in itertools.count(1))
LIMIT_S = 40.0


@dataclass
class Place:
    """What all tests of this file share: Valkey, a worker, a database. Each test brings people of its own."""

    folder: Path
    redis_url: str
    worker: subprocess.Popen[bytes]

    def settings(self, discord: FakeDiscord, **more: Any) -> Settings:
        wanted: dict[str, Any] = {"quiet_s": 0.3, "progress_every_s": 0.3, "intake_processes": 1} | more
        return Settings(
            _env_file=None,  # type: ignore[call-arg]
            telegram_token=None,
            discord_token=SecretStr(discord.token),
            discord_api_url=discord.api_url,
            data_dir=self.folder,
            redis_url=SecretStr(self.redis_url),
            blobs_url=str(self.folder / "blobs"),
            **wanted,
        )

    def environment(self, **settings: str) -> dict[str, str]:
        wanted = {"redis_url": self.redis_url, "blobs_url": str(self.folder / "blobs"), **settings}
        return {**os.environ, **{f"PORTRAIT_{name.upper()}": value for name, value in wanted.items()}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    with tempfile.TemporaryDirectory(prefix="vk") as short:
        valkey = ValkeyServer(Path(short))
        valkey.start()
        here = Place(folder, valkey.url, None)  # type: ignore[arg-type]
        engine = {"work_dir": str(folder / "work"), "engine_entry": "tests.stand_in_engine"}
        environment = here.environment(**engine, lease_s="2", report_every_s="0.2")
        here.worker = subprocess.Popen([sys.executable, "-m", "gpu_worker"], cwd=ROOT, env=environment)
        yield here
        here.worker.send_signal(signal.SIGTERM)
        here.worker.wait(10)
        valkey.stop()


@dataclass
class Town:
    """A Discord, a bot in this process that can be stopped and started, and one person."""

    place: Place
    discord: FakeDiscord
    me: str = field(default_factory=lambda: next(PEOPLE))
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _running: asyncio.Task[None] | None = None

    async def start(self, **settings: Any) -> None:
        self._stop = asyncio.Event()
        before = len(self.discord.identified)
        self._running = asyncio.create_task(app.run(self.place.settings(self.discord, **settings), self._stop))
        async with asyncio.timeout(15):
            while len(self.discord.identified) == before:
                assert not self._running.done(), self._running.result()
                await asyncio.sleep(0.02)

    async def stop(self) -> float:
        """How long it took, in seconds."""
        began = time.monotonic()
        self._stop.set()
        if self._running is not None:
            await self._running
            self._running = None
        return time.monotonic() - began

    def photos(self, count: int, first: int = 0) -> list[dict[str, Any]]:
        return [self.discord.file(f"{n}.jpg", selfie(n)) for n in range(first, first + count)]

    async def says(self, reply: r.Reply) -> Message:
        """The bot says exactly this, now or soon."""
        wanted = discord_words(reply)
        return await self.discord.until(lambda message: words(message) == wanted, LIMIT_S)

    async def train(self) -> Message:
        """From photos as options to "your model is ready"."""
        await self.discord.command(self.me, "train", self.photos(6), agree=True)
        await self.discord.push(self.me, "start", LIMIT_S)
        return await self.discord.until(lambda m: "model is ready" in m.text, LIMIT_S)

    async def use(self, number: int = 0) -> Interaction:
        return await self.discord.command(self.me, "portrait", template=load_templates().templates[number].template_id)

    async def nothing_is_thinking(self) -> None:
        await self.discord.until(lambda m: not any(one.is_thinking for one in self.discord.messages.values()))


def words(message: Message) -> str:
    return message.text.replace("\\", "").replace("### ", "").strip()


def discord_words(reply: r.Reply) -> str:
    return str(texts.say(reply, "en", "discord")).strip()


@asynccontextmanager
async def town(place: Place, **settings: Any) -> AsyncIterator[Town]:
    async with FakeDiscord() as discord:
        here = Town(place, discord)
        await here.start(**settings)
        try:
            yield here
        finally:
            await here.stop()


async def test_from_selfies_to_a_portrait(place: Place) -> None:
    async with town(place) as here:
        await here.train()
        templates = load_templates().templates
        suggested = await here.discord.suggest(here.me, "portrait", "template", templates[0].title["en"][:3])
        assert templates[0].template_id in [choice["value"] for choice in suggested]
        chinese = await here.discord.suggest(here.me, "portrait", "template", templates[0].title["zh"], "zh-CN")
        assert chinese[0]["name"] == templates[0].title["zh"]
        await here.use()
        portrait = await here.discord.has_button("original", LIMIT_S)
        assert len(portrait.pictures) == 1
        assert "AI-generated" in portrait.text
        await here.discord.press(here.me, portrait, portrait.buttons["original"])
        original = await here.discord.until(lambda m: "original file" in m.text)
        file_id = original.attachments[0]["id"]
        async with app.open_bot(place.settings(here.discord)) as bot:
            keys = [key async for key in _keys(bot.blobs)]
        assert here.discord.files[file_id][1] in [await _blob(place, here.discord, key) for key in keys]
        assert all(m.is_ephemeral for m in here.discord.messages.values())  # others of the server see nothing
        await here.discord.press(here.me, portrait, portrait.buttons["delete_portrait"])
        await here.discord.until(lambda m: m.text == "### The portrait is deleted.", LIMIT_S)


async def _keys(blobs: Any) -> AsyncIterator[str]:
    async for key in blobs.list(""):
        yield key
