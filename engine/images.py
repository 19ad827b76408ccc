"""Pictures in and out: decoding files of strangers, boxes, soft edges, writing. Needs Pillow, numpy and OpenCV only."""

from __future__ import annotations

import io
import logging
import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from engine.errors import UnreadablePicture
from engine.types import Mask, Photo, Rgb

logger = logging.getLogger(__name__)

MAX_BYTES = 40_000_000
MAX_PIXELS = 50_000_000  # an uncompressed 50-megapixel picture takes 150 MB; phones make 12 to 50
LONGEST_SIDE = 2048
FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF")
STILLS = ("MPO", "HEIF")  # may hold several pictures (MPO: a phone's JPEG with its depth map); the first one counts
JPEG_QUALITY = 95

Window = tuple[slice, slice]  # rows and columns of a picture
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


def read_photo(path: Path, longest_side: int = LONGEST_SIDE) -> Photo:
    """The picture at `path`, upright, sRGB, its longest side at most `longest_side`. Raises `UnreadablePicture`."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UnreadablePicture(path.name, f"{size / 1e6:.0f} MB, at most {MAX_BYTES / 1e6:.0f} are read")
        data = path.read_bytes()
    except OSError as error:
        raise UnreadablePicture(path.name, error.strerror or "the file cannot be read") from error
    return Photo(path.name, decode(data, path.name, longest_side))


def decode(data: bytes, name: str, longest_side: int = LONGEST_SIDE) -> Rgb:
    """Bytes that nobody vouches for as (H, W, 3) RGB. Raises `UnreadablePicture`; sizes are checked before decoding."""
    _register_heif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own warning about large pictures: the limit here is tighter
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                _refuse_by_header(picture, name)
                picture.draft("RGB", (longest_side, longest_side))  # JPEG decodes at 1/2, 1/4, 1/8 if that is enough
                picture.load()
                return _as_srgb(picture, longest_side)
    except UnreadablePicture:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadablePicture(name, f"more than {MAX_PIXELS / 1e6:.0f} megapixels") from error
    except UnidentifiedImageError as error:
        raise UnreadablePicture(name, "not a JPEG, PNG, WebP, HEIC or AVIF picture") from error
    except Exception as error:
        raise UnreadablePicture(name, "the file is damaged") from error


@cache
def _register_heif() -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener()


def _refuse_by_header(picture: Image.Image, name: str) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise UnreadablePicture(name, f"{width * height / 1e6:.0f} megapixels, at most {MAX_PIXELS / 1e6:.0f} are read")
    if picture.format not in STILLS and getattr(picture, "n_frames", 1) > 1:
        raise UnreadablePicture(name, "an animated picture")


def _as_srgb(picture: Image.Image, longest_side: int) -> Rgb:
    icc = picture.info.get("icc_profile")
    upright = ImageOps.exif_transpose(picture)
    upright.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    if upright.mode.startswith("I"):  # 16 bits a channel: Pillow would clip instead of scale
        upright = Image.fromarray((np.asarray(upright, np.float64) / 257.0).clip(0, 255).astype(np.uint8))
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    rgb = upright.convert("RGB")
    if icc and picture.mode == "RGB":
        rgb = _with_srgb_colours(rgb, icc)
    return np.array(rgb, dtype=np.uint8)


def _with_srgb_colours(rgb: Image.Image, icc: bytes) -> Image.Image:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        converted = ImageCms.profileToProfile(rgb, profile, ImageCms.createProfile("sRGB"))
    except (ImageCms.PyCMSError, OSError):  # a broken colour profile does not spoil the picture
        return rgb
    return converted or rgb


def resized(rgb: Rgb, size: tuple[int, int]) -> Rgb:
    """`rgb` at (width, height): area averaging where it shrinks, Lanczos where it grows."""
    shrinks = size[0] < rgb.shape[1]
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4), np.uint8)


def fitted(rgb: Rgb, longest_side: int) -> tuple[Rgb, float]:
    """`rgb` shrunk so that no side is longer, and the factor by which it was scaled (1 where it fits already)."""
    scale = min(1.0, longest_side / max(rgb.shape[:2]))
    if scale == 1.0:
        return rgb, 1.0
    return resized(rgb, (round(rgb.shape[1] * scale), round(rgb.shape[0] * scale))), scale


def grow_box(box: Box, scale: float) -> Box:
    """`box` about its centre with each side `scale` times as long."""
    dx, dy = (box[2] - box[0]) * (scale - 1) / 2, (box[3] - box[1]) * (scale - 1) / 2
    return box[0] - dx, box[1] - dy, box[2] + dx, box[3] + dy


def clip_box(box: Box, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """`box` in whole pixels inside a picture of `shape` (H, W, ...); at least one pixel wide and high."""
    height, width = shape[:2]
    left, top = min(max(round(box[0]), 0), width - 1), min(max(round(box[1]), 0), height - 1)
    return left, top, max(left + 1, min(round(box[2]), width)), max(top + 1, min(round(box[3]), height))


def around_mask(mask: NDArray[Any], room: int = 0) -> Window:
    """Rows and columns that hold all of `mask` that is not 0, and `room` pixels around; with room, never nothing."""
    x, y, width, height = cv2.boundingRect((mask != 0).view(np.uint8))
    bottom, right = min(y + height + room, mask.shape[0]), min(x + width + room, mask.shape[1])
    return slice(max(0, y - room), bottom), slice(max(0, x - room), right)


def overlap(one: Window, other: Window) -> Window | None:
    """What two windows have in common."""
    (top, bottom), (left, right) = (
        (max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True)
    )
    return (slice(top, bottom), slice(left, right)) if top < bottom and left < right else None


def within(window: Window, outer: Window) -> Window:
    """The same rows and columns, counted in the piece `outer` of the picture."""
    rows, columns = (slice(a.start - b.start, a.stop - b.start) for a, b in zip(window, outer, strict=True))
    return rows, columns


def as_floats(rgb: Rgb) -> NDArray[np.float32]:
    """The same picture in 0..1, in memory of its own."""
    floats = rgb.astype(np.float32)
    floats /= np.float32(255)
    return floats


def in_lab(rgb: Rgb) -> NDArray[np.float32]:
    """(H, W, 3) in CIE Lab: L of 0..100."""
    return np.asarray(cv2.cvtColor(as_floats(rgb), cv2.COLOR_RGB2LAB), np.float32)


def out_of_lab(lab: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W, 3) RGB in 0..255, not rounded, of what `in_lab` makes."""
    rgb = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    rgb *= 255
    return np.asarray(rgb, np.float32)


