"""What chats deliver: updates of Telegram, interactions of Discord, the data of buttons. The frontends are the real
ones up to the network; what they tell the core is noted."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
from collections.abc import Mapping
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import discord
import telegram
from telegram import Update
from telegram.error import BadRequest

from bot.callback import MAX_BYTES, ForgedButton, OldButton, pack, secret_of, unpack
from bot.core import App, Incoming
from bot.discord_chat.chat import DiscordChat
from bot.discord_chat.talk import Talk
from bot.domain import Address
from bot.replies import Choice, Reply
from bot.telegram_chat.application import add_handlers, build
from bot.telegram_chat.chat import TelegramChat
from bot.telegram_chat.handlers import Handlers
from bot.telegram_chat.inbox import InboxQueue
from tests.fuzz.mutations import NUMBERS, damaged, json_bytes, spoiled, text

SECRET = secret_of("42:token")
PERSON = 1001
CHOICES = (
    Choice("use", "business"), Choice("cancel_job", "k3j2h1g4f5d6s7a8"), Choice("gallery", "studio.3"),
    Choice("agree", "2026-11"), Choice("train"), Choice("results", "12"), Choice("forget_yes"),
)  # fmt: skip


class Buttons:
    """A button is understood only by the person it was made for, and only as it was made."""

    name = "button"
    longest_s = 30.0

    def make(self, draw: Random) -> tuple[Choice, str, str]:
        choice = draw.choice(CHOICES) if draw.random() < 0.7 else Choice("use", text(draw))
        try:
            packed = pack(choice, str(PERSON), SECRET)
        except ValueError:
            return choice, text(draw), str(PERSON)
        kind = draw.random()
        if kind < 0.1:
            return choice, packed, str(PERSON)
        if kind < 0.2:
            return choice, packed, draw.choice((str(PERSON + 1), "", f"{PERSON}|", f"0{PERSON}", text(draw)))
        if kind < 0.4:
            return choice, text(draw), str(PERSON)
        return choice, spoiled(draw, packed.encode(), (b"1:use:", b":", b"2:")).decode("utf-8", "replace"), str(PERSON)

    def feed(self, made: tuple[Choice, str, str]) -> str:
        choice, data, person = made
        try:
            found = unpack(data, person, SECRET)
        except OldButton:
            return "old"
        except ForgedButton:
            return "forged"
        assert (found, person, data) == (choice, str(PERSON), pack(choice, str(PERSON), SECRET))
        assert len(data.encode()) <= MAX_BYTES
        return "understood"

    def close(self) -> None: ...


class HeardApp:
    """The core's place: notes what it is told. `core.App`, and the inbox of it."""

    def __init__(self) -> None:
        self.heard: list[Incoming] = []
        self.inbox = self
        self.rows: dict[int, str] = {}

    async def handle(self, incoming: Incoming) -> Reply | None:
        self.heard.append(incoming)
        return None

    async def store(self, platform: str, raws: Mapping[int, str]) -> set[int]:
        new = raws.keys() - self.rows.keys()
        self.rows.update(raws)
        return new

    async def done(self, platform: str, update_id: int) -> None:
        self.rows.pop(update_id, None)

    async def pending(self, platform: str) -> list[str]:
        return list(self.rows.values())


class _Offline(telegram.Bot):
    """Telegram's server says no to everything, but the client is the real one."""

    async def get_file(self, *_: Any, **__: Any) -> telegram.File:
        raise BadRequest("file is too big")

    async def answer_callback_query(self, *_: Any, **__: Any) -> bool:
        return True


