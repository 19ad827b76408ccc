"""The pictures that the product ships: what a person sees in the gallery, and what training renders into."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import bot
import engine
from engine.make_templates.portraits import FaceNetworks

GALLERY = Path(bot.__file__).parent / "gallery"
ID_TEMPLATES = Path(engine.__file__).parent / "id_templates"
PICTURES = sorted(GALLERY.glob("*/*.jpg"))


@pytest.fixture(scope="module")
def networks() -> FaceNetworks:
    return FaceNetworks()


def _read(path: Path) -> NDArray[np.uint8]:
    return np.ascontiguousarray(cv2.imread(str(path))[:, :, ::-1])


def test_at_least_eight_templates_are_shipped_in_several_categories_for_women_and_men_alike() -> None:
    wears = Counter(json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["wears"] for path in PICTURES)
    assert len(PICTURES) >= 8
    assert abs(wears["woman"] - wears["man"]) <= 1
    assert len({path.parent.name for path in PICTURES}) >= 4


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_a_template_has_titles_in_both_languages_and_one_large_face(path: Path, networks: FaceNetworks) -> None:
    info = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert info["title"]["en"].isascii()
    assert not info["title"]["zh"].isascii()
    assert info["people"] == 1
    rgb = _read(path)
    assert min(rgb.shape[:2]) >= 768
    assert path.stat().st_size < 300_000
    faces = networks.faces(rgb)
    assert len(faces) == 1
    landmarks, _, (left, _, right, _) = faces[0]
    assert right - left >= 200
    middle = (landmarks[1, 0] + landmarks[15, 0]) / 2
    assert abs(landmarks[30, 0] - middle) / (right - left) < 0.12  # roughly frontal


def test_no_two_titles_are_alike() -> None:
    infos = [json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) for path in PICTURES]
    for language in ("en", "zh"):
        assert len({info["title"][language] for info in infos}) == len(infos)


def test_the_four_id_templates_show_one_face_each_near_their_middle(networks: FaceNetworks) -> None:
    paths = sorted(ID_TEMPLATES.glob("*.jpg"))
    assert [path.stem for path in paths] == ["1", "2", "3", "4"]
    for path in paths:
        rgb = _read(path)
        faces = networks.faces(rgb)
        assert len(faces) == 1
        left, top, right, bottom = faces[0][2]
        assert abs((left + right) / 2 / rgb.shape[1] - 0.5) < 0.1
        assert 0.2 < (top + bottom) / 2 / rgb.shape[0] < 0.6
