"""Everything that a person does with the bot on Telegram, in one story: played by a test, photographed for the docs.

    python -m tests.e2e.telegram_story docs/img

The machine needs fonts with Chinese and emoji (apt-get install fonts-noto-cjk fonts-noto-color-emoji). The pictures
show the sandbox, the production bot, a real worker and the small profile's engine. The face is that of the sample
subject (engine/sample.py); show nobody who did not agree.
"""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from bot.db.database import Database
from bot.sandbox.local import local_studio
from bot.sandbox.person import Person, buttons, choice_in, find_button, words
from bot.sandbox.transcript import Transcript
from bot.sandbox.visit import Visitor
from bot.sandbox.world import Json
from tests.e2e.chromium import Page

WIDTH, HEIGHT, SCALE = 390, 780, 1.3
QUALITY = 82
Look = Callable[[str], Awaitable[None]]


@dataclass
class Story:
    """`look` takes a picture of the chat as it is. `pair` shows two people; `limit_s` is for the slowest job."""

    visitor: Visitor
    look: Look
    selfies: Sequence[Path]
    pair: Path
    is_judged: Callable[[str], Awaitable[bool]]
    limit_s: float

    @property
    def person(self) -> Person:
        return self.visitor.person

    async def says(self, text: str, fits: Callable[[Json], bool]) -> Json:
        since = len(self.person.seen)
        await self.person.say(text)
        return await self.person.wait_message(fits, 30, since=since)

    async def presses(
        self, message: Json, action: str, fits: Callable[[Json], bool], *, nth: int = 0, within_s: float = 30
    ) -> Json:
        """The nth button of the message that does this, and the message that follows."""
        since = len(self.person.seen)
        button = [each for each in buttons(message) if choice_in(each)[0] == action][nth]
        await self.person.press(message, button)
        return await self.person.wait_message(fits, within_s, since=since)


def has(action: str) -> Callable[[Json], bool]:
    return lambda message: find_button(message, action) is not None


def tells(*parts: str) -> Callable[[Json], bool]:
    return lambda message: all(part in words(message) for part in parts)


async def tell(story: Story) -> None:
    """The whole story; what does not happen as it should raises."""
    ready = await _training(story)
    await _portraits(story, ready)
    await _several_people(story)
    await _models(story)
    await _forgetting(story)


async def _training(story: Story) -> Json:
    await story.says("/start", tells("photo studio"))
    question = await story.says("/train", has("agree"))
    await story.look("consent")
    await story.presses(question, "agree", has("cancel_collection"))
    await story.visitor.send_photos(story.selfies)
    collection = await story.visitor.verdicts(story.is_judged)
    collection = await story.presses(collection, "keep_photos", tells("kept with the model"))
    await story.look("photos")
    since = len(story.person.seen)
    await story.presses(collection, "start", has("cancel_job"))
    await story.person.wait_message(lambda m: "▰▰▰" in words(m) and "photo" in m, story.limit_s, since=since)
    await story.look("training")
    ready = await story.person.wait_message(tells("model is ready"), story.limit_s, since=since)
    await story.look("model-ready")
    return ready


async def _portraits(story: Story, ready: Json) -> None:
    gallery = await story.presses(ready, "gallery", has("use"))
    before = words(gallery)
    gallery = await story.presses(gallery, "gallery", lambda m: has("use")(m) and words(m) != before, nth=1)
    await story.look("gallery")
    portrait = await story.presses(gallery, "use", has("again"), within_s=story.limit_s)
    await story.presses(portrait, "favourite", lambda m: any("★" in button["text"] for button in buttons(m)))
    await story.look("portrait")
    best = await story.presses(portrait, "more", has("others"), within_s=story.limit_s)
    await story.presses(best, "others", tells("3 other candidates"))
    await story.look("candidates")
    full = await story.presses(best, "original", lambda m: "document" in m)
    assert "pixels" in words(full)
    results = await story.says("/results", has("results"))
    await story.presses(results, "results", tells("Favourite 1 of 1"), nth=-1)
    await story.look("favourites")


