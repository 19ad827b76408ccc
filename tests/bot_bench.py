"""The bot's core on a real database and a real Valkey, with a chat and a worker that stand in."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from bot.app import Bot, open_bot
from bot.core import Incoming
from bot.dialogue import Asked, Pressed, Said, SentPicture, Typed
from bot.domain import Address, Language, MessageRef
from bot.job_events import EventReader
from bot.outbox import relay
from bot.parts import Parts
from bot.replies import AskConsent, Choice, CollectingPhotos, PortraitsReady, Reply, SubjectReady
from bot.settings import Settings
from bot.templates import BuiltInTemplates
from gpu_worker.contract.blobs import open_blobs
from tests.fakes import FakeChat, FakeWorker, jpeg

ANNA = Address("telegram", "1001", "1001")
BEN = Address("telegram", "1002", "1002")


@dataclass
class BotBench:
    """One bot. `settle` lets everything happen that is under way: relay, worker, events, answers."""

    bot: Bot
    chat: FakeChat
    worker: FakeWorker
    _events: Any = field(default_factory=lambda: itertools.count(1))

    @property
    def parts(self) -> Parts:
        return self.bot.parts

    async def hear(self, said: Said, who: Address = ANNA, *, language: Language = "en", **more: Any) -> Reply | None:
        event_id = more.pop("event_id", None) or str(next(self._events))
        return await self.bot.handle(Incoming(who, said, language, event_id, **more))

    async def ask(self, command: str, argument: str = "", who: Address = ANNA) -> Reply | None:
        return await self.hear(Asked(command, argument), who)

    async def type(self, text: str, who: Address = ANNA) -> Reply | None:
        return await self.hear(Typed(text), who)

    async def press(self, choice: Choice, who: Address = ANNA, message_id: str = "0") -> Reply | None:
        return await self.hear(Pressed(choice), who, pressed=MessageRef(who, message_id))

    async def push(self, kind: type[Any], action: str, who: Address = ANNA) -> Reply | None:
        """A button of the newest reply of a kind."""
        shown = [message_id for message_id, reply in self.chat.shown.items() if isinstance(reply, kind)]
        return await self.press(self.chat.button(kind, action), who, shown[-1])

    async def photos(self, count: int, who: Address = ANNA, first: int = 0) -> None:
        for number in range(first, first + count):
            await self.hear(SentPicture(jpeg(number, (320, 240))), who)

    async def settle(self) -> None:
        for _ in range(6):
            await self.parts.tasks.settle()
            sent = await relay(self.parts)
            worked = await self.worker.work()
            read = await read_all(self.bot.events)
            await self.parts.tasks.settle()
            if not (sent or worked or read):
                return

    async def consent(self, who: Address = ANNA) -> None:
        """Asked for once: whoever has agreed is collecting at once."""
        await self.ask("train", who=who)
        if any(isinstance(reply, AskConsent) for reply in self.chat.shown.values()):
            await self.push(AskConsent, "agree", who)

    async def collect(self, count: int = 6, who: Address = ANNA) -> None:
        await self.consent(who)
        await self.photos(count, who)
        await self.settle()

    async def train(self, who: Address = ANNA) -> SubjectReady:
        await self.collect(who=who)
        await self.push(CollectingPhotos, "start", who)
        await self.settle()
        ready: SubjectReady = self.chat.last(SubjectReady)
        return ready

    async def portrait(self, who: Address = ANNA) -> PortraitsReady:
        template = self.parts.templates.templates[0].template_id
        await self.press(Choice("use", template), who)
        await self.settle()
        ready: PortraitsReady = self.chat.last(PortraitsReady)
        return ready


async def read_all(events: EventReader) -> int:
    """Everything that is on the stream, as a freshly started reader would take it."""
    await events.begin()
    total = 0
    while count := await events.read(">"):
        total += count
    return total


@asynccontextmanager
async def bot_bench(database_url: str, redis_url: str, folder: Path, **settings: Any) -> AsyncIterator[BotBench]:
    wanted: dict[str, Any] = {"quiet_s": 0.05, "intake_processes": 1} | settings
    made = Settings(
        _env_file=None,  # type: ignore[call-arg]
        data_dir=folder,
        database_url=SecretStr(database_url),
        redis_url=SecretStr(redis_url),
        blobs_url=str(folder / "blobs"),
        **wanted,
    )
    async with open_bot(made) as bot:
        assert isinstance(bot.parts.templates, BuiltInTemplates)
        chat = FakeChat()
        bot.register("telegram", chat)
        yield BotBench(bot, chat, FakeWorker(bot.parts.queue, open_blobs(made.blobs_url)))
