"""Figure 2, box "paste back": the worked piece returns into the template without a rectangle's edge."""

from __future__ import annotations

import cv2
import numpy as np

from engine.crop import Crop
from engine.stages.parse import FaceParts
from engine.types import Face, Mask, Rgb

REACH = (0.40, 0.50)  # of the face box's width: full up to the first distance from the face, nothing beyond the second


def edit_mask(before: FaceParts, after: FaceParts, face: Face) -> Mask:
    """All that the pipeline may change, soft at its edge: the template's and the subject's face and what lies around.

    What fusion bends around the face and what both diffusions paint lies within.
    """
    outside = (np.maximum(before.face, after.face) == 0).astype(np.uint8)
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, 5) / face.width
    fade = np.clip((REACH[1] - distance) / (REACH[1] - REACH[0]), 0, 1)
    return (fade * fade * (3 - 2 * fade)).astype(np.float32)


def pasted_back(template: Rgb, crop: Crop, worked: Rgb, mask: Mask) -> Rgb:
    """`template` with the worked piece in it; `mask` is the piece's. Where it is 0 the template keeps its bits."""
    return crop.paste(template, worked, mask)
