"""Makes docs/img/chat.png: two phones with a conversation that was held in the sandbox.

    python -m bot chat --data /tmp/talk         # talk to it; copy /tmp/talk/sandbox while the training runs
    python -m tests.e2e.picture_of_chat COPY /tmp/talk/sandbox docs/img/chat.png

Show nobody in it who did not agree: the sample subject and the built-in templates will do.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

from bot.sandbox.server import Sandbox
from tests.e2e.chromium import Page

WIDTH, HEIGHT, SCALE = 390, 820, 1.25
MARGIN, RADIUS = 44, 34
BACKDROP = ((232, 228, 255), (255, 236, 228))  # top left, bottom right


async def phone(chat: Path, *, is_dark: bool) -> Image.Image:
    """The end of the chat."""
    async with Sandbox(folder=chat) as sandbox, Page(WIDTH, HEIGHT, is_dark=is_dark, scale=SCALE) as page:
        await page.open(sandbox.url)
        await page.until("document.querySelectorAll('.bubble').length > 0")
        await page.until("[...document.images].every(image => image.complete)")
        await asyncio.sleep(0.6)
        await page.screenshot(chat / "shot.png")
        return Image.open(chat / "shot.png").convert("RGB")


def side_by_side(pictures: list[Image.Image]) -> Image.Image:
    width, height = pictures[0].size
    size = (MARGIN + len(pictures) * (width + MARGIN), height + 2 * MARGIN)
    corners = Image.new("RGB", (2, 2))
    middle = tuple((a + b) // 2 for a, b in zip(*BACKDROP, strict=True))
    corners.putdata([BACKDROP[0], middle, middle, BACKDROP[1]])
    paper = corners.resize(size, Image.Resampling.BILINEAR)
    round_mask = Image.new("L", (width, height))
    ImageDraw.Draw(round_mask).rounded_rectangle((0, 0, width - 1, height - 1), RADIUS, fill=255)
    for number, picture in enumerate(pictures):
        place = (MARGIN + number * (width + MARGIN), MARGIN)
        shadow = Image.new("L", size)
        shadow.paste(round_mask.point(lambda v: v // 3), (place[0], place[1] + 14))
        paper.paste((40, 30, 80), mask=shadow.filter(ImageFilter.GaussianBlur(22)))
        paper.paste(picture, place, round_mask)
    return paper


def main(during: Path, after: Path, out: Path) -> None:
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        for chat, is_dark in ((during, False), (after, True)):
            copy = Path(shutil.copytree(chat, Path(folder) / chat.name / str(is_dark)))  # the original stays as it is
            pictures.append(asyncio.run(phone(copy, is_dark=is_dark)))
    side_by_side(pictures).save(out, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
