"""The same frontend in SimCord, a simulator of Discord that others wrote: an independent opinion on what we send."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from bot import replies as r
from bot.callback import secret_of
from bot.chat import Chat
from bot.core import Incoming
from bot.dialogue import Asked, Pressed, Said, SentPicture
from bot.discord_chat.client import Client
from bot.domain import Language, PortraitView
from bot.replies import Choice, Reply
from bot.settings import Settings
from bot.templates import load_templates
from gpu_worker.contract.blobs import BlobStore, open_blobs
from tests.e2e.conftest import selfie
from tests.unit.bot.test_telegram_render import REPLIES

simcord = pytest.importorskip("simcord", reason="needs SimCord: pip install simcord")

PORTRAITS = tuple(PortraitView(f"portrait{n}", f"p/{n}.jpg", 64, 64, 0.7) for n in range(4))


class NoInbox:
    async def store(self, platform: str, raws: Mapping[int, str]) -> set[int]:
        return set(raws)

    async def done(self, platform: str, update_id: int) -> None:
        pass

    async def pending(self, platform: str) -> list[str]:
        return []


@dataclass
class ScriptedApp:
    """Answers everything with a reply of the script, as the core would, and remembers what it heard."""

    blobs: BlobStore
    settings: Settings
    heard: list[Said] = field(default_factory=list)
    chats: dict[str, Chat] = field(default_factory=dict)
    inbox: Any = field(default_factory=NoInbox)
    script: list[tuple[Reply, Language]] = field(default_factory=list)  # said one by one to those who ask for /help

    def register(self, platform: str, chat: Chat) -> None:
        self.chats[platform] = chat

    async def kept_file(self, platform: str, key: str) -> str | None:
        return None

    async def keep_file(self, platform: str, key: str, file_id: str) -> None:
        pass

    async def handle(self, incoming: Incoming) -> Reply | None:
        self.heard.append(incoming.said)
        chat, to, language = self.chats["discord"], incoming.address, incoming.language
        template = load_templates().templates[0]
        match incoming.said:
            case Asked("help"):
                await chat.send(to, *self.script.pop(0))
            case Asked("train"):
                await chat.send(to, r.AskConsent("2026-11"), language)
            case Pressed(Choice("agree")):
                await chat.send(to, r.CollectingPhotos("session", (), 5, 20, False, False), language)
            case Asked("portrait"):
                await chat.send(to, r.PortraitsReady("job", PORTRAITS[:1], 2.0, 3), language)
            case Asked("templates"):
                await chat.send(to, r.Gallery(template, 0, 3, "studio", ("studio", "film"), True), language)
            case Pressed(Choice("gallery")) if incoming.pressed:
                await chat.update(incoming.pressed, r.Gallery(template, 1, 3, "studio", ("studio",), True), language)
            case Pressed(Choice("others")):
                await chat.send(to, r.OtherCandidates("job", PORTRAITS[1:]), language)
            case Pressed(Choice("original")):
                await chat.send(to, r.OriginalFile(PORTRAITS[0]), language)
            case Pressed():
                return r.OutOfDate()
            case _:
                pass
        return None


def client(app: ScriptedApp) -> Client:
    made = Client(app, secret_of("discord.token"))
    made.shard_count = 1
    return made


@asynccontextmanager
async def simulated(folder: Path) -> AsyncIterator[tuple[Any, ScriptedApp, Any, Any]]:
    """The environment, the app, a channel of a server, and a member."""
    blobs = open_blobs(str(folder))
    for portrait in PORTRAITS:
        await blobs.put(portrait.key, selfie(1))
    await blobs.put(load_templates().templates[0].key, selfie(2))
    settings = Settings(_env_file=None, discord_token=SecretStr("discord.token"))  # type: ignore[call-arg]
    app = ScriptedApp(blobs, settings)
    async with simcord.run(client(app)) as env:
        guild = env.create_guild()
        yield env, app, guild.create_text_channel("general"), guild.add_member(env.create_user("anna"))


async def test_photos_by_options_and_by_dialog(tmp_path: Path) -> None:
    async with simulated(tmp_path) as (_, app, channel, anna):
        photos = {f"photo{n}": (f"{n}.jpg", selfie(n)) for n in range(1, 21)}
        result = await anna.slash(channel, "train", agree=True, **photos)
        assert result.ephemeral
        assert [type(said) for said in app.heard] == [Pressed, *[SentPicture] * 20]
        app.heard.clear()

        dialog = await anna.slash(channel, "train")
        files = [(f"{n}.jpg", selfie(n)) for n in range(10)]
        await anna.submit_modal(dialog, {"first": files, "second": files[:3], "agree": ["2026-11"]})
        assert [type(said) for said in app.heard] == [Pressed, *[SentPicture] * 13]
        app.heard.clear()

        question = await anna.slash(channel, "train", photo1=photos["photo1"])
        await anna.click(question.response, label="I agree")
        assert [type(said) for said in app.heard] == [Asked, Pressed, SentPicture]


async def test_gallery_results_and_buttons_after_a_restart(tmp_path: Path) -> None:
    async with simulated(tmp_path) as (env, app, channel, anna):
        typed = load_templates().templates[0].title["en"][:3]
        assert await anna.autocomplete(channel, "portrait", "template", typed)
        gallery = await anna.slash(channel, "templates")
        await anna.click(gallery.response, label="›")
        assert "2 of 3" in str(gallery.response.components)
        result = await anna.slash(channel, "portrait", template="any")
        assert len(result.response.attachments) == 1
        others = await anna.click(result.response, label="3 other candidates")
        assert len(others.followups[0].attachments) == 3
        await env.restart_bot(client(app))
        original = await anna.click(result.response, label="Full size")
        assert len(original.followups[0].attachments) == 1
        again = await anna.click(result.response, label="Again")
        assert again.followups[0].content == "This button is out of date."


@pytest.mark.parametrize("language", ["en", "zh"])
async def test_every_reply_is_taken(tmp_path: Path, language: Language) -> None:
    """SimCord refuses what Discord refuses: components, their numbers and lengths, custom ids, attachments."""
    async with simulated(tmp_path) as (_, app, channel, anna):
        app.blobs = AnyPicture()
        for reply in REPLIES:
            app.script = [(reply, language)]
            result = await anna.slash(channel, "help")
            assert result.ephemeral
            assert result.response.components, type(reply).__name__


class AnyPicture:
    async def get(self, key: str) -> bytes:
        return selfie(1)
