"""Faces found once: the same answers, fewer questions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.models import remembered_faces
from engine.models.dlib_faces import DlibDetector, DlibFaceId
from engine.models.remembered_faces import RememberingDetector, RememberingFuser, RememberingRecogniser
from engine.types import Embedding, Face, HeadPose, Photo, Rgb


class Counting:
    name, same_person = "counting", 0.5

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, rgb: Rgb) -> list[Face]:
        self.asked += 1
        return [face(float(rgb.max()))]

    def embed(self, rgb: Rgb, face: Face) -> Embedding:
        self.asked += 1
        return np.array([face.score], np.float32)

    def likeness(self, a: Embedding, b: Embedding) -> float:
        return float(a @ b)


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


def test_an_embedding_belongs_to_a_picture_and_a_face() -> None:
    counting = Counting()
    recogniser = RememberingRecogniser(counting)
    picture = np.zeros((4, 6, 3), np.uint8)
    assert [recogniser.embed(picture, face(score))[0] for score in (1.0, 2.0, 1.0)] == [1.0, 2.0, 1.0]
    assert counting.asked == 2
    assert (recogniser.name, recogniser.same_person) == ("counting", 0.5)


def test_a_fusion_is_made_once_and_what_is_done_to_it_stays_outside() -> None:
    made: list[int] = []

    def fuse(template: Rgb, template_face: Face, reference: Rgb, reference_face: Face) -> Rgb:
        made.append(len(made))
        return np.full_like(template, reference[0, 0, 0])

    fuser = RememberingFuser(fuse)
    template, reference = np.zeros((4, 6, 3), np.uint8), np.full((4, 6, 3), 5, np.uint8)
    first = fuser(template, face(1), reference, face(2))
    first[:] = 0
    assert (fuser(template, face(1), reference, face(2)) == 5).all()
    assert len(made) == 1
    fuser(template, face(1), reference, face(3))
    fuser(template, face(4), reference, face(2))
    fuser(reference, face(1), reference, face(2))
    assert len(made) == 4


def test_what_was_not_asked_for_the_longest_is_forgotten() -> None:
    counting = Counting()
    detector = RememberingDetector(counting)
    pictures = [np.full((1, 1, 3), k, np.uint8) for k in range(2)]
    more = [np.full((1, k, 3), 9, np.uint8) for k in range(2, remembered_faces.MOST + 1)]
    for picture in (*pictures, pictures[0], *more, pictures[0], pictures[1]):
        detector(picture)
    assert counting.asked == 2 + len(more) + 1  # only pictures[1] had to be searched again


def test_the_answers_are_those_of_dlib(
    selfie: Callable[[str], Photo], detector: DlibDetector, recogniser: DlibFaceId
) -> None:
    rgb = selfie("b/img31").rgb
    (found,), (again,) = detector(rgb), RememberingDetector(detector)(rgb)
    assert np.array_equal(found.landmarks, again.landmarks)
    assert np.array_equal(recogniser.embed(rgb, found), RememberingRecogniser(recogniser).embed(rgb, again))
