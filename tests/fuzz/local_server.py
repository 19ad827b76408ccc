"""Calls of the sandbox, the server on this machine that stands in for Telegram."""

from __future__ import annotations

import asyncio
import contextlib
import html
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from bot.sandbox.bot_api import BotApi
from bot.sandbox.calls import ApiError, Call, Upload
from bot.sandbox.markup import MarkupError, parse_html
from bot.sandbox.world import World
from tests.fuzz.mutations import damaged, spoiled, text

BUTTONS = {"inline_keyboard": [[{"text": "x", "callback_data": "1"}, {"text": "y", "url": "https://x"}]]}
CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("sendMessage", {"chat_id": 7, "text": "<b>hello</b>", "parse_mode": "HTML", "reply_markup": BUTTONS}),
    ("sendMessage", {"chat_id": 7, "text": "x", "reply_parameters": {"message_id": 1}, "entities": []}),
    ("sendPhoto", {"chat_id": 7, "photo": "file1", "caption": "c", "has_spoiler": True}),
    ("sendDocument", {"chat_id": 7, "document": "attach://a"}),
    ("sendMediaGroup", {"chat_id": 7, "media": [{"type": "photo", "media": "file1"}, {"type": "photo", "media": "x"}]}),
    ("editMessageText", {"chat_id": 7, "message_id": 1, "text": "y"}),
    ("editMessageMedia", {"chat_id": 7, "message_id": 1, "media": {"type": "photo", "media": "attach://a"}}),
    ("editMessageCaption", {"chat_id": 7, "message_id": 1, "caption": "y"}),
    ("deleteMessage", {"chat_id": 7, "message_id": 1}),
    ("deleteMessages", {"chat_id": 7, "message_ids": [1, 2]}),
    ("answerCallbackQuery", {"callback_query_id": "1", "text": "x"}),
    ("setMyCommands", {"commands": [{"command": "train", "description": "x"}], "language_code": "zh"}),
    ("setMessageReaction", {"chat_id": 7, "message_id": 1, "reaction": [{"type": "emoji", "emoji": "x"}]}),
    ("getUpdates", {"offset": 1, "timeout": 0, "allowed_updates": ["message"]}),
    ("getFile", {"file_id": "file1"}),
)  # fmt: skip
RENEW_AFTER = 2_000


class SandboxCalls:
    """Any call is answered or refused as Telegram refuses, and its markup is read or refused."""

    name = "sandbox call"
    longest_s = 30.0

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._fed = 0
        self._open()

    def _open(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fuzz-sandbox-")
        self._world = World(Path(self._folder.name))
        self._api = BotApi(self._world, is_polite_only=False)
        self._loop.run_until_complete(
            self._world.add_message(self._world.chat(7).info["id"], self._world.bot, {"text": "a"})
        )

    def make(self, draw: Random) -> tuple[str, dict[str, Any], str]:
        method, parameters = draw.choice(CALLS)
        changed = damaged(draw, parameters, most=draw.choice((1, 1, 3))) if draw.random() < 0.9 else parameters
        if method == "getUpdates" and isinstance(changed, dict):
            changed["timeout"] = draw.choice((0, -1, "", None, "x", []))  # a longer one waits, as it should
        markup = spoiled(
            draw, b"<b>x <i>y</i></b> <a href='https://x'>&lt;z&#64;</a>", (b"<", b"</b>", b"&#", b"<pre>")
        )
        return method, changed if isinstance(changed, dict) else {}, markup.decode("utf-8", "replace") + text(draw)

    def feed(self, made: tuple[str, dict[str, Any], str]) -> str:
        self._fed += 1
        if self._fed % RENEW_AFTER == 0:
            self._folder.cleanup()
            self._open()
        method, parameters, markup = made
        with contextlib.suppress(MarkupError):
            parse_html(markup)
        assert parse_html(html.escape(markup))[0] == markup
        upload = {"a": Upload("a.jpg", "image/jpeg", b"no picture")}
        try:
            self._loop.run_until_complete(self._api.answer(Call(method, parameters, upload)))
        except ApiError as error:
            return "refused" if 400 <= error.code < 500 else f"answered {error.code}"
        return "answered"

    def close(self) -> None:
        self._loop.close()
        self._folder.cleanup()
