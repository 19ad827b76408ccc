"""What Telegram makes of a picture: the sizes of a photo, the thumbnail of a document, and what it refuses."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image, ImageOps
from pillow_heif import register_heif_opener

LONGEST_SIDES = (90, 320, 800, 1280)  # the "s", "m", "x" and "y" sizes of a photo
MAX_PHOTO_BYTES = 10 << 20
MAX_PHOTO_SIDES = 10_000  # width + height
MAX_PHOTO_RATIO = 20
MAX_PIXELS = 64_000_000  # what a phone would still open


class NotAPhoto(ValueError):
    """Telegram would not take it as a photo; the sentence is Telegram's."""


@dataclass(frozen=True)
class Size:
    width: int
    height: int
    jpeg: bytes


def photo_sizes(data: bytes) -> list[Size]:
    """The JPEGs that Telegram keeps of a photo, smallest first; none is larger than 1280. Raises NotAPhoto."""
    if len(data) > MAX_PHOTO_BYTES:
        raise NotAPhoto("Request Entity Too Large: file is too big")
    picture = _opened(data)
    width, height = picture.size
    if width + height > MAX_PHOTO_SIDES or max(width, height) > MAX_PHOTO_RATIO * min(width, height):
        raise NotAPhoto("PHOTO_INVALID_DIMENSIONS")
    return _sizes(picture, LONGEST_SIDES)


def sent_from_a_phone(data: bytes) -> list[Size]:
    """The same for a person's photo: the app shrinks it before it uploads, so its bytes do not matter."""
    return _sizes(_opened(data), LONGEST_SIDES)


def thumbnail(data: bytes) -> Size | None:
    """The small picture that a document shows, None for what is not a picture."""
    try:
        return _sizes(_opened(data), (320,))[0]
    except NotAPhoto:
        return None


def _opened(data: bytes) -> Image.Image:
    register_heif_opener()
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise NotAPhoto("PHOTO_INVALID_DIMENSIONS")
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise NotAPhoto(str(error) if isinstance(error, NotAPhoto) else "IMAGE_PROCESS_FAILED") from error


def _sizes(picture: Image.Image, sides: tuple[int, ...]) -> list[Size]:
    found: list[Size] = []
    for side in sides:
        small = picture.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        small.save(out, "JPEG", quality=87)
        found.append(Size(*small.size, out.getvalue()))
        if max(picture.size) <= side:
            break
    return found
