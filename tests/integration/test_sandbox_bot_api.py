"""The sandbox answers as Telegram does: effects, limits and the sentences of refusals."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, FormData
from PIL import Image

from bot.sandbox import bot_api
from bot.sandbox.person import Person
from bot.sandbox.server import Sandbox
from bot.sandbox.transcript import Transcript
from bot.sandbox.visit import Visitor


def picture(width: int = 64, height: int = 48, kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(out, kind)
    return out.getvalue()


class Bot:
    def __init__(self, sandbox: Sandbox, http: ClientSession) -> None:
        self._base, self._http = f"{sandbox.url}/bot{sandbox.token}", http

    async def ask(self, method: str, **params: Any) -> Any:
        """The whole answer; bytes become uploads, the rest travels as a form with JSON values."""
        form = FormData(default_to_multipart=True)
        for name, value in params.items():
            if isinstance(value, bytes):
                form.add_field(name, value, filename=f"{name}.jpg", content_type="image/jpeg")
            else:
                form.add_field(name, value if isinstance(value, str) else json.dumps(value))
        async with self._http.post(f"{self._base}/{method}", data=form) as response:
            answer = await response.json()
            assert response.status == (200 if answer["ok"] else answer["error_code"])
            return answer

    async def ok(self, method: str, **params: Any) -> Any:
        answer = await self.ask(method, **params)
        assert answer["ok"], answer
        return answer["result"]

    async def refused(self, method: str, **params: Any) -> str:
        answer = await self.ask(method, **params)
        assert not answer["ok"], answer
        return str(answer["description"])


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as server:
        yield server


@pytest.fixture
async def bot(sandbox: Sandbox) -> AsyncIterator[Bot]:
    async with ClientSession() as http, Person(sandbox.url, 7) as person:
        await person.say("/start")
        yield Bot(sandbox, http)


async def test_updates_are_kept_until_they_are_confirmed(bot: Bot, sandbox: Sandbox) -> None:
    (first,) = await bot.ok("getUpdates")
    assert first["message"]["text"] == "/start"
    assert first["message"]["entities"] == [{"type": "bot_command", "offset": 0, "length": 6}]
    assert await bot.ok("getUpdates") == [first]
    assert await bot.ok("getUpdates", offset=first["update_id"] + 1) == []
    async with Person(sandbox.url, 7) as person:
        waiting = asyncio.create_task(bot.ok("getUpdates", timeout=50))
        await asyncio.sleep(0.1)
        await person.say("hello")
        assert (await waiting)[0]["message"]["text"] == "hello"


async def test_a_second_poller_throws_out_the_first(bot: Bot, sandbox: Sandbox) -> None:
    await bot.ok("getUpdates", offset=-1)
    offset = (await bot.ok("getUpdates"))[0]["update_id"] + 1
    first = asyncio.create_task(bot.refused("getUpdates", offset=offset, timeout=50))
    while sandbox.world.memory.updates:  # noqa: ASYNC110 - it confirms them once it is there
        await asyncio.sleep(0.01)
    await bot.ok("getUpdates", offset=offset, timeout=0)
    assert (await first).startswith("Conflict: terminated by other getUpdates")


def keys(**button: str) -> dict[str, Any]:
    return {"inline_keyboard": [[button]]}


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"text": ""}, "message text is empty"),
        ({"text": "x" * 4097}, "message is too long"),
        ({"text": "<b>x", "parse_mode": "HTML"}, "can't parse entities: Can't find end tag"),
        ({"text": "<x>y</x>", "parse_mode": "HTML"}, "can't parse entities: Unsupported start tag"),
        ({"text": "x", "chat_id": 999}, "chat not found"),
        ({"text": "x", "reply_markup": keys(text="a", callback_data="ü" * 33)}, "BUTTON_DATA_INVALID"),
        ({"text": "x", "reply_markup": keys(text="a")}, "Text buttons are unallowed"),
    ],
)
async def test_texts_and_buttons_have_telegrams_limits(bot: Bot, params: dict[str, Any], sentence: str) -> None:
    assert sentence in await bot.refused("sendMessage", **{"chat_id": 7, **params})
    assert await bot.ok("sendMessage", chat_id=7, text="<b>" + "x" * 4096 + "</b>", parse_mode="HTML")


async def test_photos_have_telegrams_limits_and_are_recompressed(bot: Bot) -> None:
    assert "too long" in await bot.refused("sendPhoto", chat_id=7, photo=picture(), caption="x" * 1025)
    assert "IMAGE_PROCESS_FAILED" in await bot.refused("sendPhoto", chat_id=7, photo=b"words")
    assert "PHOTO_INVALID_DIMENSIONS" in await bot.refused("sendPhoto", chat_id=7, photo=picture(2100, 100))
    assert "PHOTO_INVALID_DIMENSIONS" in await bot.refused("sendPhoto", chat_id=7, photo=picture(9000, 1001))
    sent = await bot.ok("sendPhoto", chat_id=7, photo=picture(2600, 1300, "PNG"))
    assert [(s["width"], s["height"]) for s in sent["photo"]] == [(90, 45), (320, 160), (800, 400), (1280, 640)]
    file = await bot.ok("getFile", file_id=sent["photo"][-1]["file_id"])
    async with bot._http.get(f"{bot._base.replace('/bot', '/file/bot', 1)}/{file['file_path']}") as response:
        assert Image.open(io.BytesIO(await response.read())).format == "JPEG"
    again = await bot.ok("sendPhoto", chat_id=7, photo=sent["photo"][-1]["file_id"])
    assert again["photo"] == sent["photo"]
    assert "wrong file identifier" in await bot.refused("sendPhoto", chat_id=7, photo="nothing")
    assert "as Document" in await bot.refused("sendDocument", chat_id=7, document=sent["photo"][-1]["file_id"])


async def test_albums_have_two_to_ten_pictures_and_no_buttons(bot: Bot) -> None:
    def album(count: int) -> dict[str, Any]:
        media = [{"type": "photo", "media": f"attach://p{i}", "caption": str(i)} for i in range(count)]
        return {"media": media, **{f"p{i}": picture() for i in range(count)}}

    assert "2-10" in await bot.refused("sendMediaGroup", chat_id=7, **album(1))
    assert "2-10" in await bot.refused("sendMediaGroup", chat_id=7, **album(11))
    sent = await bot.ok("sendMediaGroup", chat_id=7, **album(3))
    assert [m["caption"] for m in sent] == ["0", "1", "2"]
    assert len({m["media_group_id"] for m in sent}) == 1
    broken = {**album(2), "p1": b"words"}
    assert "IMAGE_PROCESS_FAILED" in await bot.refused("sendMediaGroup", chat_id=7, **broken)


async def test_edits_are_refused_as_telegram_refuses_them(bot: Bot, sandbox: Sandbox) -> None:
    markup = keys(text="a", callback_data="a")
    text = await bot.ok("sendMessage", chat_id=7, text="one", reply_markup=markup)
    here = {"chat_id": 7, "message_id": text["message_id"]}
    assert "message is not modified" in await bot.refused("editMessageText", **here, text="one", reply_markup=markup)
    edited = await bot.ok("editMessageText", **here, text="one")
    assert "reply_markup" not in edited
    assert edited["edit_date"]
    assert "message to edit not found" in await bot.refused("editMessageText", chat_id=7, message_id=1, text="x")
    assert "no caption" in await bot.refused("editMessageCaption", **here, caption="x")
    mine = next(m for m in sandbox.world.chat(7).messages.values() if not m["from"]["is_bot"])
    assert "can't be edited" in await bot.refused("editMessageText", chat_id=7, message_id=mine["message_id"], text="x")
    media = {"type": "photo", "media": "attach://p", "caption": "<i>two</i>", "parse_mode": "HTML"}
    changed = await bot.ok("editMessageMedia", **here, media=media, p=picture())
    assert changed["caption"] == "two"
    assert "no text" in await bot.refused("editMessageText", **here, text="x")
    assert (await bot.ok("editMessageCaption", **here, caption="three"))["photo"] == changed["photo"]
    assert await bot.ok("deleteMessage", **here)
    assert "message to delete not found" in await bot.refused("deleteMessage", **here)


async def test_a_chat_that_is_flooded_answers_429(bot: Bot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bot_api, "PER_SECOND", 0.001)  # nothing is forgiven while they are sent
    answers = await asyncio.gather(*(bot.ask("sendMessage", chat_id=7, text=str(i)) for i in range(25)))
    late = [a for a in answers if not a["ok"]]
    assert len(late) == 5
    assert late[0]["error_code"] == 429
    assert late[0]["parameters"]["retry_after"] >= 1


async def test_who_blocks_the_bot_hears_nothing_more(bot: Bot, sandbox: Sandbox) -> None:
    async with Person(sandbox.url, 7) as person:
        await person.block()
        assert await bot.refused("sendMessage", chat_id=7, text="x") == "Forbidden: bot was blocked by the user"
        await person.say("back again")
        assert await bot.ok("sendMessage", chat_id=7, text="x")


async def test_the_token_and_unknown_methods_are_refused(bot: Bot, sandbox: Sandbox) -> None:
    assert await bot.refused("sendGame", chat_id=7) == "Not Found"
    async with ClientSession() as http, http.get(f"{sandbox.url}/bot1:x/getMe") as response:
        assert response.status == 401


async def test_another_site_cannot_write_in_the_persons_name(sandbox: Sandbox) -> None:
    async with ClientSession(headers={"Origin": "https://evil.example"}) as http:
        response = await http.post(f"{sandbox.url}/person/1001/message", json={"text": "/forget"})
        assert response.status == 403
    async with ClientSession(headers={"Host": "evil.example"}) as http:
        assert (await http.get(f"{sandbox.url}/person/1001/history")).status == 403


async def test_a_sandbox_in_a_folder_goes_on_where_it_was(tmp_path: Path) -> None:
    async with Sandbox(folder=tmp_path) as sandbox, Person(sandbox.url, 7) as person:
        await person.say("before")
        await person.send_photos([("a.jpg", picture())])
    async with Sandbox(folder=tmp_path) as sandbox, Person(sandbox.url, 7) as person, ClientSession() as http:
        assert len(person.messages) == 2
        photo = next(m for m in person.messages.values() if "photo" in m)
        assert await person.media(photo["photo"][0]["file_id"])
        updates = await Bot(sandbox, http).ok("getUpdates")
        assert [u["message"].get("text") for u in updates] == ["before", None]


async def test_an_outcome_that_comes_before_the_visitor_waits_for_it_is_found(bot: Bot, sandbox: Sandbox) -> None:
    world = sandbox.world

    def shows(action: str) -> dict[str, Any]:
        return {"text": action, "reply_markup": keys(text=action, callback_data=f"1:{action}:job000001:signature")}

    async def never() -> bool:
        return False

    async with Person(sandbox.url, 7) as person:
        visitor = Visitor(person, Transcript(lambda line: None))
        photos = await world.add_message(7, world.bot, shows("start"))
        ordering = asyncio.create_task(visitor.order(photos, "start"))
        (update,) = await bot.ok("getUpdates", offset=-1, timeout=50)
        if "callback_query" not in update:
            (update,) = await bot.ok("getUpdates", offset=update["update_id"] + 1, timeout=50)
        for action in ("cancel_job", "gallery"):
            await world.add_message(7, world.bot, shows(action))
        await person.wait_message(lambda message: message["text"] == "gallery", 30)
        await bot.ok("answerCallbackQuery", callback_query_id=update["callback_query"]["id"])
        assert await ordering == "job000001"
        assert (await visitor.outcome("trained model", "gallery", never, 30))["text"] == "gallery"
