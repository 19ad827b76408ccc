"""Figure 2, colour shift: the face takes on the colours that the template's face had (Reinhard et al. 2001, in Lab).

The reference measures whole rectangles with hair and background in them, in bytes; here skin only, in floats. Where
lips take part they turn orange, so the last shift leaves them out.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.crop import blend
from engine.types import Mask, Rgb

BLUR = 32  # px on a working picture whose short side is 512
LEAST_SPREAD = 0.5  # of a channel: flat skin is not stretched
GAIN = (0.7, 1.4)  # of a channel's spread: beyond it, noise would be stretched or texture lost


def colour_shifted(picture: Rgb, skin: Mask, target: Rgb, target_skin: Mask, where: Mask) -> Rgb:
    """`picture` with the mean and spread of its skin brought to the target's, applied softly to skin inside `where`.

    Without skin in one of the two pictures nothing changes.
    """
    if skin.max() == 0 or target_skin.max() == 0 or where.max() == 0:
        return picture
    lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    mean, spread = _statistics(lab[skin > 0])
    target_mean, target_spread = _statistics(
        cv2.cvtColor(target.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[target_skin > 0]
    )
    shifted = (lab - mean) * np.clip(target_spread / spread, *GAIN) + target_mean
    rgb = cv2.cvtColor(shifted.astype(np.float32), cv2.COLOR_LAB2RGB) * 255
    size = max(1, round(BLUR * min(picture.shape[:2]) / 512))
    return blend(picture, rgb, cv2.blur(where * skin, (size, size)) * cv2.blur(skin, (3, 3)))


def _statistics(lab: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and spread of (n, 3), without the tenth that is farthest from the median (shadows, beard, highlights)."""
    away = np.abs(lab[:, 0] - np.median(lab[:, 0]))
    kept = lab[away <= np.quantile(away, 0.9)]
    return kept.mean(0), np.maximum(kept.std(0), LEAST_SPREAD)
