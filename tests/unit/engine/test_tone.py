"""A black and white or brown photo stays one, whoever is put into it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.diffusion import InpaintRequest, Painting
from engine.images import in_lab, read_photo
from engine.portraits import make_portraits
from engine.profiles import MiniProfile
from engine.stages.tone import toned
from engine.types import Face, Photo, Rgb, SubjectFiles

GALLERY = Path(__file__).parents[3] / "bot" / "gallery"


@pytest.fixture(scope="module")
def profile() -> MiniProfile:
    return MiniProfile("cpu")


@pytest.fixture(scope="module")
def photo(shared_data: Path) -> Photo:
    return read_photo(shared_data / "templates" / "9.jpg", 500)


@pytest.fixture(scope="module")
def face(profile: MiniProfile, photo: Photo) -> Face:
    return profile.detector(photo.rgb)[0]


def grey(rgb: Rgb) -> Rgb:
    return cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def sepia(rgb: Rgb) -> Rgb:
    light = grey(rgb)[..., 0] / 255
    return np.rint(np.stack([light**0.8 * 250, light * 225, light**1.2 * 190], -1)).astype(np.uint8)


def as_an_old_jpeg(rgb: Rgb) -> Rgb:
    _, file = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])
    return cv2.imdecode(file, cv2.IMREAD_COLOR)[..., ::-1]


def colourfulness(rgb: Rgb) -> int:
    return int((rgb.max(2) - rgb.min(2)).max())


def test_a_grey_photo_gets_a_grey_face_and_keeps_its_other_bits(photo: Photo, face: Face) -> None:
    before = as_an_old_jpeg(grey(photo.rgb))
    fused = before.copy()
    fused[100:300, 150:350] = photo.rgb[100:300, 150:350]
    result = toned(fused, before, face)
    assert colourfulness(fused) > 100
    assert colourfulness(result) <= max(4, colourfulness(before))
    assert np.abs(grey(result).astype(int) - grey(fused)).mean() < 4, "its lightness stays"
    same = (fused == before).all(2)
    assert np.array_equal(result[same], before[same])


def away_from_brown(rgb: Rgb) -> NDArray[np.floating]:
    """ΔE of each pixel from the brown of its lightness."""
    ramp = in_lab(sepia(np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 256, 3)))[0]
    lab = in_lab(rgb)
    return np.hypot(*(lab[..., c] - np.interp(lab[..., 0], ramp[:, 0], ramp[:, c]) for c in (1, 2)))


def test_a_brown_photo_gets_a_face_as_brown(photo: Photo, face: Face) -> None:
    before = as_an_old_jpeg(sepia(photo.rgb))
    assert np.quantile(away_from_brown(toned(photo.rgb, before, face)), 0.9) < 3
    assert np.quantile(away_from_brown(photo.rgb), 0.5) > 10


@pytest.mark.parametrize("faded", [1.0, 0.5])
def test_a_coloured_photo_keeps_its_colours_and_a_faded_one_too(photo: Photo, face: Face, faded: float) -> None:
    before = np.rint(grey(photo.rgb) + faded * (photo.rgb.astype(float) - grey(photo.rgb))).astype(np.uint8)
    assert toned(photo.rgb, before, face) is photo.rgb


@pytest.mark.parametrize("template", sorted(GALLERY.glob("*/*.jpg")), ids=lambda path: path.stem)
def test_of_the_gallery_the_black_and_white_template_alone_has_one_tone(template: Path, profile: MiniProfile) -> None:
    rgb = read_photo(template).rgb
    other = np.roll(rgb, 1, 2)
    is_of_one_tone = toned(other, rgb, profile.detector(rgb)[0]) is not other
    assert is_of_one_tone == (template.stem == "black_and_white")


def test_neither_fusion_nor_diffusion_colours_a_black_and_white_portrait(
    people: dict[str, SubjectFiles], photo: Photo
) -> None:
    class Reddening:
        def painting(self, request: InpaintRequest, on_step: object = None) -> Painting:
            return Painting(request.image, lambda: [np.maximum(request.image, np.array([90, 0, 0], np.uint8))])

    class Colourful(MiniProfile):
        diffusion = Reddening()  # type: ignore[assignment]

    profile, template = Colourful("cpu"), Photo("old.jpg", grey(photo.rgb))
    config = profile.portrait.with_changes(hold_colours=False)
    report = make_portraits(people["a"], template, profile, config)
    assert colourfulness(report.portrait) <= 4
    assert report.likeness["final"] > profile.recogniser.same_person