_USER = {"id": PERSON, "is_bot": False, "first_name": "Anna", "username": "anna", "language_code": "en"}
_CHAT = {"id": PERSON, "type": "private", "first_name": "Anna"}
_MESSAGE = {"message_id": 7, "date": 1_700_000_000, "chat": _CHAT, "from": _USER}
_PHOTO = {"file_id": "f1", "file_unique_id": "u1", "width": 90, "height": 60, "file_size": 1000}
_DOCUMENT = {"file_id": "f2", "file_unique_id": "u2", "file_name": "me.heic", "mime_type": "image/heic", "file_size": 5}
_COMMAND = [{"type": "bot_command", "offset": 0, "length": 6}]
UPDATES: tuple[dict[str, Any], ...] = (
    {"message": {**_MESSAGE, "text": "/train Anna", "entities": _COMMAND}},
    {"message": {**_MESSAGE, "text": "hello"}},
    {"message": {**_MESSAGE, "photo": [_PHOTO, {**_PHOTO, "width": 900}], "media_group_id": "9", "caption": "me"}},
    {"message": {**_MESSAGE, "document": _DOCUMENT}},
    {
        "message": {
            **_MESSAGE,
            "animation": {**_DOCUMENT, "width": 1, "height": 1, "duration": 1},
            "document": _DOCUMENT,
        }
    },
    {"message": {**_MESSAGE, "voice": {"file_id": "f3", "file_unique_id": "u3", "duration": 1}}},
    {"message": {**_MESSAGE, "contact": {"phone_number": "1", "first_name": "x"}}},
    {
        "message": {
            **_MESSAGE,
            "chat": {"id": -5, "type": "group", "title": "g"},
            "text": "/train",
            "entities": _COMMAND,
        }
    },
    {
        "callback_query": {
            "id": "1",
            "from": _USER,
            "chat_instance": "1",
            "message": _MESSAGE,
            "data": pack(CHOICES[0], str(PERSON), SECRET),
        }
    },
    {"callback_query": {"id": "1", "from": _USER, "chat_instance": "1", "data": "1:use:x:AAAAAAAA"}},
)


class TelegramUpdates:
    """Updates as Telegram builds them, full of what people put into them; and stored ones that were damaged."""

    name = "telegram update"
    longest_s = 30.0

    def __init__(self) -> None:
        logging.getLogger("bot").setLevel(logging.CRITICAL)
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self.app = HeardApp()
        core = cast(App, self.app)
        settings = SimpleNamespace(telegram_api_url="http://127.0.0.1:1")
        self._queue = InboxQueue(self.app)
        self._application = build(
            cast(Any, SimpleNamespace(settings=settings, inbox=self.app)), "42:token", self._queue
        )
        self._bot = _Offline("42:token")
        self._bot._bot_user = telegram.User(42, "Studio", True, username="studio_bot")
        self._application.bot = self._bot
        self._application._initialized = True
        self._errors: list[BaseException | None] = []
        handlers = _NotingHandlers(core, TelegramChat(self._bot, core, SECRET), SECRET)
        handlers.errors.clear()
        self._errors = handlers.errors
        add_handlers(self._application, handlers)

    def make(self, draw: Random) -> tuple[dict[str, Any], bytes]:
        update = copy.deepcopy(draw.choice(UPDATES))
        for holder in _objects(update):
            for key, was in list(holder.items()):
                if draw.random() < 0.15 and key in _SAID:
                    holder[key] = text(draw).encode("utf-8", "replace").decode()[: _SAID[key]]
                elif draw.random() < 0.05 and key in ("file_size", "width", "height") and isinstance(was, int):
                    holder[key] = draw.choice([n for n in NUMBERS if isinstance(n, int) and 0 <= n <= 2**52])
                elif draw.random() < 0.05 and key in _OPTIONAL:
                    del holder[key]
            if draw.random() < 0.05:
                holder["new_in_api_12"] = {"x": [1]}
        update["update_id"] = draw.randrange(2**31)
        return update, json_bytes(draw, update)

    def feed(self, made: tuple[dict[str, Any], bytes]) -> str:
        return self._loop.run_until_complete(self._feed(*made))

    async def _feed(self, data: dict[str, Any], stored: bytes) -> str:
        self._drain()
        update = Update.de_json(data, self._bot)
        await self._queue.store([update])
        await self._queue.put(update)
        (raw,) = self.app.rows.values()
        json.dumps(raw).encode()
        again = Update.de_json(json.loads(raw), self._bot)
        assert again.to_dict() == update.to_dict()
        self.app.heard.clear()
        await self._application.process_update(update)
        if self._errors:
            raise self._errors.pop() or AssertionError("a handler failed")
        for incoming in self.app.heard:
            assert incoming.address.person == str(update.effective_user.id if update.effective_user else "")
        self._drain()
        self.app.rows[1] = stored.decode("utf-8", "replace")
        replayed = await self._queue.replay(self._bot)
        self._drain()
        return f"{'heard' if self.app.heard else 'not for us'}, stored one {'read' if replayed else 'put away'}"

    def _drain(self) -> None:
        self.app.rows.clear()
        while not self._queue.empty():
            self._queue.get_nowait()

    def close(self) -> None:
        self._loop.close()


_SAID = {
    "text": 4096, "caption": 1024, "file_name": 255, "mime_type": 100, "first_name": 64, "username": 32,
    "language_code": 8, "title": 128, "data": 64, "media_group_id": 64,
}  # fmt: skip
_OPTIONAL = {
    "username",
    "language_code",
    "file_name",
    "mime_type",
    "file_size",
    "entities",
    "caption",
    "media_group_id",
    "data",
}


