"""Faces found once, and searched for only around where they are known to be: the same answers, fewer questions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from engine.crop import Crop
from engine.models import remembered_faces
from engine.models.dlib_faces import DlibDetector, DlibFaceId
from engine.models.remembered_faces import RememberingDetector
from engine.types import Face, HeadPose, Photo, Rgb


class Counting:
    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, rgb: Rgb) -> list[Face]:
        self.asked += 1
        return [face(float(rgb.max()))]

    def near(self, rgb: Rgb, expected: Face) -> list[Face]:
        return [expected]


def face(score: float) -> Face:
    points = np.full((68, 2), score, np.float32)
    return Face((0, 0, 1, 1), points[:5], points, score, HeadPose(0, 0, 0))


def test_a_picture_is_searched_once_and_another_one_again() -> None:
    counting = Counting()
    detector = RememberingDetector(counting)
    picture = np.zeros((4, 6, 3), np.uint8)
    first = detector(picture)
    first.clear()  # what a caller does to its list stays its own affair
    assert [f.score for f in detector(picture.copy())] == [0.0]
    assert counting.asked == 1
    picture[1, 1] = 7
    assert [f.score for f in detector(picture)] == [7.0]
    detector(picture.reshape(6, 4, 3))
    assert counting.asked == 3
    assert [f.score for f in detector.near(picture, face(5))] == [5.0]


def test_what_was_not_asked_for_the_longest_is_forgotten() -> None:
    counting = Counting()
    detector = RememberingDetector(counting)
    pictures = [np.full((1, 1, 3), k, np.uint8) for k in range(2)]
    more = [np.full((1, k, 3), 9, np.uint8) for k in range(2, remembered_faces.MOST + 1)]
    for picture in (*pictures, pictures[0], *more, pictures[0], pictures[1]):
        detector(picture)
    assert counting.asked == 2 + len(more) + 1  # only pictures[1] had to be searched again


@pytest.mark.parametrize("degrees", [0, 35])
@pytest.mark.parametrize("name", ["a/img17", "b/img31", "c/img13", "family/detection1"])
def test_a_face_is_found_near_its_place_as_in_the_whole_picture(
    name: str, degrees: int, selfie: Callable[[str], Photo], detector: DlibDetector, recogniser: DlibFaceId
) -> None:
    """Although it moved a little since, and lies on its side."""
    photo = selfie(name).rgb
    height, width = photo.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    rgb = cv2.warpAffine(photo, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
    for upright in detector(photo):
        whole = Crop(turn, (width, height)).moved_face(upright)
        away, pose = 0.05 * upright.width, replace(upright.pose, roll=upright.pose.roll - degrees)
        box = tuple(side + away for side in whole.box_xyxy)
        expected = replace(whole, box_xyxy=box, landmarks=whole.landmarks + np.float32(away), pose=pose)
        near = min(detector.near(rgb, expected), key=lambda f: abs(f.landmarks - whole.landmarks).sum())
        assert np.linalg.norm(near.landmarks - whole.landmarks, axis=1).mean() < 0.03 * whole.width
        # The box is the known one, carried along.
        assert near.box_xyxy == pytest.approx(whole.box_xyxy, abs=0.06 * whole.width)
        if upright.width > 60:  # px: of smaller faces, dlib's own embeddings jump
            assert recogniser.likeness(recogniser.embed(rgb, whole), recogniser.embed(rgb, near)) > 0.8
    nowhere = replace(whole, box_xyxy=(0.0, 0.0, 30.0, 30.0), landmarks=whole.landmarks * 0)
    assert detector.near(np.zeros_like(rgb), nowhere) == []
