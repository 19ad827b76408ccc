"""Figure 1, boxes "portrait segmentation" and "face crop": the person before a plain soft background.

The reference cuts the saliency mask hard, by a rectangle that takes the hairline too, and fills with white; two thirds
of each training picture are then white. Here edges are soft and hair stays unless the configuration says otherwise.
"""

from __future__ import annotations

import numpy as np

from engine.images import feather
from engine.types import Face, Mask, Rgb

# What is kept without hair: the reference's rectangle, measured on landmarks because detectors' boxes differ. Above the
# brows and below the chin in shares of brows to chin, beside the jaw in shares of its width.
ABOVE, BELOW, BESIDE = 0.2, 0.15, 0.1
EDGE = 0.08  # softness of that rectangle, over the face's width
BACKGROUND = (235, 233, 230)  # soft white


def person_mask(saliency: Mask, face: Face, keep_hair: bool) -> Mask:
    """The part of `saliency` (same frame as `face`) that is learned from."""
    if keep_hair:
        return saliency
    jaw, brows = face.landmarks[:17], face.landmarks[17:27].mean(0)
    left, right, chin = jaw[:, 0].min(), jaw[:, 0].max(), jaw[:, 1].max()
    height, width = chin - brows[1], right - left
    rows = slice(max(0, round(brows[1] - ABOVE * height)), max(0, round(chin + BELOW * height)))
    columns = slice(max(0, round(left - BESIDE * width)), max(0, round(right + BESIDE * width)))
    rectangle = np.zeros_like(saliency)
    rectangle[rows, columns] = 1
    return saliency * feather(rectangle, EDGE * face.width)


def on_plain_background(rgb: Rgb, mask: Mask) -> Rgb:
    """`rgb` where the mask is 1, a soft white where it is 0."""
    mixed = rgb * mask[..., None] + np.array(BACKGROUND, np.float32) * (1 - mask[..., None])
    return np.rint(mixed).clip(0, 255).astype(np.uint8)
