"""Figure 2, box "paste back": the worked piece returns into the template without a rectangle's edge."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from engine.crop import Crop
from engine.images import smooth_step
from engine.parsing import FaceParts
from engine.types import Face, Mask, Rgb

NEIGHBOUR = 0.05  # of the face box's width: so far around other faces nothing changes, and full change begins at twice
REACH = (0.40, 0.50)  # of the face box's width: full up to the first distance from the face, nothing beyond the second


def edit_mask(before: FaceParts, after: FaceParts, face: Face, others: Sequence[FaceParts] = ()) -> Mask:
    """All that the pipeline may change, soft at its edge: the template's and the subject's face and what lies around.

    What fusion bends around the face and what both diffusions paint lies within; the `others` in the template do not.
    """
    distance = _distance(np.maximum(before.face, after.face)) / face.width
    fade = (REACH[1] - distance) / (REACH[1] - REACH[0])
    for other in others:
        fade = np.minimum(fade, _distance(other.face) / face.width / NEIGHBOUR - 1)
    return smooth_step(fade).astype(np.float32, copy=False)


def _distance(mask: Mask) -> Mask:
    """Pixels to the nearest one inside `mask`; far where there is none."""
    if mask.max() == 0:
        return np.full(mask.shape, np.inf, np.float32)
    return cv2.distanceTransform((mask == 0).astype(np.uint8), cv2.DIST_L2, 5)


def pasted_back(template: Rgb, crop: Crop, worked: Rgb, mask: Mask) -> Rgb:
    """`template` with the worked piece in it; `mask` is the piece's. Where it is 0 the template keeps its bits."""
    return crop.paste(template, worked, mask)
