"""Files of strangers: what is read, how it comes out, and what is refused before it can do harm."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from engine.errors import UnreadablePicture
from engine.images import clip_box, decode, feather, fitted, grow_box, read_photo, write_jpeg


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png_bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squeeze = zlib.compressobj(9)
    row = bytes(1 + width // 8)
    rows = b"".join(squeeze.compress(row) for _ in range(height)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def noise(width: int = 640, height: int = 480) -> Image.Image:
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def frames(kind: str) -> bytes:
    first, *others = (Image.new("RGB", (64, 64), (level, 0, 0)) for level in (0, 80, 160))
    return encoded(first, kind, save_all=True, append_images=others)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF", "MPO"])
def test_every_format_that_phones_send_is_read(kind: str) -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener()
    rgb = decode(encoded(Image.new("RGB", (48, 32), (200, 60, 30)), kind), "photo")
    assert rgb.shape == (32, 48, 3)
    assert np.abs(rgb.mean((0, 1)) - (200, 60, 30)).max() < 6


def test_a_photo_with_a_depth_picture_behind_it_is_read() -> None:
    first, second = Image.new("RGB", (48, 32), (200, 60, 30)), Image.new("RGB", (48, 32))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert decode(data, "photo").shape == (32, 48, 3)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"this is no picture", "not a JPEG"),
        (b"", "not a JPEG"),
        (encoded(noise(), "JPEG")[:30_000], "damaged"),
        (encoded(noise(), "PNG")[:30_000], "damaged"),
        (encoded(Image.new("RGB", (9, 9)), "GIF"), "not a JPEG"),
        (encoded(Image.new("RGB", (9, 9)), "BMP"), "not a JPEG"),
        (frames("GIF"), "not a JPEG"),
        (frames("WEBP"), "animated"),
        (frames("PNG"), "animated"),
        (png_bomb(10_000, 10_000), "100 megapixels"),
        (png_bomb(30_000, 30_000), "more than 50 megapixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not a JPEG"),
    ],
)
def test_what_is_no_photo_is_refused_with_its_reason(data: bytes, why: str) -> None:
    with pytest.raises(UnreadablePicture, match=why):
        decode(data, "photo")


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    huge = tmp_path / "huge.jpg"
    with huge.open("wb") as file:
        file.truncate(41_000_000)
    with pytest.raises(UnreadablePicture, match="41 MB"):
        read_photo(huge)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnreadablePicture, match="No such file"):
        read_photo(tmp_path / "absent.jpg")


def test_a_photo_taken_sideways_stands_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the stored rows are the scene's columns
    picture = Image.new("RGB", (60, 40), "black")
    picture.paste("white", (0, 0, 20, 40))
    rgb = decode(encoded(picture, "JPEG", exif=exif), "photo")
    assert rgb.shape == (60, 40, 3)
    assert rgb[5, 20].min() > 200
    assert rgb[50, 20].max() < 50


def test_transparency_becomes_white() -> None:
    rgb = decode(encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "PNG"), "photo")
    assert (rgb == 255).all()


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    half = Image.fromarray(np.full((8, 8), 32_768, np.uint16))
    assert abs(int(decode(encoded(half, "PNG"), "photo")[0, 0, 0]) - 127) <= 1


def test_a_broken_colour_profile_does_not_cost_the_photo() -> None:
    assert decode(encoded(noise(), "JPEG", icc_profile=b"nonsense"), "photo").shape == (480, 640, 3)


def test_an_srgb_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = Image.new("RGB", (8, 8), (120, 80, 200))
    rgb = decode(encoded(plain, "PNG", icc_profile=profile), "photo")
    assert np.abs(rgb.astype(int) - (120, 80, 200)).max() <= 1


def test_large_photos_shrink_and_small_ones_stay() -> None:
    assert max(decode(encoded(noise(5000, 1000), "JPEG"), "photo").shape) == 2048
    assert decode(encoded(noise(50, 40), "JPEG"), "photo").shape == (40, 50, 3)


def test_written_jpegs_read_back_alike_and_without_metadata(tmp_path: Path) -> None:
    smooth = np.tile(np.linspace(0, 255, 200, dtype=np.uint8)[None, :, None], (100, 1, 3))
    path = tmp_path / "new" / "picture.jpg"
    write_jpeg(path, smooth)
    assert np.abs(read_photo(path).rgb.astype(int) - smooth).mean() < 1
    with Image.open(path) as picture:
        assert not picture.getexif()
    assert [p.name for p in path.parent.iterdir()] == ["picture.jpg"]


def test_boxes_grow_about_their_centre_and_stay_inside_the_picture() -> None:
    assert grow_box((10, 10, 20, 30), 2) == (5, 0, 25, 40)
    assert clip_box((-5, -5, 900, 20.4), (100, 50, 3)) == (0, 0, 50, 20)
    left, top, right, bottom = clip_box((80, 200, 90, 300), (100, 50, 3))
    assert right > left
    assert bottom > top


def test_a_soft_edge_lies_on_both_sides_of_the_hard_one() -> None:
    hard = np.zeros((40, 40), np.float32)
    hard[:, 20:] = 1
    soft = feather(hard, 6)
    assert soft[20, 0] < 0.01
    assert soft[20, 39] > 0.99
    assert 0.4 < soft[20, 19:21].mean() < 0.6


def test_what_fits_is_not_resampled() -> None:
    rgb = np.asarray(noise())
    same, scale = fitted(rgb, 1000)
    assert same is rgb
    assert scale == 1
    small, scale = fitted(rgb, 320)
    assert small.shape == (240, 320, 3)
    assert scale == 0.5