async def _several_people(story: Story) -> None:
    gallery = await story.says("/templates", has("own_template"))
    await story.presses(gallery, "own_template", tells("Send me your picture"))
    since = len(story.person.seen)
    await story.person.send_photos([story.pair], as_files=True)
    checked = await story.person.wait_message(has("seat"), story.limit_s, since=since)
    question = await story.presses(checked, "seat", tells("Who is face 1?"))
    await story.look("faces")
    question = await story.presses(question, "face", tells("Who is face 2?"))
    await story.presses(question, "face", has("again"), nth=1, within_s=story.limit_s)
    await story.look("several-people")


async def _models(story: Story) -> None:
    models = await story.says("/models", has("subject"))
    card = await story.presses(models, "subject", has("rename"))
    await story.presses(card, "rename", tells("be called?"))
    await story.says("Eileen", tells("Eileen", "Likeness to you"))
    await story.look("model")


async def _forgetting(story: Story) -> None:
    await story.says("/privacy", tells("Your data"))
    question = await story.says("/forget", has("forget_yes"))
    sure = await story.presses(question, "forget_yes", has("forget_sure"))
    await story.look("forget")
    await story.presses(sure, "forget_sure", tells("Everything is deleted."), within_s=60)
    await asyncio.sleep(1)
    await story.look("forgotten")


def two_people(selfies: Sequence[Path]) -> bytes:
    """A picture of two faces side by side."""
    pair = Image.new("RGB", (1280, 720))
    for place, path in enumerate(selfies):
        pair.paste(ImageOps.fit(Image.open(path).convert("RGB"), (640, 720)), (640 * place, 0))
    out = io.BytesIO()
    pair.save(out, "JPEG", quality=92)
    return out.getvalue()


class Camera:
    """The chat page on a phone; pictures into a folder."""

    def __init__(self, page: Page, folder: Path) -> None:
        self._page, self._folder = page, folder

    async def look(self, name: str) -> None:
        await self._page.until("[...document.images].every(image => image.complete)")
        await asyncio.sleep(1.0)
        shot = self._folder / f"{name}.png"
        await self._page.screenshot(shot)
        await asyncio.to_thread(_as_jpeg, shot, self._folder / f"telegram-{name}.jpg")


def _as_jpeg(shot: Path, out: Path) -> None:
    Image.open(shot).convert("RGB").save(out, "JPEG", quality=QUALITY, optimize=True, progressive=True)
    shot.unlink()


async def _photograph(out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="story-") as name:
        folder = Path(name)
        making = await asyncio.create_subprocess_exec(sys.executable, "-m", "engine.sample", str(folder / "selfies"))
        assert await making.wait() == 0
        selfies = sorted((folder / "selfies").glob("*.jpg"))
        pair = folder / "both.jpg"
        await asyncio.to_thread(pair.write_bytes, two_people((selfies[1], selfies[2])))
        async with local_studio(folder / "data") as studio, Page(WIDTH, HEIGHT, scale=SCALE) as page:
            await page.open(studio.url)
            await page.until("document.getElementById('start').offsetHeight > 0")
            camera = Camera(page, out)
            async with Person(studio.url, 1001) as person:
                visitor = Visitor(person, Transcript(lambda line: None))
                judged = _Judged(studio.db)
                await tell(Story(visitor, camera.look, selfies, pair, judged.is_so, 1800))
            async with Person(studio.url, 1001, language="zh") as person:
                await person.say("/train")
                await person.wait_message(has("agree"), 30)
                await camera.look("consent-zh")


@dataclass
class _Judged:
    db: Database

    async def is_so(self, session_id: str) -> bool:
        async with self.db.transaction() as store:
            stored = await store.collections.get(session_id)
        return stored is not None and bool(stored.collection.photos) and not stored.collection.is_checking


if __name__ == "__main__":
    asyncio.run(_photograph(Path(sys.argv[1])))