def as_bytes(floats: NDArray[np.float32]) -> Rgb:
    """A picture of 0..1, rounded, what lies beyond cut off. `floats` is used up."""
    np.clip(floats, 0, 1, out=floats)
    floats *= 255
    return np.rint(floats, out=floats).astype(np.uint8)


def pixels_of(picture: NDArray[np.float32], where: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(n, 3) those of (H, W, 3) where (H, W) says so, row by row: what `picture[where]` is, six times as fast."""
    return picture.reshape(-1, picture.shape[-1]).compress(where.ravel(), axis=0)


def column_sums(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(c,) of (n, c), added one by one as NumPy does where c is small, six times as fast."""
    sums: NDArray[np.float32] = cv2.reduce(rows, 0, cv2.REDUCE_SUM)[0]
    return sums


def for_channels(plane: Mask, channels: int = 3) -> NDArray[np.float32]:
    """(H, W, channels) `plane` once for each: NumPy multiplies by it far faster than by `plane[..., None]`."""
    repeated: NDArray[np.float32] = cv2.merge([plane] * channels).reshape(*plane.shape, channels)
    return repeated


def smooth_step(ramp: Mask) -> Mask:
    """0 up to 0, 1 from 1 on, without a kink at either end."""
    ramp = np.clip(ramp, 0, 1)
    rise = ramp * ramp
    ramp *= -2
    ramp += 3
    rise *= ramp
    return rise


def feather(mask: Mask, radius: float) -> Mask:
    """`mask` with its edge softened over about `radius` pixels to either side."""
    return np.clip(cv2.GaussianBlur(mask.astype(np.float32), (0, 0), max(radius / 2, 1e-3)), 0, 1)


def write_jpeg(path: Path, rgb: Rgb) -> None:
    """Writes `rgb` as a JPEG without metadata. A reader never sees half a file."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    write_whole(path, buffer.getvalue())


def write_whole(path: Path, *pieces: bytes | memoryview, synced: bool = True) -> None:
    """Writes the pieces so that `path` holds either the old or all of the new content, whenever the process dies, and
    the machine too, if it is `synced`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.writelines(pieces)
            if synced:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
