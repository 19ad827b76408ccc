"""Figure 2, boxes "super resolution" and "skin retouch": the last touches on the whole picture."""

from __future__ import annotations

import cv2

from engine.crop import mixed
from engine.types import Enhancer, Rgb

LONGEST = 4096  # px: a picture that would become longer keeps its size


def enhanced(rgb: Rgb, enhancer: Enhancer, ratio: float) -> Rgb:
    """The picture at twice its size: `ratio` of the enhancer's, the rest plainly enlarged. Large pictures stay."""
    height, width = rgb.shape[:2]
    if 2 * max(height, width) > LONGEST:
        return rgb
    plain = cv2.resize(rgb, (2 * width, 2 * height), interpolation=cv2.INTER_CUBIC)
    return mixed(plain, enhancer(rgb), ratio)
