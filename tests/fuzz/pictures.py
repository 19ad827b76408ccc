"""Picture files, fed to the decoder as the bot runs it: the real process with its real limits, over its real pipe."""

from __future__ import annotations

import io
import os
import select
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageCms

from bot import decoder as decoder_module
from bot.decoder import ANSWER, LONGEST_SIDE, REQUEST
from tests.fuzz.mutations import spoiled
from tests.fuzz.target import Hang

MAX_PIXELS = 50_000_000
TIMEOUT_S = 30.0  # as bot/intake.py
RENEW_AFTER = 2_000
REASONS = {b"unreadable", b"animated", b"too_many_pixels", b"not_a_picture"}


def seeds() -> list[bytes]:
    """Small files of every kind that is taken, and of some that are not."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    rgb = Image.frombytes("L", (48, 32), Random(1).randbytes(48 * 32)).convert("RGB")  # always the same noise
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8825] = 6, "Some Camera", {1: "N", 2: (52.0, 30.0, 0.0)}
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    frames = [Image.new("RGB", (24, 24), (i * 60, 0, 0)) for i in range(3)]
    moving = {"save_all": True, "append_images": frames[1:]}
    wanted: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (rgb, "JPEG", {}), (rgb, "JPEG", {"progressive": True, "exif": exif}), (rgb.convert("L"), "JPEG", {}),
        (rgb.convert("CMYK"), "JPEG", {"icc_profile": profile}),
        (rgb, "JPEG", {"icc_profile": profile, "comment": b"home"}),
        *((rgb.convert(mode), "PNG", {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        (Image.new("I;16", (48, 32), 40_000), "PNG", {}), (rgb, "PNG", {"exif": exif, "icc_profile": profile}),
        (rgb, "WEBP", {}), (rgb.convert("RGBA"), "WEBP", {"lossless": True, "exif": exif}),
        (rgb, "AVIF", {"exif": exif}), (rgb, "HEIF", {"exif": exif}),
        *((rgb, kind, {}) for kind in ("GIF", "TIFF", "BMP", "ICO", "PPM")),
        (rgb, "MPO", {"save_all": True, "append_images": frames[:1]}),
        *((frames[0], kind, moving) for kind in ("GIF", "PNG", "WEBP", "AVIF")),
    ]  # fmt: skip
    files = [_encoded(picture, kind, options) for picture, kind, options in wanted]
    html = b"<html><script>alert(1)</script>"
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' width='9999999' height='9999999'/>"
    return [*files, files[0] + html + b"PK\x03\x04", svg, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", b""]


def _encoded(picture: Image.Image, kind: str, options: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


class DecoderDied(Exception):
    """The decoder ended in the middle of a picture. The bot survives that: it answers `unreadable`."""


class _Decoder:
    """The process of bot/decoder.py, as bot/intake.py starts it."""

    def __init__(self) -> None:
        environment = {"PATH": os.defpath, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-I", str(Path(decoder_module.__file__))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        self.served = 0

    def decode(self, data: bytes) -> tuple[bytes, int, int, bytes]:
        """Kind, width, height, body. Raises DecoderDied, Hang."""
        assert self.process.stdin
        deadline = time.monotonic() + TIMEOUT_S
        self.served += 1
        try:
            self.process.stdin.write(REQUEST.pack(len(data), MAX_PIXELS) + data)
            self.process.stdin.flush()
            kind, width, height, size = ANSWER.unpack(self._read(ANSWER.size, deadline))
            return kind, width, height, self._read(size, deadline)
        except BrokenPipeError:
            raise DecoderDied from None

    def _read(self, size: int, deadline: float) -> bytes:
        assert self.process.stdout
        handle, found = self.process.stdout.fileno(), b""
        while len(found) < size:
            ready, _, _ = select.select([handle], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                raise Hang
            part = os.read(handle, size - len(found))
            if not part:
                raise DecoderDied
            found += part
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Pictures:
    name = "picture"
    longest_s = TIMEOUT_S + 5

    def __init__(self) -> None:
        self._seeds = seeds()
        self._decoder: _Decoder | None = None

    def make(self, draw: Random) -> bytes:
        kind = draw.random()
        data = draw.choice(self._seeds)
        if kind < 0.02:
            return data
        if kind < 0.04:
            return draw.choice(
                (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"\0\0\0\x18ftypheic", b"GIF89a", b"")
            ) + draw.randbytes(draw.randrange(3000))
        if kind < 0.06:
            return _bomb(draw)
        return spoiled(draw, data, self._seeds, most=draw.choice((1, 1, 2, 6)))

    def feed(self, made: bytes) -> str:
        if self._decoder is None or self._decoder.served >= RENEW_AFTER:
            self.close()
            self._decoder = _Decoder()
        try:
            kind, width, height, body = self._decoder.decode(made)
        except (DecoderDied, Hang) as error:
            self.close()
            if isinstance(error, Hang):
                raise
            return "the decoder ended"
        if kind == b"-":
            assert body in REASONS, body
            return body.decode()
        _check_jpeg(body, width, height)
        return "taken"

    def close(self) -> None:
        if self._decoder is not None:
            self._decoder.end()
            self._decoder = None


def _check_jpeg(body: bytes, width: int, height: int) -> None:
    """What was taken is a plain, small enough JPEG with nothing of the sender's in it."""
    picture = Image.open(io.BytesIO(body), formats=["JPEG"])
    assert (picture.mode, picture.size) == ("RGB", (width, height))
    assert max(picture.size) <= LONGEST_SIDE
    assert set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi"}, picture.info
    assert b"Some Camera" not in body
    assert b"script" not in body


def _bomb(draw: Random) -> bytes:
    """A PNG whose header promises another size than its few bytes hold, with true checksums."""
    side = draw.choice((1, 100, 3_000, 7_000, 7_100, 30_000, 2**31 - 1))
    depth, colour = draw.choice(((1, 0), (8, 0), (8, 2), (8, 6), (16, 2), (16, 6), (8, 3), (3, 1)))
    other = draw.choice((side, 1, 7, 0))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, other, depth, colour, 0, 0, draw.choice((0, 0, 1)))
    packed = zlib.compress(b"\0" * draw.choice((10, 10_000, 1_000_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
