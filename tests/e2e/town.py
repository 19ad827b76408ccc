"""A studio on a Discord of our own: real bot, real worker process, real Valkey; Discord and the engine stand in."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from bot import app, texts
from bot import replies as r
from bot.discord_chat import chat as discord_chat
from bot.settings import Settings
from bot.templates import load_templates
from gpu_worker.contract.blobs import BlobStore
from tests.conftest import ROOT
from tests.e2e.conftest import selfie
from tests.fake_discord import FakeDiscord, Interaction, Message
from tests.sealed import blobs_of
from tests.valkey import ValkeyServer

PEOPLE = (str(970000000000000000 + n) for n in itertools.count(1))
LIMIT_S = 60.0
SOON_S = 20.0  # a bot that is asked to end needs two or three; it never would if it waited for what hangs


@dataclass
class Place:
    """What all tests of this file share: Valkey, a worker, a database. Each test brings people of its own."""

    folder: Path
    redis_url: str
    worker: subprocess.Popen[bytes] | None = None

    def settings(self, discord: FakeDiscord, **more: Any) -> Settings:
        wanted: dict[str, Any] = {"quiet_s": 0.3, "progress_every_s": 0.3, "intake_processes": 1} | more
        return Settings(
            _env_file=None,
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

    def newest(self, names: str) -> list[str]:
        """Keys of stored blobs, the newest last."""
        paths = sorted((self.folder / "blobs").rglob(names), key=os.path.getmtime)
        return [path.relative_to(self.folder / "blobs").as_posix() for path in paths]

    def start_worker(self, engine: str = "tests.stand_in_engine") -> None:
        settings = {"work_dir": str(self.folder / "work"), "engine_entry": engine}
        environment = self.environment(**settings, lease_s="2", report_every_s="0.2")
        self.worker = subprocess.Popen([sys.executable, "-m", "gpu_worker"], cwd=ROOT, env=environment)

    @contextmanager
    def paused_worker(self) -> Iterator[None]:
        """No job is begun meanwhile."""
        assert self.worker is not None
        self.worker.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.worker.send_signal(signal.SIGCONT)

    def stop_worker(self) -> None:
        if self.worker is not None:
            self.worker.send_signal(signal.SIGTERM)
            self.worker.wait(60)
            self.worker = None


@contextmanager
def place_in(folder: Path) -> Iterator[Place]:
    """Valkey runs; the worker is the caller's to start."""
    with tempfile.TemporaryDirectory(prefix="vk") as short:
        valkey = ValkeyServer(Path(short))
        valkey.start()
        here = Place(folder, valkey.url)
        try:
            yield here
        finally:
            here.stop_worker()
            valkey.stop()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place_in(tmp_path_factory.mktemp("place")) as here:
        here.start_worker()
        yield here


@dataclass
class Town:
    """A Discord, a bot in this process that can be stopped and started, and one person."""

    place: Place
    discord: FakeDiscord
    me: str = field(default_factory=lambda: next(PEOPLE))
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _running: asyncio.Task[None] | None = None

    @property
    def blobs(self) -> BlobStore:
        return blobs_of(self.place.settings(self.discord))

    async def start(self, **settings: Any) -> None:
        self._stop = asyncio.Event()
        before = len(self.discord.identified)
        self._running = running = asyncio.create_task(
            app.run(self.place.settings(self.discord, **settings), self._stop)
        )
        await until(lambda: len(self.discord.identified) > before or running.done())

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

    async def train_until_start(self, *, steps: int = 0) -> None:
        """To the button that starts the training; `steps` of 50 ms make it a long one."""
        await self.discord.command(self.me, "train", self.photos(6), agree=True)
        await self.discord.has_button("start", LIMIT_S)
        if steps:
            for key in self.place.newest("photos/*.jpg")[-6:]:
                await self.blobs.put(key, f"DO take {steps}".encode())

    async def train(self) -> Message:
        """From photos as options to "your model is ready"."""
        await self.train_until_start()
        await self.discord.push(self.me, "start")
        return await self.discord.until(lambda m: "model is ready" in m.text, LIMIT_S)

    async def use(self, number: int = 0) -> Interaction:
        return await self.discord.command(self.me, "portrait", template=load_templates().templates[number].template_id)

    async def use_after_the_token(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A portrait that outlives its interaction; none can be answered until the patch is undone."""
        with self.place.paused_worker():
            await self.use()
            await self.discord.until(lambda m: not m.is_thinking and "cancel_job" in m.buttons, LIMIT_S)
            monkeypatch.setattr(discord_chat.Answering, "is_alive", property(lambda _: False))

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


async def until(holds: Callable[[], bool], within_s: float = LIMIT_S) -> None:
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
