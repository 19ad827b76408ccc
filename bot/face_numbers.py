"""A template with a number at each of its faces, so that people can say who goes where."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from bot.domain import Box
from gpu_worker.contract.blobs import BlobStore

_SIDE = 1280  # px, the longest: for looking at, not for working with
_BLUE, _WHITE = (37, 99, 235), (255, 255, 255)


async def put_numbered(blobs: BlobStore, template_key: str, picture_key: str, boxes: Sequence[Box]) -> None:
    """Puts the picture there unless it is there already. Raises BlobNotFound when the template is gone."""
    if not await blobs.exists(picture_key):
        template = await blobs.get(template_key)
        await blobs.put(picture_key, await asyncio.to_thread(numbered, template, boxes))


def numbered(template: bytes, boxes: Sequence[Box]) -> bytes:
    """The picture (JPEG) with a frame around every face and its number, from 1, in the order of the boxes."""
    picture = Image.open(io.BytesIO(template)).convert("RGB")
    picture.thumbnail((_SIDE, _SIDE))
    width, height = picture.size
    draw = ImageDraw.Draw(picture)
    line = max(2, round(min(picture.size) / 160))
    for number, (left, top, right, bottom) in enumerate(boxes, 1):
        frame = (left * width, top * height, right * width, bottom * height)
        draw.rectangle(frame, outline=_BLUE, width=line)
        radius = max(14.0, 0.16 * (frame[2] - frame[0]))
        x = min(max(frame[0], radius), width - radius)
        y = min(max(frame[1], radius), height - radius)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_BLUE, outline=_WHITE, width=line)
        draw.text((x, y), str(number), fill=_WHITE, font=ImageFont.load_default(radius * 1.3), anchor="mm")
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=88)
    return out.getvalue()
