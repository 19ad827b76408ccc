"""Figure 1, box "image quality score": is a face good enough to learn from?

The reference has no code for this box. Here plain measures decide, each on the face alone. The limits were set on
real photos and on blurred, darkened, brightened and shrunk copies of them (tests/unit/engine/test_inspection.py).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import cos, radians

import cv2
import numpy as np

from engine.config import PhotoLimits
from engine.images import clip_box, fitted, resized
from engine.occlusion import Visibility, visibility
from engine.types import Face, Reason, Rgb, Verdict

CHIP_WIDTH = 128  # px to which the face box is scaled before sharpness is measured: the measure then ignores resolution


@dataclass(frozen=True)
class Measures:
    """What was measured on one face. Tones are grey levels 0..255 of the face box."""

    width_px: float
    sharpness: float  # least second derivative over four directions, in % of the contrast; motion blur lowers it too
    dark_tone: float  # 5th percentile
    middle_tone: float
    light_tone: float  # 95th percentile
    clipped: float  # share of burnt-out pixels
    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    visibility: Visibility

    def as_dict(self) -> dict[str, float]:
        numbers = asdict(self)
        seen = numbers.pop("visibility")
        return {name: round(float(value), 3) for name, value in {**numbers, **seen}.items()}


def measure(rgb: Rgb, face: Face) -> Measures:
    """Measures of `face` in `rgb`."""
    left, top, right, bottom = clip_box(face.box_xyxy, rgb.shape)
    box = rgb[top:bottom, left:right]
    grey = _grey(resized(box, (CHIP_WIDTH, max(3, round(CHIP_WIDTH * box.shape[0] / box.shape[1])))))
    dark, middle, light = np.percentile(grey, (5, 50, 95))
    return Measures(
        face.width, sharpness(grey), dark, middle, light, float((grey >= 250).mean()),
        face.pose.yaw, face.pose.pitch, face.pose.roll, visibility(rgb, face),
    )  # fmt: skip


def sharpness(grey: np.ndarray) -> float:
    """Variance of the second derivative in the blurriest of four directions, in % of the picture's own variance."""
    middle = grey[1:-1, 1:-1]
    neighbours = (  # two opposite neighbours and their squared squared distance
        (grey[1:-1, :-2], grey[1:-1, 2:], 1),
        (grey[:-2, 1:-1], grey[2:, 1:-1], 1),
        (grey[:-2, :-2], grey[2:, 2:], 4),
        (grey[:-2, 2:], grey[2:, :-2], 4),
    )
    variance = min(float((a + b - 2 * middle).var()) / weight for a, b, weight in neighbours)
    return 100 * variance / max(float(grey.var()), 1e-6)


def verdict(measures: Measures, limits: PhotoLimits) -> tuple[Verdict, Reason | None]:
    """The first refusal, else the first warning, else OK."""
    m = measures
    checks = (  # reason, how far beyond: each value grows as the photo gets worse
        (Reason.TOO_SMALL, -m.width_px, limits.width_px, -1),
        (Reason.BLURRED, -m.sharpness, limits.sharpness, -1),
        (Reason.TOO_DARK, -m.light_tone, limits.light_tone, -1),
        (Reason.TOO_DARK, -m.middle_tone, limits.middle_tone, -1),
        (Reason.TOO_BRIGHT, m.clipped, limits.clipped, 1),
        (Reason.TOO_BRIGHT, m.dark_tone, limits.dark_tone, 1),
        (Reason.TURNED_AWAY, abs(m.yaw_deg), limits.yaw_deg, 1),
        (Reason.TURNED_AWAY, abs(m.pitch_deg), limits.pitch_deg, 1),
        (Reason.OCCLUDED, -m.visibility.eye_light, limits.eye_light, -1),
        (Reason.OCCLUDED, -m.visibility.mouth_contrast, limits.mouth_contrast, -1),
        (Reason.OCCLUDED, m.visibility.lower_face_tint, limits.lower_face_tint, 1),
    )
    for level, result in ((0, Verdict.REFUSED), (1, Verdict.WARNING)):
        for reason, value, pair, sign in checks:
            if value > sign * pair[level]:
                return result, reason
    return Verdict.OK, None


def reason_without_face(rgb: Rgb) -> Reason:
    """Why no face was found: the whole picture is black, burnt out or smeared, or there is no face in it."""
    grey = _grey(fitted(rgb, 256)[0])
    if np.percentile(grey, 95) < 40:
        return Reason.TOO_DARK
    if np.percentile(grey, 25) >= 252:
        return Reason.TOO_BRIGHT
    if min(grey.shape) > 2 and sharpness(grey) < SMEARED:
        return Reason.BLURRED
    return Reason.NO_FACE


SMEARED = 0.1  # sharpness of a whole picture (256 px) in which not even a landscape would be recognised


def score(measures: Measures) -> float:
    """0..1, how good a face is to show and to compare with: frontal, sharp, large and well lit."""
    frontal = cos(radians(min(abs(measures.yaw_deg), 80))) * cos(radians(min(abs(measures.pitch_deg), 80)))
    sharp = min(1.0, measures.sharpness / 1.5)
    large = min(1.0, measures.width_px / 200)
    lit = 1.0 - min(1.0, abs(measures.middle_tone - 140) / 140) ** 2
    return float(frontal**2 * (0.4 + 0.6 * sharp) * (0.4 + 0.6 * large) * (0.4 + 0.6 * lit))


def _grey(rgb: Rgb) -> np.ndarray:
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
