"""Figure 2, the parts of a face that the masks are made of, from landmarks.

The reference parses with a network of 19 classes; its sets are FACE = skin, brows, eyes, nose, mouth, lips (no ears, no
neck, no glasses), EYES and LIPS. Drawn from 68 points the same sets need no network; another profile's parser gives the
same parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from engine.skin import skin_likeness
from engine.types import Face, Mask, Points, Rgb

FOREHEAD = 0.35  # how far the face goes on above the brows, of the distance from lips to brows


@dataclass(frozen=True)
class FaceParts:
    """Masks (H, W) of 0 and 1 in the picture's frame.

    `skin` is what of `face` has the colour of its cheeks: no eyes, brows, lips, beard, glasses or hair in front of it.
    """

    face: Mask
    eyes: Mask
    lips: Mask
    nose: Mask
    skin: Mask


Parser = Callable[[Rgb, Face], FaceParts]


def parse_by_landmarks(rgb: Rgb, face: Face) -> FaceParts:
    """The parts of `face`, a face of `rgb`."""
    p = face.landmarks
    up = (p[17:27].mean(0) - p[48:60].mean(0)) * FOREHEAD
    whole = _hull(rgb, np.concatenate([p[0:27], p[17:27] + up]))
    eyes = np.maximum(_hull(rgb, p[36:42]), _hull(rgb, p[42:48]))
    brows = np.maximum(_hull(rgb, p[17:22]), _hull(rgb, p[22:27]))
    lips = _hull(rgb, p[48:60])
    around = grown(np.maximum(np.maximum(eyes, brows), lips), 0.03 * face.width)
    skin = whole * (1 - around) * (skin_of(rgb, face) > 0.5)
    return FaceParts(whole, eyes, lips, _hull(rgb, p[27:36]), skin)


def skin_of(rgb: Rgb, face: Face) -> Mask:
    """How much each pixel of the picture (0..1, inside the face or not) looks like the skin of `face`."""
    return skin_likeness(cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), face.landmarks)


def grown(mask: Mask, by: float) -> Mask:
    """`mask` (of 0 and 1) grown by `by` pixels, or shrunk where `by` is negative; the picture's border eats nothing."""
    if by >= 0:
        return (cv2.distanceTransform((mask == 0).astype(np.uint8), cv2.DIST_L2, 5) <= by).astype(np.float32)
    return (cv2.distanceTransform((mask > 0).astype(np.uint8), cv2.DIST_L2, 5) > -by).astype(np.float32)


def closed(mask: Mask, by: float) -> Mask:
    """Gaps narrower than `by` pixels filled."""
    return grown(grown(mask, by / 2), -by / 2)


def _hull(rgb: Rgb, points: Points) -> Mask:
    mask = np.zeros(rgb.shape[:2], np.float32)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.round(points).astype(np.int32)), 1.0)
    return mask
