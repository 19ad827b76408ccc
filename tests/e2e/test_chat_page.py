"""The chat page in a real browser: what a person does there arrives, and what the bot says is drawn."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, FormData
from PIL import Image

from bot.sandbox.server import Sandbox
from tests.e2e.chromium import Page, find_chromium

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="needs Chromium: apt-get install chromium")

BUBBLES = "document.querySelectorAll('.bubble:not(:has(.typing))').length"


def jpeg(color: str, size: tuple[int, int] = (300, 200)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, "JPEG")
    return out.getvalue()


class Bot:
    """Speaks the Bot API by hand."""

    def __init__(self, sandbox: Sandbox, http: ClientSession) -> None:
        self._base, self._http = f"{sandbox.url}/bot{sandbox.token}", http
        self._offset = 0

    async def ask(self, method: str, **params: Any) -> Any:
        form = FormData(default_to_multipart=True)
        for name, value in params.items():
            if isinstance(value, bytes):
                form.add_field(name, value, filename="p.jpg", content_type="image/jpeg")
            else:
                form.add_field(name, value if isinstance(value, str) else json.dumps(value))
        async with self._http.post(f"{self._base}/{method}", data=form) as response:
            answer = await response.json()
            assert answer["ok"], answer
            return answer["result"]

    async def update(self) -> Any:
        (update, *_) = await self.ask("getUpdates", offset=self._offset, timeout=10, limit=1)
        self._offset = update["update_id"] + 1
        return update


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as server:
        yield server


@pytest.fixture
async def bot(sandbox: Sandbox) -> AsyncIterator[Bot]:
    async with ClientSession() as http:
        bot = Bot(sandbox, http)
        await bot.ask("setMyCommands", commands=[{"command": "train", "description": "Train"}])
        await bot.ask("setMyCommands", commands=[{"command": "train", "description": "训练"}], language_code="zh")
        yield bot


@pytest.fixture
async def page(sandbox: Sandbox) -> AsyncIterator[Page]:
    async with Page(1000, 800) as page:
        await page.open(sandbox.url)
        await page.until("document.getElementById('start').offsetHeight > 0")
        yield page
        assert not page.problems


async def test_a_conversation_by_mouse_and_keyboard(page: Page, bot: Bot, tmp_path: Path) -> None:
    await page.run("document.getElementById('start').click()")
    assert (await bot.update())["message"]["text"] == "/start"
    await page.until(f"{BUBBLES} === 1")

    # Text, with Enter; the menu of commands, by keyboard.
    await page.run("document.getElementById('text').focus()")
    await page.type("hello <b>you</b>")
    await page.key("Enter", 13)
    assert (await bot.update())["message"]["text"] == "hello <b>you</b>"
    await page.type("/tr")
    await page.until("!document.getElementById('commands').hidden")
    await page.key("ArrowDown", 40)
    await page.key("Enter", 13)
    assert (await bot.update())["message"]["text"] == "/train"

    # Photos through the file picker: previews first, then one album.
    photos = [tmp_path / f"{i}.jpg" for i in range(3)]
    for photo, color in zip(photos, ("red", "green", "blue"), strict=True):
        photo.write_bytes(jpeg(color))
    await page.choose_files("#files", photos)
    await page.until("document.querySelectorAll('#previews img').length === 3")
    await page.run("document.getElementById('upload-send').click()")
    album = [(await bot.update())["message"] for _ in photos]
    assert len({m["media_group_id"] for m in album}) == 1
    await page.until("document.querySelectorAll('.mosaic img').length === 3")
    await page.choose_files("#files", photos[:1])
    await page.run("document.getElementById('as-file').click()")
    await page.run("document.getElementById('upload-send').click()")
    assert (await bot.update())["message"]["document"]["file_name"] == "0.jpg"

    # A picture large, and closed again.
    await page.run("document.querySelector('.mosaic a').click()")
    await page.until("document.getElementById('big').naturalWidth > 0")
    await page.run("document.getElementById('big-close').click()")
    await page.until("!document.getElementById('lightbox').open")


async def test_buttons_alerts_bars_and_pages_of_pictures(page: Page, bot: Bot) -> None:
    await page.run("document.getElementById('start').click()")
    await bot.update()
    keys = {"inline_keyboard": [[{"text": "Next", "callback_data": "next"}]]}
    sent = await bot.ask(
        "sendPhoto", chat_id=1001, photo=jpeg("red"), caption="<b>1</b> of 2", parse_mode="HTML", reply_markup=keys
    )
    await page.until("document.querySelector('.words b')?.textContent === '1'")
    await page.run("document.querySelector('.keyboard button').click()")
    query = (await bot.update())["callback_query"]
    assert query["data"] == "next"
    assert await page.run("document.querySelector('.keyboard .waiting') !== null")
    media = {"type": "photo", "media": "attach://p", "caption": "2 of 2"}
    here = {"chat_id": 1001, "message_id": sent["message_id"]}
    await bot.ask("editMessageMedia", **here, media=media, p=jpeg("blue"))
    await page.until("document.querySelector('.theirs .words').textContent === '2 of 2'")
    await page.until("document.querySelectorAll('.media img').length === 1")
    await bot.ask("answerCallbackQuery", callback_query_id=query["id"], text="Not yours", show_alert=True)
    await page.until("document.getElementById('alert').open")
    assert await page.run("document.getElementById('alert-text').textContent") == "Not yours"
    await page.run("document.querySelector('#alert button').click()")

    # The bar moves, and the picture above it stays the same element.
    await bot.ask("editMessageCaption", **here, caption="Training\n▰▰▱▱▱▱▱▱▱▱ 20 %\nstep 2 of 10")
    await page.until("document.querySelector('[role=progressbar]')?.ariaValueNow === '20'")
    await page.run("window.before = document.querySelector('.media img')")
    await bot.ask("editMessageCaption", **here, caption="Training\n▰▰▰▰▰▰▱▱▱▱ 60 %\nstep 6 of 10")
    await page.until("document.querySelector('[role=progressbar]')?.ariaValueNow === '60'")
    assert await page.run("window.before === document.querySelector('.media img')")
    assert await page.until("document.querySelector('.bar i').style.width === '60%'")

    # A message that the bot deletes is gone.
    await bot.ask("deleteMessage", **here)
    await page.until("!document.querySelector('.media')")


async def test_language_theme_and_restart(page: Page, bot: Bot, sandbox: Sandbox) -> None:
    await page.run("document.getElementById('language').click()")
    await page.until("document.documentElement.lang === 'zh'")
    await page.until("document.querySelector('#start').textContent === '开始'")
    await page.run("document.getElementById('start').click()")
    assert (await bot.update())["message"]["from"]["language_code"] == "zh"
    await page.until("!document.getElementById('composer').hidden")
    await page.run("document.getElementById('menu').click()")
    await page.until("document.querySelector('#commands span')?.textContent === '训练'")
    before = await page.run("document.documentElement.dataset.theme")
    await page.run("document.getElementById('theme').click()")
    assert await page.run("document.documentElement.dataset.theme") != before
    await page.open(sandbox.url)
    await page.until(f"{BUBBLES} === 1")
    assert await page.run("document.documentElement.dataset.theme") != before


async def test_the_page_fits_a_phone(sandbox: Sandbox, bot: Bot) -> None:
    async with Page(360, 740, is_dark=True) as page:
        await page.open(sandbox.url)
        await page.until("document.getElementById('start').offsetHeight > 0")
        await page.run("document.getElementById('start').click()")
        await bot.update()
        rows = [[{"text": f"A rather long button {i}{j}", "callback_data": "x"} for j in range(3)] for i in range(2)]
        await bot.ask("sendMessage", chat_id=1001, text="word " * 60 + "x" * 90, reply_markup={"inline_keyboard": rows})
        media = [{"type": "photo", "media": f"attach://p{i}"} for i in range(10)]
        await bot.ask("sendMediaGroup", chat_id=1001, media=media, **{f"p{i}": jpeg("teal") for i in range(10)})
        await page.until("document.querySelectorAll('.mosaic img').length === 10")
        assert await page.run("document.documentElement.dataset.theme") == "dark"
        wide = "[...document.querySelectorAll('#app *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
        assert await page.run(f"{wide}.map(e => e.className || e.tagName)") == []
        assert await page.run("document.getElementById('chat').scrollWidth <= innerWidth")
        assert not page.problems
