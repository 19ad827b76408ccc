"""Skin retouch by edge-preserving smoothing, as the small profile's retoucher."""

from __future__ import annotations

import cv2
import numpy as np

from engine.images import clip_box, feather, grow_box
from engine.types import Face, Mask, Points, Rgb

STRENGTH = 0.6  # 0 keeps every pore, 1 keeps none
DETAILS = (slice(17, 22), slice(22, 27), slice(36, 42), slice(42, 48), slice(48, 60))  # brows, eyes, lips
DETAIL_ROOM = 0.035  # kept around each of them, over the face's width


class EdgePreservingRetoucher:
    """A bilateral filter on the skin of the face, whose reach is in proportion to the face."""

    def __call__(self, rgb: Rgb, face: Face) -> Rgb:
        left, top, right, bottom = clip_box(grow_box(face.box_xyxy, 1.6), rgb.shape)
        region = np.ascontiguousarray(rgb[top:bottom, left:right])
        # The filter's cost grows with the square of its reach: large faces are smoothed at a size that is enough.
        scale = min(1.0, 256 / face.width)
        small = cv2.resize(region, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        smooth = cv2.bilateralFilter(small, d=0, sigmaColor=18, sigmaSpace=max(1.0, 0.015 * face.width * scale))
        change = cv2.resize(smooth.astype(np.float32) - small, region.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        skin = skin_mask(region.shape[:2], face.landmarks - (left, top), face.width)
        result = rgb.copy()
        result[top:bottom, left:right] = np.rint(region + STRENGTH * skin[..., None] * change).clip(0, 255)
        return result


def skin_mask(shape: tuple[int, ...], landmarks: Points, face_width: float) -> Mask:
    """(H, W) the face without brows, eyes and lips, soft at every edge."""
    mask = np.zeros(shape, np.float32)
    up = landmarks[17:27].mean(0) - landmarks[8]
    outline = np.concatenate([landmarks[:17], landmarks[17:27] + 0.3 * up])
    cv2.fillConvexPoly(mask, cv2.convexHull(outline.round().astype(np.int32)), 1)
    room = max(1, round(2 * DETAIL_ROOM * face_width))
    for part in DETAILS:
        hull = cv2.convexHull(landmarks[part].round().astype(np.int32))
        cv2.fillConvexPoly(mask, hull, 0)
        cv2.polylines(mask, [hull], isClosed=True, color=0, thickness=room)
    return feather(mask, 0.04 * face_width)
