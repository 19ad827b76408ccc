"""Files of strangers: each kind of bad one gets its own reason, each kind of good one becomes a plain JPEG."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pillow_heif
import pytest
from PIL import Image, ImageCms

from bot.decoder import LONGEST_SIDE
from bot.intake import Intake, NotTaken, Taken


@pytest.fixture
async def intake() -> AsyncIterator[Intake]:
    async with Intake(processes=2, max_bytes=5_000_000, max_pixels=50_000_000) as made:
        yield made


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def photo(size: tuple[int, int] = (320, 240)) -> Image.Image:
    return Image.frombytes("L", size, Random(1).randbytes(size[0] * size[1])).convert("RGB")


def png_bomb(side: int) -> bytes:
    """A PNG of side x side pixels in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = b"\0" + b"\0" * (side // 8)
    data = b"".join([packer.compress(row) for _ in range(side)]) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def read(path: Path) -> bytes:
    return path.read_bytes()


def moving(kind: str) -> bytes:
    frames = [Image.new("RGB", (64, 64), (i * 60, 0, 0)) for i in range(4)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png_bomb(10_000), "too_many_pixels"),
        (encoded(photo(), "JPEG")[:4000], "unreadable"),
        (encoded(photo(), "PNG")[:4000], "unreadable"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 100, "unreadable"),
        (b"I am a text file named .jpg\n" * 50, "not_a_picture"),
        (b"", "not_a_picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_a_picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not_a_picture"),
        (encoded(photo(), "TIFF"), "not_a_picture"),
        (moving("GIF"), "animated"),
        (moving("PNG"), "animated"),
        (moving("WEBP"), "animated"),
        (b"\xff\xd8\xff" + bytes(5_000_001), "too_big"),
        (b"\xff\xd8\xff" + Random(1).randbytes(5000), "unreadable"),
    ],
    ids=[
        *("bomb", "half jpeg", "half png", "half heic", "text", "empty", "svg", "eps", "tiff"),
        *("moving gif", "moving png", "moving webp", "too big", "noise"),
    ],
)
async def test_a_bad_file_gets_its_own_reason(intake: Intake, data: bytes, reason: str) -> None:
    assert await intake.take(data) == NotTaken(reason)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF"])
async def test_every_kind_that_phones_make_is_taken(intake: Intake, kind: str) -> None:
    pillow_heif.register_heif_opener()
    taken = await intake.take(encoded(photo(), kind))
    assert isinstance(taken, Taken)
    picture = Image.open(io.BytesIO(taken.jpeg))
    assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (320, 240))
    assert (taken.width, taken.height) == (320, 240)


async def test_a_phones_jpeg_that_brings_a_second_picture_is_taken(intake: Intake) -> None:
    with_depth = encoded(photo(), "MPO", save_all=True, append_images=[photo((40, 30))])
    taken = await intake.take(with_depth)
    assert isinstance(taken, Taken)
    assert (taken.width, taken.height) == (320, 240)


async def test_nothing_about_place_or_camera_is_kept_and_the_photo_is_upright(intake: Intake) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the phone on its side
    exif[0x010F] = "Some Camera"
    exif[0x8825] = {1: "N", 2: (52.0, 30.0, 0.0)}
    left_red = Image.new("RGB", (300, 200), "blue")
    left_red.paste("red", (0, 0, 150, 200))
    taken = await intake.take(encoded(left_red, "JPEG", exif=exif, comment=b"my home"))
    assert isinstance(taken, Taken)
    picture = Image.open(io.BytesIO(taken.jpeg))
    assert picture.size == (200, 300)
    assert picture.getpixel((100, 20))[0] > 200, "what was left is now up"  # type: ignore[index]
    assert not picture.getexif()
    assert b"Some Camera" not in taken.jpeg
    assert b"my home" not in taken.jpeg
    assert set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


async def test_a_large_photo_is_made_smaller(intake: Intake) -> None:
    taken = await intake.take(encoded(Image.new("RGB", (5000, 1000)), "JPEG"))
    assert isinstance(taken, Taken)
    assert (taken.width, taken.height) == (LONGEST_SIDE, round(1000 * LONGEST_SIDE / 5000))


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.new("RGBA", (50, 40), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("LA", (50, 40), (10, 255)), (10, 10, 10)),
        (Image.new("I;16", (50, 40), 40_000), (156, 156, 156)),
        (Image.new("P", (50, 40)), (0, 0, 0)),
        (Image.new("1", (50, 40), 1), (255, 255, 255)),
    ],
    ids=["transparent", "grey with alpha", "16 bit", "palette", "black and white"],
)
async def test_every_kind_of_pixel_becomes_rgb_on_white(
    intake: Intake, picture: Image.Image, expected: tuple[int, int, int]
) -> None:
    taken = await intake.take(encoded(picture, "PNG"))
    assert isinstance(taken, Taken)
    pixel = Image.open(io.BytesIO(taken.jpeg)).getpixel((20, 20))
    assert all(abs(a - b) <= 2 for a, b in zip(pixel, expected, strict=True))  # type: ignore[arg-type]


async def test_a_broken_colour_profile_costs_no_photo(intake: Intake) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (b"nonsense", lab):
        assert isinstance(await intake.take(encoded(photo(), "JPEG", icc_profile=profile)), Taken)


async def test_html_and_zip_behind_a_photo_are_cut_off(intake: Intake) -> None:
    taken = await intake.take(encoded(photo(), "JPEG") + b"<script>alert(1)</script>PK\x03\x04")
    assert isinstance(taken, Taken)
    assert b"script" not in taken.jpeg


async def test_a_decoder_that_was_killed_costs_no_photo(intake: Intake) -> None:
    good = encoded(photo(), "JPEG")
    assert isinstance(await intake.take(good), Taken)
    os.kill(intake._idle[0].process.pid, signal.SIGKILL)
    await intake._idle[0].process.wait()
    assert isinstance(await intake.take(good), Taken)


async def test_a_decoder_has_no_secrets_and_little_memory(intake: Intake) -> None:
    about = Path(f"/proc/{intake._idle[0].process.pid}")
    assert isinstance(await intake.take(encoded(photo(), "JPEG")), Taken)
    environment = read(about / "environ")
    assert b"TOKEN" not in environment
    assert b"PORTRAIT" not in environment
    assert b"1500000000" in read(about / "limits")


async def test_a_flood_of_heavy_files_does_not_stop_somebody_elses_photo(intake: Intake) -> None:
    heavy = encoded(Image.new("RGB", (6000, 6000)), "PNG")
    (decoder,) = intake._idle
    os.kill(decoder.process.pid, signal.SIGSTOP)  # it takes as long as we like
    flood = asyncio.create_task(intake.take(heavy))  # one person's files come one after the other
    while intake._idle:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert isinstance(await intake.take(encoded(photo(), "JPEG")), Taken)
    assert not flood.done()
    os.kill(decoder.process.pid, signal.SIGCONT)
    assert isinstance(await flood, Taken)
