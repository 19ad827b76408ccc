"""Every request that we make of Telegram: known by its published list, complete, and taken by the sandbox."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from bot.chat import ChatError
from bot.domain import Address, Language
from bot.replies import Gallery, OriginalFile, Reply
from bot.sandbox.person import Person
from bot.sandbox.server import Sandbox
from bot.telegram_chat import pace
from tests.integration.test_sandbox_telegram import Listener, jpeg, running
from tests.telegram_methods import DATA, METHODS
from tests.unit.bot.test_telegram_render import OWN, REPLIES, TEMPLATE

Json = dict[str, Any]


class AnyPicture:
    async def get(self, key: str) -> bytes:
        return jpeg()


async def test_every_reply_is_sent_edited_and_deleted_by_the_published_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "PER_SECOND", 1000.0)  # the chat's pace has a test of its own
    published = json.loads(DATA.read_text("utf-8"))
    async with Sandbox(is_polite_only=False) as sandbox, Person(sandbox.url, 1001) as alice:
        app = Listener(sandbox.url, sandbox.token)
        app.blobs = AnyPicture()
        async with running(app):
            await alice.say("/start")
            await app.until(1)
            for language in get_args(Language):
                for reply in REPLIES:
                    await _show(app, reply, language)
            await _turn_a_page(app)
        calls = [*sandbox.world.calls]
    assert {call["method"] for call in calls} - {"getMe", "getFile", "getUpdates"} >= set(METHODS) - {
        "answerCallbackQuery", "deleteWebhook", "getFile", "getMe", "getUpdates"
    }  # fmt: skip
    assert len(calls) > 2 * len(REPLIES)
    wrong = {fault for call in calls for fault in _faults(call["method"], call["params"], published)}
    assert not wrong


async def _show(app: Listener, reply: Reply, language: Language) -> None:
    to = Address("telegram", "1001", "1001")
    refs = await app.port.send(to, reply, language)
    if not isinstance(reply, OriginalFile):
        refs = [*refs[:-1], await app.port.update(refs[-1], reply, language)]
    try:
        for ref in refs:
            await app.port.delete(ref)
    except ChatError:
        pytest.fail("a message could not be deleted")


UPLOADS = {"photo", "document", "media"}  # parts of a request, or parameters


async def _turn_a_page(app: Listener) -> None:
    pages = [Gallery(template, 0, 2, "studio", ("studio",), True) for template in (TEMPLATE, OWN)]
    (ref,) = await app.port.send(Address("telegram", "1001", "1001"), pages[0], "en")
    assert await app.port.update(ref, pages[1], "en") == ref


def _faults(method: str, params: Json, published: Json) -> Iterator[str]:
    known = published["methods"].get(method)
    if known is None:
        yield f"{method} is not published"
        return
    given = {name for name in params if not name.startswith("attached")} - UPLOADS
    yield from (f"{method} has no {name}" for name in given - set(known["required"]) - set(known["optional"]))
    yield from (f"{method} needs {name}" for name in set(known["required"]) - set(params) - UPLOADS)
    for value, kind in _typed(params):
        yield from _of_type(value, kind, published)


def _typed(params: Json) -> Iterator[tuple[Json, str]]:
    """The parameters that are objects, and their types."""
    keyboard = _decoded(params.get("reply_markup", "{}"))
    if keyboard:
        yield keyboard, "InlineKeyboardMarkup"
    for row in keyboard.get("inline_keyboard", ()):
        yield from ((button, "InlineKeyboardButton") for button in row)
    media = _decoded(params.get("media", "[]"))
    yield from ((item, "InputMediaPhoto") for item in (media if isinstance(media, list) else [media]))
    yield from ((command, "BotCommand") for command in _decoded(params.get("commands", "[]")))
    if "link_preview_options" in params:
        yield _decoded(params["link_preview_options"]), "LinkPreviewOptions"


def _of_type(value: Json, kind: str, published: Json) -> Iterator[str]:
    known = published["types"][kind]
    for name in set(value) - set(known["required"]) - set(known["optional"]):
        yield f"{kind} has no {name}"
    for name in set(known["required"]) - set(value):
        yield f"{kind} needs {name}"


def _decoded(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value
