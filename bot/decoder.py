"""The child process that decodes pictures of strangers: run as a file, with limits on itself and an empty environment.

Reads requests from stdin and answers on stdout, both length-prefixed (see `bot/intake.py`), until stdin ends. Imports
nothing of ours, so that it starts fast and has nothing to leak.
"""

from __future__ import annotations

import io
import resource
import struct
import sys
from typing import IO

from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.Image import Resampling

REQUEST = struct.Struct(">QQ")  # bytes of the file that follows, largest number of pixels
ANSWER = struct.Struct(">cIII")  # b"+" and a JPEG, or b"-" and a reason: width, height, bytes that follow

LONGEST_SIDE = 2048
QUALITY = 95
_MEMORY_BYTES = 1_500_000_000
_CPU_S = 20
_STILL_FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF")
_PHONES_JPEG = "MPO"  # what Pillow calls a JPEG that brings a second picture, as of depth: the first one counts
_ANIMATED_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")  # a HEIF with several pictures is a photo with its thumbnails


class Refused(Exception):
    """The picture cannot be used; the message is the reason's code."""


def decode(data: bytes, max_pixels: int) -> tuple[bytes, int, int]:
    """A file of a stranger -> an upright sRGB JPEG without metadata, longest side at most LONGEST_SIDE; width, height.

    Raises Refused, and whatever Pillow raises for broken files.
    """
    try:
        picture: Image.Image = Image.open(io.BytesIO(data), formats=(*_STILL_FORMATS, "GIF"))
    except UnidentifiedImageError:
        raise Refused("unreadable" if _looks_like_a_picture(data) else "not_a_picture") from None
    if picture.width * picture.height > max_pixels:
        raise Refused("too_many_pixels")
    if picture.format in _ANIMATED_FORMATS and getattr(picture, "is_animated", False):
        raise Refused("animated")
    if picture.format not in (*_STILL_FORMATS, _PHONES_JPEG):
        raise Refused("not_a_picture")
    picture.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))  # JPEG only: decode no larger than needed
    picture.load()
    picture = _as_srgb(ImageOps.exif_transpose(picture))
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=QUALITY, subsampling=0, icc_profile=None, exif=b"")
    return out.getvalue(), picture.width, picture.height


def _looks_like_a_picture(data: bytes) -> bool:
    return data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or data[4:8] == b"ftyp" or data[8:12] == b"WEBP"


def _as_srgb(picture: Image.Image) -> Image.Image:
    """RGB on white. A colour profile is applied where it can be; 16 bits become 8."""
    profile = picture.info.get("icc_profile")
    if picture.mode.startswith("I"):
        picture = picture.convert("I").point(lambda value: value / 256).convert("L")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture).convert("RGB")
    if profile and picture.mode in ("RGB", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            converted = None  # a broken profile is no reason to refuse a photo
        picture = converted or picture
    bare = picture.convert("RGB")
    bare.info.clear()
    return bare


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _limit_cpu() -> None:
    """Anew for each picture: the kernel counts a process's whole life."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(usage.ru_utime + usage.ru_stime) + _CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))


def answer(data: bytes, max_pixels: int) -> bytes:
    """The answer to one request, packed."""
    try:
        jpeg, width, height = decode(data, max_pixels)
    except Refused as refused:
        reason = str(refused).encode()
        return ANSWER.pack(b"-", 0, 0, len(reason)) + reason
    except Exception:  # noqa: BLE001 - the border of the process: decoders raise anything on hostile bytes
        return ANSWER.pack(b"-", 0, 0, len(b"unreadable")) + b"unreadable"
    return ANSWER.pack(b"+", width, height, len(jpeg)) + jpeg


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Until `requests` ends."""
    while len(head := requests.read(REQUEST.size)) == REQUEST.size:
        size, max_pixels = REQUEST.unpack(head)
        data = requests.read(size)
        _limit_cpu()
        answers.write(answer(data, max_pixels))
        answers.flush()


def main() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    Image.MAX_IMAGE_PIXELS = None  # `decode` has its own limit, before anything is decoded
    Image.init()
    _limit_memory()
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
