"""How much each pixel looks like the skin of one face: learned from that face's cheeks, no network."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.images import around_mask, pixels_of
from engine.types import Mask, Points

CHEEKS = ((1, 3, 31, 40), (15, 13, 35, 47))  # of the 68 points: quadrilaterals that hair and beards rarely reach
LEAST_SPREAD = (9.0, 4.0, 4.0)  # of L*, a*, b*: even skin is allowed so much
LOWER_FOREHEAD = (0.08, 0.4)  # how far above the brows, of the distance from lips to brows
BARE = (0.70, 0.85)  # share of skin there: fringed up to the first, bare from the second
NEAR, FAR = 1.6, 2.6  # deviations from the cheeks' colours: skin up to the first, none beyond the second


def skin_likeness(lab: NDArray[np.float32], landmarks: Points, origin: tuple[int, int] = (0, 0)) -> Mask:
    """(H, W) 0..1 for a picture in Lab (floats, L 0..100) with a face's 68 points; 1 everywhere if no cheek is seen.

    The points may be those of a larger picture, in which `origin` (x, y) is the first pixel of this one.
    """
    where = cheeks(lab.shape, landmarks, origin)
    seen = around_mask(where)
    sample = pixels_of(lab[seen], where[seen])
    if len(sample) < 20:
        return np.ones(lab.shape[:2], np.float32)
    middle = np.median(sample, 0)
    spread = np.maximum(1.48 * np.median(np.abs(sample - middle), 0), LEAST_SPREAD)
    # By whole rows: NumPy is slow where it goes on by threes.
    middles, scales = (np.tile(each.astype(np.float32), lab.shape[1]) for each in (middle, 1 / spread))
    off = lab.reshape(len(lab), -1) - middles
    off *= scales
    off *= off
    likeness: Mask = cv2.transform(off.reshape(lab.shape), np.full((1, 3), 1 / 3, np.float32))
    np.sqrt(likeness, out=likeness)
    np.subtract(FAR, likeness, out=likeness)
    likeness /= FAR - NEAR
    return np.clip(likeness, 0, 1, out=likeness)


def fringe(skin: Mask, landmarks: Points) -> float:
    """0 where the forehead above these 68 points is bare, 1 where it lies behind a fringe, by `skin_likeness`."""
    brows = landmarks[17:27]
    up = brows.mean(0) - landmarks[48:60].mean(0)
    low, high = LOWER_FOREHEAD
    bare = share_inside(skin, np.concatenate([brows + low * up, brows + high * up]))
    least, most = BARE
    return float(np.clip((most - bare) / (most - least), 0, 1))


def share_inside(mask: Mask, points: Points) -> float:
    """Mean of `mask` inside the hull of `points`."""
    inside = hull(points, mask.shape)
    return float((mask * inside).sum() / max(float(inside.sum()), 1.0))


def hull(points: Points, shape: tuple[int, ...]) -> Mask:
    """(H, W) 1 inside the hull of `points`, 0 outside."""
    mask = np.zeros(shape[:2], np.float32)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.round(points).astype(np.int32)), 1.0)
    return mask


def cheeks(shape: tuple[int, ...], landmarks: Points, origin: tuple[int, int] = (0, 0)) -> NDArray[np.bool_]:
    """(H, W) the middle of both cheeks of a face with these 68 points, see `skin_likeness`."""
    mask = np.zeros(shape[:2], np.uint8)
    for corners in CHEEKS:
        points = landmarks[list(corners)]
        middle = points.mean(0)
        cv2.fillConvexPoly(
            mask, np.round(middle + 0.75 * (points - middle)).astype(np.int32) - np.array(origin, np.int32), 1
        )
    return mask > 0
