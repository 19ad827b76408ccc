"""The working picture between two stages, and what is measured and remembered of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from engine import metrics
from engine.bending import bent_to
from engine.crop import Crop
from engine.images import Window, clip_box, grow_box
from engine.parsing import FaceParts, around, skin_of
from engine.profiles import Profile
from engine.stages import fuse, harmonise
from engine.subject import Subject
from engine.types import Embedding, Face, FaceRecogniser, Mask, Rgb

CHIP = 1.5  # boxes: what encoders of faces look at
RIM_ROOM = 0.15  # of a face mask's width: four times the widest sigma with which its rim is looked at


@dataclass(frozen=True)
class Look:
    """The working picture at one point of the pipeline, with the face in it and the face's parts."""

    rgb: Rgb
    face: Face
    parts: FaceParts
    recogniser: FaceRecogniser

    @staticmethod
    def of(rgb: Rgb, expected: Face, profile: Profile) -> Look:
        """`expected` is where the face should be; where exactly it is, is looked for."""
        face = fuse.nearest_face(rgb, expected, profile.detector)
        return Look(rgb, face, profile.parse(rgb, face), profile.recogniser)

    @cached_property
    def embedding(self) -> Embedding:
        """Made when it is first asked for: most looks are never compared to anybody."""
        return self.recogniser.embed(self.rgb, self.face)

    def shown_in(self, rgb: Rgb) -> Look:
        """The look of the same face in `rgb`; this one where no encoder of faces could tell them apart."""
        left, top, right, bottom = clip_box(grow_box(self.face.box_xyxy, CHIP), rgb.shape)
        is_same = np.array_equal(rgb[top:bottom, left:right], self.rgb[top:bottom, left:right])
        return self if is_same else replace(self, rgb=rgb)

    def likeness(self, others: Sequence[Embedding]) -> float:
        """Mean over `others`."""
        return mean_likeness(self.embedding, others, self.recogniser)


def mean_likeness(own: Embedding, others: Sequence[Embedding], recogniser: FaceRecogniser) -> float:
    return round(float(np.mean([recogniser.likeness(own, other) for other in others])), 4)


@dataclass(frozen=True)
class Rim:
    """Where the new face meets the template: the new face's edge, and where both have skin across it.

    `template` is bent so that its face has the new one's outline: a wider jaw brings its own shadow along, which is no
    seam, and the template's cheek where there is no cheek any more says nothing. Nor is a beard's edge a seam.
    """

    template: Rgb
    face: Mask
    skin: Mask

    @staticmethod
    def of(before: Look, fused: Look) -> Rim:
        template = bent_to(before.rgb, before.face.landmarks, fused.face.landmarks)
        mask = fused.parts.face
        seen, skin = _around_rim(mask), np.zeros_like(mask)
        skin[seen] = np.minimum(*(skin_of(rgb, fused.face, seen) for rgb in (template, fused.rgb)))
        rim = Rim(template, mask, skin)
        _ = rim._steps  # while nobody waits for it: a rim is worked out beside a pass
        return rim

    def seam(self, rgb: Rgb) -> float:
        own, counts = self._steps
        return round(metrics.mean_step(self._ring.steps(rgb[self._seen]) - own, counts), 2)

    def natural_step(self) -> float:
        return round(metrics.mean_step(*self._steps), 2)

    def matched(self, rgb: Rgb, face: Face) -> Rgb:
        rows, columns = seen = self._seen
        (own, _), there = self._steps, face.landmarks - np.array([columns.start, rows.start], np.float32)
        own_skin = skin_of(rgb[seen], replace(face, landmarks=there))
        result = rgb.copy()
        result[seen] = harmonise.rim_matched(rgb[seen], self._ring, own, self.skin[seen], own_skin, face.width)
        return result

    @cached_property
    def _steps(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The template's own, and how much each counts: the same for all pictures that are measured against it."""
        return self._ring.steps(self.template[self._seen]), self._ring.weight(self.skin[self._seen])

    @cached_property
    def _ring(self) -> metrics.Ring:
        return metrics.Ring.of(self.face[self._seen])

    @cached_property
    def _seen(self) -> Window:
        return _around_rim(self.face)


def _around_rim(face: Mask) -> Window:
    """Rows and columns beyond which nothing is looked at: no blur of either measure reaches farther."""
    x, y, width, height = cv2.boundingRect((face > 0.5).view(np.uint8))
    corners = np.array([[x, y], [x + width, y + height]], np.float32)
    return around(corners, RIM_ROOM * max(width, 1), face.shape)


@dataclass(frozen=True)
class Scores:
    """By what candidates are ranked: likeness to the reference photos x sharpness (1: the template's or better) x
    freedom from a seam (ΔE at the rim)."""

    likeness: float
    quality: float
    seam: float

    @property
    def worth(self) -> float:
        return round(max(0.0, self.likeness) * self.quality / (1 + self.seam), 4)

    @staticmethod
    def of(look: Look, before: Look, rim: Rim, subject: Subject) -> Scores:
        wanted = metrics.sharpness(before.rgb, before.parts.face)
        quality = min(1.0, metrics.sharpness(look.rgb, look.parts.face) / max(wanted, 1e-3))
        known = [reference.embedding for reference in subject.references]
        return Scores(look.likeness(known), round(quality, 3), rim.seam(look.rgb))

    def as_json(self) -> dict[str, float]:
        return {"likeness": self.likeness, "quality": self.quality, "seam": self.seam, "worth": self.worth}


@dataclass(frozen=True)
class Candidate:
    """One finished version of a face. `share` of what the diffusions changed was kept; `seed` is of its noise."""

    look: Look
    seed: int
    share: float
    scores: Scores


@dataclass(frozen=True)
class WorkedFace:
    """A face of a template, done: `candidates` best first, on the template's `piece`, to be pasted inside `mask`.

    `trail` holds the look after every stage, of the first candidate as it was painted.
    """

    number: int  # of the template's faces, left to right from 0
    face: Face  # in the template's frame
    subject: Subject
    piece: Crop
    mask: Mask
    rim: Rim
    before: Look
    fused: Look
    candidates: tuple[Candidate, ...]
    trail: dict[str, Look]
