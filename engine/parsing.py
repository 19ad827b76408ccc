"""Figure 2, the parts of a face that the masks are made of, from landmarks.

The reference parses with a network of 19 classes; its sets are FACE = skin, brows, eyes, nose, mouth, lips (no ears, no
neck, no glasses), EYES and LIPS. Drawn from 68 points the same sets need no network; another profile's parser gives the
same parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor

import cv2
import numpy as np

from engine.images import clip_box
from engine.skin import hull, skin_likeness
from engine.types import Face, Mask, Points, Rgb

SPECK = 0.012  # of the face's width: what is narrower is a wrinkle or a mole
AROUND_HAIR = 0.015  # of the face's width: the blurred edge of what lies in front
ABOVE_BROWS = 0.15  # of the distance from lips to brows: where brows end
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
    up = (face.landmarks[17:27].mean(0) - face.landmarks[48:60].mean(0)) * FOREHEAD
    outline = np.concatenate([face.landmarks[0:27], face.landmarks[17:27] + up])
    rows, columns = window = around(outline, 0.05 * face.width, rgb.shape)  # only there is anything but 0
    origin = np.array([columns.start, rows.start], np.float32)
    piece, p = rgb[window], face.landmarks - origin
    whole = hull(outline - origin, piece.shape)
    eyes = np.maximum(hull(p[36:42], piece.shape), hull(p[42:48], piece.shape))
    brows = np.maximum(hull(p[17:22], piece.shape), hull(p[22:27], piece.shape))
    lips = hull(p[48:60], piece.shape)
    features = grown(np.maximum(np.maximum(eyes, brows), lips), 0.03 * face.width)
    skin = whole * (1 - features) * (_skin(piece, p) > 0.5)
    return FaceParts(
        *(_laid_in(part, window, rgb.shape) for part in (whole, eyes, lips, hull(p[27:36], piece.shape), skin))
    )


def skin_of(rgb: Rgb, face: Face) -> Mask:
    """How much each pixel of the picture (0..1, inside the face or not) looks like the skin of `face`."""
    return _skin(rgb, face.landmarks)


def around(points: Points, room: float, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of a picture of `shape` that hold `points` with `room` pixels around; at least one of each."""
    (left, top), (right, bottom) = points.min(0) - room, points.max(0) + room
    x1, y1, x2, y2 = clip_box((floor(left), floor(top), ceil(right) + 1, ceil(bottom) + 1), shape)
    return slice(y1, y2), slice(x1, x2)


def around_mask(mask: Mask, room: int) -> tuple[slice, slice]:
    """Rows and columns that hold all of `mask` that is not 0, and `room` pixels around."""
    x, y, width, height = cv2.boundingRect((mask != 0).view(np.uint8))
    return slice(max(0, y - room), y + height + room), slice(max(0, x - room), x + width + room)


def hidden(rgb: Rgb, face: Face, where: Mask) -> Mask:
    """What of `face` lies behind the hair, hand or flower that the picture shows in front of it, 0 or 1, looked for
    `where` that mask is not 0.

    Judged by colour where a face is bare skin, its forehead and temples; features and what a beard may cover are the
    face's, whatever their colour.
    """
    x, y, width, height = cv2.boundingRect((where != 0).view(np.uint8))
    wanted = np.array([[x, y], [x + width, y + height]], np.float32)
    room = 2 * (SPECK + AROUND_HAIR) * face.width + 4  # from farther away nothing reaches in
    rows, columns = window = around(np.concatenate([face.landmarks, wanted]), room, rgb.shape)
    piece, p = rgb[window], face.landmarks - np.array([columns.start, rows.start], np.float32)
    features = np.maximum(hull(p[17:48], piece.shape), hull(np.concatenate([p[2:15], p[31:36]]), piece.shape))
    strange = (1 - features) * (_skin(piece, p) < 0.5)
    thin, beyond = SPECK * face.width / 2, AROUND_HAIR * face.width
    in_front = grown(grown(grown(strange, -thin), thin), beyond) * (1 - features)
    return _laid_in(in_front, window, rgb.shape)


def above_brows(face: Face, shape: tuple[int, ...]) -> Mask:
    """1 from a little above the brows on, where a fringe would hang, 0 below."""
    brows, lips = face.landmarks[17:27].mean(0), face.landmarks[48:60].mean(0)
    return (way_up(shape, brows, brows - lips) > ABOVE_BROWS).astype(np.float32)


def way_up(shape: tuple[int, ...], start: Points, up: Points) -> Mask:
    """(H, W) how far each pixel lies from the point `start` along `up`, in lengths of it; negative below."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    return ((x - start[0]) * up[0] + (y - start[1]) * up[1]) / max(float((up**2).sum()), 1e-6)


def grown(mask: Mask, by: float) -> Mask:
    """`mask` (of 0 and 1) grown by `by` pixels, or shrunk where `by` is negative; the picture's border eats nothing."""
    seen = around_mask(mask, ceil(abs(by)) + 2)  # beyond, everything is as far as can be
    side = (mask[seen] == 0 if by >= 0 else mask[seen] > 0).view(np.uint8)
    away = cv2.distanceTransform(side, cv2.DIST_L2, 5)
    return _laid_in(away <= by if by >= 0 else away > -by, seen, mask.shape)


def closed(mask: Mask, by: float) -> Mask:
    """Gaps narrower than `by` pixels filled."""
    return grown(grown(mask, by / 2), -by / 2)


def _skin(rgb: Rgb, landmarks: Points) -> Mask:
    return skin_likeness(cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), landmarks)


def _laid_in(part: Mask, window: tuple[slice, slice], shape: tuple[int, ...]) -> Mask:
    mask = np.zeros(shape[:2], np.float32)
    mask[window] = part
    return mask
