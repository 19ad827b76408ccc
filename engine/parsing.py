"""Figure 2, the parts of a face that the masks are made of, from landmarks.

The reference parses with a network of 19 classes; its sets are FACE = skin, brows, eyes, nose, mouth, lips (no ears, no
neck, no glasses), EYES and LIPS. Drawn from 68 points the same sets need no network; another profile's parser gives the
same parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import ceil, floor

import cv2
import numpy as np

from engine.images import Window, around_mask, clip_box, in_lab
from engine.skin import hull, skin_likeness
from engine.types import Face, Mask, Points, Rgb

SPECK = 0.012  # of the face's width: what is narrower is a wrinkle or a mole
AROUND_HAIR = 0.015  # of the face's width: the blurred edge of what lies in front
ABOVE_BROWS = 0.15  # of the distance from lips to brows: where brows end
FOREHEAD = 0.35  # how far the face goes on above the brows, of the distance from lips to brows


@dataclass(frozen=True, eq=False)
class FaceParts:
    """Masks (H, W) of 0 and 1 in the frame of `rgb`, drawn from `landmarks` when they are first asked for: most
    pictures on the way to a portrait are asked for one or two of them."""

    rgb: Rgb
    landmarks: Points
    width: float  # of the face's box, px

    @cached_property
    def face(self) -> Mask:
        return self._laid_in(self._whole)

    @cached_property
    def eyes(self) -> Mask:
        return self._laid_in(self._eyes)

    @cached_property
    def lips(self) -> Mask:
        return self._laid_in(self._lips)

    @cached_property
    def nose(self) -> Mask:
        return self._laid_in(self._hull(self._points[27:36]))

    @cached_property
    def skin(self) -> Mask:
        """What of `face` has the colour of its cheeks: no eyes, brows, lips, beard, glasses or hair in front of it."""
        p = self._points
        brows = np.maximum(self._hull(p[17:22]), self._hull(p[22:27]))
        features = np.maximum(np.maximum(self._eyes, brows), self._lips)
        skin = self._whole * (1 - grown(features, 0.03 * self.width))
        return self._laid_in(skin * (skin_likeness(in_lab(self.rgb[self._window]), p) > 0.5))

    @cached_property
    def _outline(self) -> Points:
        p = self.landmarks
        return np.concatenate([p[0:27], p[17:27] + (p[17:27].mean(0) - p[48:60].mean(0)) * FOREHEAD])

    @cached_property
    def _window(self) -> Window:
        """Rows and columns beyond which everything is 0."""
        return around(self._outline, 0.05 * self.width, self.rgb.shape)

    @cached_property
    def _origin(self) -> Points:
        rows, columns = self._window
        return np.array([columns.start, rows.start], np.float32)

    @cached_property
    def _points(self) -> Points:
        return self.landmarks - self._origin

    @cached_property
    def _whole(self) -> Mask:
        return self._hull(self._outline - self._origin)

    @cached_property
    def _eyes(self) -> Mask:
        return np.maximum(self._hull(self._points[36:42]), self._hull(self._points[42:48]))

    @cached_property
    def _lips(self) -> Mask:
        return self._hull(self._points[48:60])

    def _hull(self, points: Points) -> Mask:
        rows, columns = self._window
        return hull(points, (rows.stop - rows.start, columns.stop - columns.start))

    def _laid_in(self, part: Mask) -> Mask:
        return _laid_in(part, self._window, self.rgb.shape)


Parser = Callable[[Rgb, Face], FaceParts]


def parse_by_landmarks(rgb: Rgb, face: Face) -> FaceParts:
    """The parts of `face`, a face of `rgb`."""
    return FaceParts(rgb, face.landmarks, face.width)


def skin_of(rgb: Rgb, face: Face, window: Window | None = None) -> Mask:
    """How much each pixel of the picture (0..1, inside the face or not) looks like the skin of `face`; only those rows
    and columns where a window is given."""
    rows, columns = window or (slice(0, None), slice(0, None))
    return skin_likeness(in_lab(rgb[rows, columns]), face.landmarks, (columns.start, rows.start))


def around(points: Points, room: float, shape: tuple[int, ...]) -> Window:
    """Rows and columns of a picture of `shape` that hold `points` with `room` pixels around; at least one of each."""
    (left, top), (right, bottom) = points.min(0) - room, points.max(0) + room
    x1, y1, x2, y2 = clip_box((floor(left), floor(top), ceil(right) + 1, ceil(bottom) + 1), shape)
    return slice(y1, y2), slice(x1, x2)


def hidden(rgb: Rgb, face: Face, where: Mask) -> Mask:
    """What of `face` lies behind the hair, hand or flower that the picture shows in front of it, 0 or 1, looked for
    `where` that mask is not 0.

    Judged by colour where a face is bare skin, its forehead and temples; features and what a beard may cover are the
    face's, whatever their colour.
    """
    rows, columns = around_mask(where)
    wanted = np.array([(columns.start, rows.start), (columns.stop, rows.stop)], np.float32)
    room = 2 * (SPECK + AROUND_HAIR) * face.width + 4  # from farther away nothing reaches in
    rows, columns = window = around(np.concatenate([face.landmarks, wanted]), room, rgb.shape)
    piece, p = rgb[window], face.landmarks - np.array([columns.start, rows.start], np.float32)
    features = np.maximum(hull(p[17:48], piece.shape), hull(np.concatenate([p[2:15], p[31:36]]), piece.shape))
    strange = (1 - features) * (skin_likeness(in_lab(piece), p) < 0.5)
    thin, beyond = SPECK * face.width / 2, AROUND_HAIR * face.width
    in_front = grown(grown(grown(strange, -thin), thin), beyond) * (1 - features)
    return _laid_in(in_front, window, rgb.shape)


def above_brows(face: Face, shape: tuple[int, ...]) -> Mask:
    """1 from a little above the brows on, where a fringe would hang, 0 below."""
    brows, lips = face.landmarks[17:27].mean(0), face.landmarks[48:60].mean(0)
    return (way_up(shape, brows, brows - lips) > ABOVE_BROWS).astype(np.float32)


def way_up(shape: tuple[int, ...], start: Points, up: Points) -> Mask:
    """(H, W) how far each pixel lies from the point `start` along `up`, in lengths of it; negative below."""
    y, x = (np.arange(side, dtype=np.float32) for side in shape[:2])
    way = np.add.outer((y - start[1]) * up[1], (x - start[0]) * up[0])
    way /= max(float((up**2).sum()), 1e-6)
    return way


def grown(mask: Mask, by: float) -> Mask:
    """`mask` (of 0 and 1) grown by `by` pixels, or shrunk where `by` is negative; the picture's border eats nothing."""
    seen = around_mask(mask, ceil(abs(by)) + 2)  # beyond, everything is as far as can be
    side = (mask[seen] == 0 if by >= 0 else mask[seen] > 0).view(np.uint8)
    away = cv2.distanceTransform(side, cv2.DIST_L2, 5)
    return _laid_in(away <= by if by >= 0 else away > -by, seen, mask.shape)


def closed(mask: Mask, by: float) -> Mask:
    """Gaps narrower than `by` pixels filled."""
    return grown(grown(mask, by / 2), -by / 2)


def _laid_in(part: Mask, window: Window, shape: tuple[int, ...]) -> Mask:
    mask = np.zeros(shape[:2], np.float32)
    mask[window] = part
    return mask
