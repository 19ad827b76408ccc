"""How finely a picture shows a face: its focus and its skin's texture, measured and brought to another picture's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.bending import face_width
from engine.images import around_mask, for_channels
from engine.skin import hull, skin_likeness
from engine.types import Mask, Points

Plane = NDArray[np.float32]

FEATURES = slice(17, 68)  # brows, eyes, nose and mouth: where a face has edges
AGAIN = 0.02  # of the face's width: sigma of the second blur, by which the first one is measured
EDGES = 0.9  # quantile of the slopes above which they are edges
SHARPEST = 0.25  # quantile of those edges' blurs: soft ones are soft in any focus
NOTICED = 1.25  # times the other's blur: less is no difference of focus
FINE = 0.008  # of the face's width: sigma below which there is texture; no pixel shows it where that is less than one
LEAST_TEXTURE = 0.55  # of a photo's: freckles and wrinkles are a person's, however smooth the template


@dataclass(frozen=True, eq=False)
class Seen:
    """A face's pixels, and what is asked of them more than once."""

    rgb: Plane  # (H, W, 3), 0..1
    landmarks: Points  # 68 points and what else goes with them

    @cached_property
    def lab(self) -> Plane:
        return cv2.cvtColor(self.rgb, cv2.COLOR_RGB2LAB)

    @cached_property
    def skin(self) -> Mask:
        return skin_likeness(self.lab, self.landmarks)


def as_fine(face: Plane, template: Seen) -> tuple[Plane, float]:
    """`face` no sharper and its skin hardly rougher than the template's face, with the points of which it is shown; and
    the sigma by which it was blurred for that, 0 where the template is in focus. A face that is softer than the
    template's stays as it is: detail cannot be made up."""
    landmarks = template.landmarks
    blur, wanted = edge_blur(face, landmarks), edge_blur(template.rgb, landmarks)
    added = float(np.sqrt(wanted**2 - blur**2)) if wanted > NOTICED * blur else 0.0
    if added:
        face = cv2.GaussianBlur(face, (0, 0), added)
    face = _smooth_as(Seen(face, landmarks), template) if FINE * face_width(landmarks) >= 1 else face
    return face, added


def edge_blur(rgb: Plane, landmarks: Points) -> float:
    """Sigma, in pixels, of the blur of the sharpest edges of a face's features.

    An edge blurred once more loses the more of its slope the sharper it was (Zhuo and Sim 2011, Defocus map estimation
    from a single image).
    """
    again = AGAIN * face_width(landmarks)
    where = hull(landmarks[FEATURES], rgb.shape) > 0
    if not where.any():
        return 0.0
    seen = around_mask(where, ceil(4 * again) + 3)  # beyond the blur and the slope
    grey, where = cv2.cvtColor(rgb[seen], cv2.COLOR_RGB2GRAY), where[seen]
    slope, lower = _slope(grey), _slope(cv2.GaussianBlur(grey, (0, 0), again))
    edges = where & (slope >= np.quantile(slope[where], EDGES)) & (slope > 1e-4)
    if not edges.any():
        return 0.0
    ratio = np.maximum(slope[edges] / np.maximum(lower[edges], 1e-6), 1.001)
    return float(np.quantile(again / np.sqrt(ratio**2 - 1), SHARPEST))


def _smooth_as(face: Seen, template: Seen) -> Plane:
    lab, landmarks = face.lab, template.landmarks
    radius = FINE * face_width(landmarks)
    bare = 1 - cv2.GaussianBlur(_features(landmarks, lab.shape, radius), (0, 0), 2 * radius)
    inside = hull(landmarks, lab.shape) * bare
    texture, smoother = _finer(lab, radius), _finer(template.lab, radius)
    most = _strength(smoother, template.skin * inside) / max(_strength(texture, face.skin * inside), 1e-3)
    gain = float(np.clip(most, LEAST_TEXTURE, 1))
    texture *= 1 - gain
    texture *= for_channels(face.skin * bare)
    rgb = cv2.cvtColor(np.subtract(lab, texture, out=texture), cv2.COLOR_LAB2RGB)
    return np.clip(rgb, 0, 1, out=rgb)


def _finer(values: Plane, radius: float) -> Plane:
    coarse = cv2.GaussianBlur(values, (0, 0), radius)
    return np.subtract(values, coarse, out=coarse)


def _features(landmarks: Points, shape: tuple[int, ...], margin: float) -> Mask:
    mask = np.zeros(shape[:2], np.float32)
    for part in (slice(17, 22), slice(22, 27), slice(36, 42), slice(42, 48), slice(48, 60)):
        mask = np.maximum(mask, hull(landmarks[part], shape))
    size = 2 * int(2 * margin) + 1
    return cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))


def _strength(texture: Plane, where: Mask) -> float:
    """Mean size of a texture's lightness, by a median so that single hairs and moles do not count."""
    values = np.abs(cv2.extractChannel(texture, 0)[where > 0.5])
    return float(np.median(values)) if len(values) else 0.0


def _slope(grey: Plane) -> Plane:
    slope = cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    slope /= 8
    return slope
