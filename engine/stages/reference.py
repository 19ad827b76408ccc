"""Figure 2, box "reference photo": the subject's photo that suits this template's head pose, light and expression.

The reference system picks one photo per subject at training time, whatever the template shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from engine.crop import chip_crop
from engine.stages.parse import parse_by_landmarks
from engine.types import Embedding, Face, FaceRecogniser, Rgb

# What a mismatch costs, in units of likeness (0.1 is the difference between a good and a middling photo of a person).
PER_DEGREE_YAW = 0.012
PER_DEGREE_PITCH = 0.006
PER_MOUTH_OPENING = 1.5  # of the eyes' distance
PER_OPEN_MOUTH = 0.5  # whatever the template's: speaking mouths look odd
PER_SIDE_LIGHT = 0.12  # of a stop
PER_DARKNESS = 0.05  # of a stop
PER_MISSING_PIXEL = 0.15  # per halving of the face's size below the template's
CHIP = 96  # px, side of the chip on which light is measured
WIDE_ENOUGH = 160  # px: a face need not be larger than this, whatever the template's


@dataclass(frozen=True, eq=False)
class Reference:
    """A photo of the subject with their face in it."""

    rgb: Rgb
    face: Face
    embedding: Embedding


def best_reference(references: Sequence[Reference], template: Rgb, face: Face, recogniser: FaceRecogniser) -> Reference:
    """The reference with the best FaceID quality (mean likeness to the others) after what differs is taken off."""
    side, dark = _light(template, face)

    def worth(candidate: Reference) -> float:
        others = [o for o in references if o is not candidate]
        quality = np.mean([recogniser.likeness(candidate.embedding, o.embedding) for o in others]) if others else 0.0
        pose, wanted = candidate.face.pose, face.pose
        own_side, own_dark = _light(candidate.rgb, candidate.face)
        missing = np.log2(max(1.0, min(face.width, WIDE_ENOUGH) / candidate.face.width))
        return float(
            quality
            - PER_DEGREE_YAW * abs(pose.yaw - wanted.yaw)
            - PER_DEGREE_PITCH * abs(pose.pitch - wanted.pitch)
            - PER_OPEN_MOUTH * _mouth_opening(candidate.face)
            - PER_MOUTH_OPENING * abs(_mouth_opening(candidate.face) - _mouth_opening(face))
            - PER_SIDE_LIGHT * abs(own_side - side)
            - PER_DARKNESS * abs(own_dark - dark)
            - PER_MISSING_PIXEL * missing
        )

    return max(references, key=worth)


def _mouth_opening(face: Face) -> float:
    p = face.landmarks
    return float(np.linalg.norm(p[66] - p[62]) / np.linalg.norm(p[45] - p[36]))


def _light(rgb: Rgb, face: Face) -> tuple[float, float]:
    """Stops between the left and the right half of the skin, and of the whole skin below white."""
    crop = chip_crop(face, CHIP)
    chip = crop.cut(rgb)
    skin = parse_by_landmarks(chip, crop.moved_face(face)).skin > 0
    grey = cv2.cvtColor(chip, cv2.COLOR_RGB2GRAY) / 255.0
    is_left = np.arange(CHIP)[None, :] < CHIP / 2
    halves = [np.median(grey[skin & half]) if (skin & half).any() else 0.5 for half in (is_left, ~is_left)]
    stops = 2.2 * np.log2(np.clip(halves, 0.02, 1))  # 2.2: pictures are encoded for displays
    return float(stops[0] - stops[1]), float(-stops.mean())
