"""What hides a face: sunglasses, a mask, a hand, a phone. Measured on colours at its landmarks, no network.

Landmark networks place all points on covered faces too, so what counts is whether the pixels there look like eyes, lips
and the same skin. Limits (engine/config.py) were set on 403 portraits and selfies without anything in front of the face
and on the same pictures with discs, masks and boxes drawn over them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.images import clip_box, grow_box, in_lab, resized
from engine.skin import cheeks
from engine.types import Face, Points, Rgb

WORKING_WIDTH = 256  # px, of the face box
AROUND = 1.6  # side of the looked-at square over the face box: the box ends at brows and chin

Lab = NDArray[np.float32]


@dataclass(frozen=True)
class Visibility:
    """`eye_light`: the lightest tenth of the better seen eye over the cheeks' lightness (eyes 0.7..1.4, dark glasses
    below 0.5). `mouth_contrast`: deviation of lightness on the lips over the cheeks' (lips above 0.1, cloth below).
    `lower_face_tint`: distance in a*b* between forehead and chin (skin and beards up to 18, masks and things above 20).
    """

    eye_light: float
    mouth_contrast: float
    lower_face_tint: float


def visibility(rgb: Rgb, face: Face) -> Visibility:
    """How much of `face` is seen."""
    left, top, right, bottom = clip_box(grow_box(face.box_xyxy, AROUND), rgb.shape)
    scale = min(1.0, WORKING_WIDTH / face.width)
    size = max(2, round((right - left) * scale)), max(2, round((bottom - top) * scale))
    points = (face.landmarks - (left, top)) * scale
    piece = resized(np.ascontiguousarray(rgb[top:bottom, left:right]), size)
    lab: Lab = in_lab(piece)
    cheek = lab[cheeks(lab.shape, points)]
    light = max(float(np.median(cheek[:, 0])) if len(cheek) else 60.0, 1.0)
    eyes = [_inside(lab, _scaled(points[side], 1.6))[:, 0] for side in (slice(36, 42), slice(42, 48))]
    lips = _inside(lab, points[48:60])[:, 0]
    up = (points[17:27].mean(0) - points[48:60].mean(0)) * 0.25
    forehead = _inside(lab, np.concatenate([points[19:25], points[19:25] + up]))
    chin = _inside(lab, np.concatenate([points[4:13], points[[48, 54]]]))
    return Visibility(
        eye_light=max(float(np.percentile(eye, 90)) for eye in eyes) / light,
        mouth_contrast=float(lips.std()) / light,
        lower_face_tint=float(np.linalg.norm((np.median(forehead, 0) - np.median(chin, 0))[1:])),
    )


def _scaled(points: Points, by: float) -> Points:
    middle = points.mean(0)
    return np.asarray(middle + by * (points - middle), np.float32)


def _inside(lab: Lab, points: Points) -> Lab:
    """(n, 3) the colours inside the hull; the nearest pixel where the hull lies outside the picture."""
    mask = np.zeros(lab.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.round(points).astype(np.int32)), 1)
    if not mask.any():
        x, y = np.clip(points.mean(0).round().astype(int), 0, (lab.shape[1] - 1, lab.shape[0] - 1))
        return lab[y : y + 1, x]
    return lab[mask > 0]
