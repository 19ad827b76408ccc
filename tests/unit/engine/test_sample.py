"""The demo's sample subject, judged by the networks that judge people's photos."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.make_templates.portraits import FaceNetworks
from engine.sample import SELFIES, sample_selfies, write_selfies

SAME_PERSON_DISTANCE = 0.5


@pytest.fixture(scope="module")
def selfies() -> list[NDArray[np.uint8]]:
    return sample_selfies()


@pytest.fixture(scope="module")
def embeddings(selfies: list[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    networks = FaceNetworks()
    found = [networks.faces(_at_most(rgb, 640)) for rgb in selfies]
    assert [len(faces) for faces in found] == [1] * 7
    return [faces[0][1] for faces in found]


def _at_most(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    scale = side / max(rgb.shape[:2])
    return cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def test_every_two_selfies_show_the_same_person_and_are_not_the_same_picture(
    embeddings: list[NDArray[np.float32]],
) -> None:
    distances = [float(np.linalg.norm(a - b)) for a, b in itertools.combinations(embeddings, 2)]
    assert max(distances) < SAME_PERSON_DISTANCE
    assert min(distances) > 0.1


def test_selfies_are_large_and_differ_in_frame_and_light(selfies: list[NDArray[np.uint8]]) -> None:
    assert min(min(rgb.shape[:2]) for rgb in selfies) >= 700
    small = [cv2.resize(rgb, (16, 16), interpolation=cv2.INTER_AREA).astype(float) for rgb in selfies]
    differences = [np.abs(a - b).mean() for a, b in itertools.combinations(small, 2)]
    assert min(differences) > 10


def test_the_same_seed_writes_the_same_seven_pictures(selfies: list[NDArray[np.uint8]], tmp_path: Path) -> None:
    paths = write_selfies(tmp_path / "photos")
    assert len(paths) == len(SELFIES) == 7
    for path, selfie, made in zip(paths, SELFIES, selfies, strict=True):
        quality = [cv2.IMWRITE_JPEG_QUALITY, selfie.jpeg_quality]
        assert path.read_bytes() == cv2.imencode(".jpg", made[:, :, ::-1], quality)[1].tobytes()
