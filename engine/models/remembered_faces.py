"""Faces found once: a picture that was looked at before is not searched again.

One portrait asks for the faces of the same picture several times (where is it, how alike is it before and after a
stage), and the next one has the same template or the same reference photos. Pictures are told by their bytes.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from engine.types import Embedding, Face, FaceDetector, FaceFuser, FaceRecogniser, Rgb

MOST = 256  # answers; each is a few kilobytes
FUSIONS = 8  # pictures: as many as one portrait tries, and a few more

T = TypeVar("T")


class RememberingDetector:
    """`FaceDetector` that asks another one, once per picture."""

    def __init__(self, detector: FaceDetector) -> None:
        self._detector = detector
        self._known: _Known[list[Face]] = _Known()

    def __call__(self, rgb: Rgb) -> list[Face]:
        return list(self._known.get(_digest(rgb), lambda: self._detector(rgb)))


class RememberingRecogniser:
    """`FaceRecogniser` that asks another one, once per picture and face."""

    def __init__(self, recogniser: FaceRecogniser) -> None:
        self._recogniser = recogniser
        self.name, self.same_person = recogniser.name, recogniser.same_person
        self._known: _Known[Embedding] = _Known()

    def embed(self, rgb: Rgb, face: Face) -> Embedding:
        return self._known.get(_digest(rgb) + _place(face), lambda: self._recogniser.embed(rgb, face)).copy()

    def likeness(self, a: Embedding, b: Embedding) -> float:
        return self._recogniser.likeness(a, b)


class RememberingFuser:
    """`FaceFuser` that asks another one, once per template, reference and their faces: trying which reference suits
    best makes the fusion that is then taken."""

    def __init__(self, fuser: FaceFuser) -> None:
        self._fuser = fuser
        self._known: _Known[Rgb] = _Known(FUSIONS)

    def __call__(self, template: Rgb, template_face: Face, reference: Rgb, reference_face: Face) -> Rgb:
        question = b"".join((_digest(template), _place(template_face), _digest(reference), _place(reference_face)))
        fused = self._known.get(question, lambda: self._fuser(template, template_face, reference, reference_face))
        return fused.copy()


class _Known(Generic[T]):
    """Answers by question; the one that was not asked for the longest is forgotten first."""

    def __init__(self, most: int = MOST) -> None:
        self._answers: OrderedDict[bytes, T] = OrderedDict()
        self._most = most

    def get(self, question: bytes, ask: Callable[[], T]) -> T:
        answer = self._answers.pop(question) if question in self._answers else ask()
        self._answers[question] = answer
        if len(self._answers) > self._most:
            self._answers.popitem(last=False)
        return answer


def _place(face: Face) -> bytes:
    return face.landmarks.tobytes() + face.points.tobytes()


def _digest(rgb: Rgb) -> bytes:
    return hashlib.blake2b(repr(rgb.shape).encode() + rgb.tobytes(), digest_size=16).digest()
