"""Figure 2, box "reference photo": the subject's photo that suits this template's head pose, light and expression.

The reference system picks one photo per subject at training time, whatever the template shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from engine.crop import box_crop, chip_crop
from engine.parsing import parse_by_landmarks, skin_of
from engine.skin import fringe
from engine.types import Embedding, Face, FaceRecogniser, Points, Rgb

# What a mismatch costs, in units of likeness (0.1 is the difference between a good and a middling photo of a person).
PER_DEGREE_YAW = 0.012
PER_DEGREE_PITCH = 0.006
PER_MOUTH_OPENING = 1.5  # of the eyes' distance, beyond the template's
PER_OPEN_MOUTH = 0.5  # whatever the template's: speaking mouths look odd
PER_SIDE_LIGHT = 0.12  # of a stop
PER_DARKNESS = 0.05  # of a stop
PER_MISSING_PIXEL = 0.15  # per halving of the face's size below the template's
CHIP = 96  # px, side of the chip on which light is measured
SKIN_SIDE = 256  # px of a picture, twice as wide as the face, on which its forehead is looked at
WIDE_ENOUGH = 160  # px: a face need not be larger than this, whatever the template's
PER_BLUR = 0.06  # per halving of the detail below the sharpest photo's
FOR_MIRRORING = 0.05  # a mirrored face is still alike, but nobody's face is symmetric
TURNED = 12.0  # degrees of yaw from which a template has a side that a photo may lack
SPEAKING = 0.06  # mouth opening: such a photo is taken only where there is no other

# Which of the 68 points becomes which when a picture is mirrored.
MIRRORED = (
    *range(16, -1, -1),
    *range(26, 16, -1),
    *range(27, 31),
    *range(35, 30, -1),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),
    *(64, 63, 62, 61, 60, 67, 66, 65),
)


@dataclass(frozen=True)
class Traits:
    """What is measured on a photo of a person once, and written down with it."""

    side_light: float  # stops between the left and the right half of the skin
    darkness: float  # stops of the skin below white
    detail: float  # how much the photo shows of the face: its sharpness in comparison to others of one person
    fringe: float  # 0: the forehead is bare, 1: it lies behind a fringe

    @staticmethod
    def of(rgb: Rgb, face: Face) -> Traits:
        chip = _chip(rgb, face)
        wide = box_crop(face, 2.0, (SKIN_SIDE, SKIN_SIDE))
        there = wide.moved_face(face)
        forehead = fringe(skin_of(wide.cut(rgb), there), there.landmarks)
        return Traits(*(round(value, 4) for value in (*_light(chip, face), _detail(chip), forehead)))

    def as_json(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Reference:
    """A photo of the subject with their face in it. Of many, few are ever looked at: `rgb` is read when it is."""

    read: Callable[[], Rgb]
    face: Face
    embedding: Embedding
    traits: Traits

    @staticmethod
    def of(rgb: Rgb, face: Face, embedding: Embedding) -> Reference:
        return Reference(lambda: rgb, face, embedding, Traits.of(rgb, face))

    @cached_property
    def rgb(self) -> Rgb:
        """Raises whatever `read` does."""
        return self.read()


def ranked_references(
    references: Sequence[Reference], template: Rgb, face: Face, recogniser: FaceRecogniser, most: int
) -> list[tuple[float, Reference]]:
    """The `most` best and what each is worth: FaceID quality (mean likeness to the other photos) less what differs.

    Speaking mouths are left out where they can be. For a turned template every photo counts as its mirror image too,
    which may be the one that is turned to that side.
    """
    side, dark = _light(_chip(template, face), face)
    calm = [r for r in references if _mouth_opening(r.face) < SPEAKING] or list(references)
    sharpest = max(r.traits.detail for r in calm)

    def worth(candidate: Reference, is_mirrored: bool) -> float:
        others = [o for o in references if o is not candidate]
        quality = np.mean([recogniser.likeness(candidate.embedding, o.embedding) for o in others]) if others else 0.0
        pose, wanted, traits = candidate.face.pose, face.pose, candidate.traits
        side_shown = -1 if is_mirrored else 1
        missing = np.log2(max(1.0, min(face.width, WIDE_ENOUGH) / candidate.face.width))
        return float(
            quality
            - PER_DEGREE_YAW * abs(side_shown * pose.yaw - wanted.yaw)
            - PER_DEGREE_PITCH * abs(pose.pitch - wanted.pitch)
            - PER_OPEN_MOUTH * _mouth_opening(candidate.face)
            - PER_MOUTH_OPENING * max(0.0, _mouth_opening(candidate.face) - _mouth_opening(face))
            - PER_SIDE_LIGHT * abs(side_shown * traits.side_light - side)
            - PER_DARKNESS * abs(traits.darkness - dark)
            - PER_MISSING_PIXEL * missing
            - PER_BLUR * np.log2(sharpest / traits.detail)
            - FOR_MIRRORING * is_mirrored
        )

    choices = [(worth(r, False), r, False) for r in calm]
    if abs(face.pose.yaw) > TURNED:
        choices += [(worth(r, True), r, True) for r in calm]
    best = sorted(choices, key=lambda choice: choice[0], reverse=True)[:most]
    return [(value, mirrored(r) if is_mirrored else r) for value, r, is_mirrored in best]


def mirrored(reference: Reference) -> Reference:
    """The photo left for right, with its face; the embedding stays the photo's."""
    face, traits, width = reference.face, reference.traits, reference.rgb.shape[1]

    def flipped(points: Points, order: Sequence[int]) -> Points:
        return np.column_stack([width - 1 - points[:, 0], points[:, 1]])[list(order)].astype(np.float32)

    x1, y1, x2, y2 = face.box_xyxy
    return replace(
        reference,
        read=lambda: np.ascontiguousarray(reference.rgb[:, ::-1]),
        traits=replace(traits, side_light=-traits.side_light),
        face=replace(
            face,
            box_xyxy=(width - 1 - x2, y1, width - 1 - x1, y2),
            points=flipped(face.points, (1, 0, 2, 4, 3)),
            landmarks=flipped(face.landmarks, MIRRORED),
            pose=replace(face.pose, yaw=-face.pose.yaw, roll=-face.pose.roll),
        ),
    )


def _chip(rgb: Rgb, face: Face) -> Rgb:
    """All faces of one size, for what is compared."""
    return chip_crop(face, CHIP).cut(rgb)


def _detail(chip: Rgb) -> float:
    grey = cv2.cvtColor(chip, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float(np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 1.0)).mean()) + 0.1


def _mouth_opening(face: Face) -> float:
    p = face.landmarks
    return float(np.linalg.norm(p[66] - p[62]) / np.linalg.norm(p[45] - p[36]))


def _light(chip: Rgb, face: Face) -> tuple[float, float]:
    """Stops between the left and the right half of the skin, and of the whole skin below white. `face` is the one that
    the chip was cut for."""
    skin = parse_by_landmarks(chip, chip_crop(face, CHIP).moved_face(face)).skin > 0
    grey = cv2.cvtColor(chip, cv2.COLOR_RGB2GRAY) / 255.0
    is_left = np.arange(CHIP)[None, :] < CHIP / 2
    halves = [np.median(grey[skin & half]) if (skin & half).any() else 0.5 for half in (is_left, ~is_left)]
    stops = 2.2 * np.log2(np.clip(halves, 0.02, 1))  # 2.2: pictures are encoded for displays
    return float(stops[0] - stops[1]), float(-stops.mean())
