"""Portraits as chats can show them: a large one has a smaller copy, the file itself stays as it was made."""

from __future__ import annotations

import asyncio
import io

from PIL import Image

_SIDES = (2560, 1600, 1024)  # px, the longest; no chat shows more than the first


async def fitting(data: bytes, most_bytes: int) -> bytes:
    """The picture itself where it fits, else the largest copy (JPEG) that does; the smallest copy at worst."""
    return data if len(data) <= most_bytes else await asyncio.to_thread(_smaller, data, most_bytes)


def _smaller(data: bytes, most_bytes: int) -> bytes:
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    copy = b""
    for side in _SIDES:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=90)
        copy = out.getvalue()
        if len(copy) <= most_bytes:
            break
    return copy