def _objects(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, dict):
        return [node, *(found for part in node.values() for found in _objects(part))]
    return [found for part in node for found in _objects(part)] if isinstance(node, list) else []


class _NotingHandlers(Handlers):
    errors: list[BaseException | None] = []  # noqa: RUF012

    async def error(self, update: object, context: Any) -> None:
        self.errors.append(context.error)


_ATTACHMENT = {
    "id": "5", "filename": "me.jpg", "size": 1000, "url": "http://127.0.0.1:1/x", "proxy_url": "http://127.0.0.1:1/x",
    "content_type": "image/jpeg", "ephemeral": True,
}  # fmt: skip
DATA: tuple[tuple[int, dict[str, Any]], ...] = (
    (3, {"custom_id": pack(CHOICES[0], str(PERSON), SECRET), "component_type": 2}),
    (3, {"custom_id": "1:use:x:AAAAAAAA", "component_type": 2}),
    (
        5,
        {
            "custom_id": "photos",
            "components": [
                {"type": 18, "component": {"type": 19, "custom_id": "first", "values": ["5"]}},
                {"type": 18, "component": {"type": 19, "custom_id": "second", "values": []}},
                {"type": 18, "component": {"type": 22, "custom_id": "agree", "values": ["2026-11"]}},
            ],
            "resolved": {"attachments": {"5": _ATTACHMENT}},
        },
    ),
    (5, {"custom_id": "template", "components": [], "resolved": {}}),
)


class Interactions:
    """Buttons and dialogs of Discord, with anything in them: answered, and the frontend goes on."""

    name = "discord interaction"
    longest_s = 30.0

    def __init__(self) -> None:
        logging.getLogger("bot").setLevel(logging.CRITICAL)
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self.app = HeardApp()
        core = cast(App, self.app)
        self._client = discord.Client(intents=discord.Intents.none())
        self._client.http.get_from_cdn = _not_there  # type: ignore[method-assign]
        self._talk = _NotingTalk(core, DiscordChat(self._client, core, SECRET), SECRET, 20_000_000)

    def make(self, draw: Random) -> tuple[int, Any]:
        kind, data = draw.choice(DATA)
        changed = damaged(draw, data, most=draw.choice((1, 1, 3))) if draw.random() < 0.9 else data
        return kind, changed if isinstance(changed, dict) else {}

    def feed(self, made: tuple[int, Any]) -> str:
        return self._loop.run_until_complete(self._feed(*made))

    async def _feed(self, kind: int, data: Any) -> str:
        user = {"id": str(PERSON), "username": "anna", "discriminator": "0", "global_name": None, "avatar": None}
        payload: Any = {
            "id": "77", "application_id": "1", "type": kind, "token": "t", "version": 1, "data": data,
            "channel_id": "9", "channel": {"id": "9", "type": 1, "recipients": [user]}, "user": user,
            "locale": "en-US", "app_permissions": "0", "entitlements": [], "context": 1, "attachment_size_limit": 1,
            "authorizing_integration_owners": {"1": str(PERSON)},
        }  # fmt: skip
        interaction: Any = _Interaction(data=payload, state=self._client._connection)
        interaction._cs_response, interaction._cs_followup = _Answers(), _Answers()
        self.app.heard.clear()
        talk = self._talk
        await talk.guarded(interaction, talk.press(interaction) if kind == 3 else talk.submit(interaction))
        for task in talk.tasks:
            task.cancel()
        if talk.errors:
            raise talk.errors.pop()
        assert all(incoming.address == Address("discord", str(PERSON), str(PERSON)) for incoming in self.app.heard)
        return "heard" if self.app.heard else "answered"

    def close(self) -> None:
        self._loop.close()


class _Interaction(discord.Interaction[Any]):
    """Its own message can be changed, and nothing is sent."""

    async def edit_original_response(self, **_: Any) -> Any:
        return None

    async def delete_original_response(self) -> None:
        return None


class _Answers:
    """An interaction's answers, all taken."""

    def __getattr__(self, name: str) -> Any:
        async def taken(*_: Any, **__: Any) -> None:
            return None

        return taken if name != "is_done" else lambda: True


class _NotingTalk(Talk):
    errors: list[Exception] = []  # noqa: RUF012

    async def apologise(self, interaction: Any, error: Exception) -> None:
        self.errors.append(error)


async def _not_there(url: str) -> bytes:
    raise discord.NotFound(cast(Any, SimpleNamespace(status=404, reason="Not Found")), "gone")
