"""Figure 2, box "face fusion": the reference's face into the picture, and how much of it stays.

Sizes in pixels are the reference's on a working picture whose short side is 512; they are scaled with the picture.
"""

from __future__ import annotations

import cv2
import numpy as np

from engine.crop import blend
from engine.parsing import FaceParts, grown
from engine.types import Face, FaceDetector, Mask, Rgb

WORKING_SIDE = 512
DILATE, ERODE, DILATE_EYES, BLUR = 8, 16, 16, 8


def mixed(picture: Rgb, fusion: Rgb, own: FaceParts, other: FaceParts, ratio: float) -> Rgb:
    """The fusion over the picture: its eyes wholly, its skin by `ratio`, never its lips. `own` are the parts of the
    picture's face, `other` those of the fusion's, whose shape may differ."""
    return blend(picture, fusion, blend_mask(own, other, ratio, min(picture.shape[:2]) / WORKING_SIDE))


def blend_mask(own: FaceParts, other: FaceParts, ratio: float, unit: float) -> Mask:
    """Weights of the fusion: `ratio` where both pictures have face, 1 around its eyes, 0 on the picture's own lips."""
    mask = grown(grown(own.face * other.face, DILATE * unit / 2), -ERODE * unit / 2) * ratio
    mask = np.where(grown(other.eyes, DILATE_EYES * unit / 2) > 0, 1.0, mask)
    mask = np.where(own.lips > 0, 0.0, mask).astype(np.float32)
    size = max(1, round(BLUR * unit))
    return cv2.blur(mask, (size, size))


def nearest_face(rgb: Rgb, expected: Face, detector: FaceDetector) -> Face:
    """The face of `rgb` where `expected` is; `expected` itself if the detector does not see it."""
    centre = expected.landmarks.mean(0)
    away = [(float(np.linalg.norm(f.landmarks.mean(0) - centre)), f) for f in detector.near(rgb, expected)]
    distance, nearest = min(away, key=lambda one: one[0], default=(np.inf, expected))
    return nearest if distance < 0.4 * expected.width else expected
