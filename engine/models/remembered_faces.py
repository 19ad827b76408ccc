"""Faces found once: a picture that was searched before is not searched again.

The next portrait often has the same template, and its search of the whole picture is the longest of all. Pictures are
told by their bytes. What a single portrait finds out about its pictures travels with them (`engine/looks.py`).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from engine.types import Face, FaceDetector, Rgb

MOST = 256  # answers; each is a few kilobytes


class RememberingDetector:
    """`FaceDetector` that asks another one, once per picture. The one that was not asked for the longest is forgotten
    first. What is searched for near a face is not remembered: that is as cheap."""

    def __init__(self, detector: FaceDetector) -> None:
        self._detector = detector
        self._known: OrderedDict[bytes, list[Face]] = OrderedDict()

    def __call__(self, rgb: Rgb) -> list[Face]:
        picture = _digest(rgb)
        faces = self._known.pop(picture, None)  # in one go: pictures are searched side by side
        if faces is None:
            faces = self._detector(rgb)
        self._known[picture] = faces
        if len(self._known) > MOST:
            self._known.popitem(last=False)
        return list(faces)

    def near(self, rgb: Rgb, expected: Face) -> list[Face]:
        return self._detector.near(rgb, expected)


def _digest(rgb: Rgb) -> bytes:
    return hashlib.blake2b(repr(rgb.shape).encode() + rgb.tobytes(), digest_size=16).digest()
