"""Canvases: a turned and scaled piece of a picture, and the way back that leaves every other pixel as it was.

Positions are pixel centres: (0, 0) is the centre of the upper left pixel, as OpenCV's warps have it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, hypot

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.images import Window, around_mask, clip_box, for_channels, grow_box, overlap, within
from engine.mini.chip import chip_matrix, five_points
from engine.types import Face, Mask, Matrix, Points, Rgb

Plane = NDArray[np.float32]  # (H, W) or (H, W, C)


@dataclass(frozen=True)
class Crop:
    """`matrix` takes picture pixels to canvas pixels; `size` is the canvas's (width, height)."""

    matrix: Matrix
    size: tuple[int, int]

    @property
    def scale(self) -> float:
        """Canvas pixels per picture pixel."""
        return hypot(self.matrix[0, 0], self.matrix[1, 0])

    def cut(self, rgb: Rgb) -> Rgb:
        """The canvas as a picture. Shrinking averages (no aliasing); beyond the picture its border is repeated."""
        if place := self._place(rgb.shape):
            return rgb[place].copy()
        fine, factor = self._finer()
        flags = cv2.INTER_LINEAR if factor > 1 else cv2.INTER_CUBIC
        drawn = cv2.warpAffine(rgb, fine.matrix, fine.size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return drawn if factor == 1 else cv2.resize(drawn, self.size, interpolation=cv2.INTER_AREA)

    def cut_mask(self, mask: Mask) -> Mask:
        """The same piece of a mask; 0 beyond the picture."""
        if place := self._place(mask.shape):
            return mask[place].copy()
        fine, factor = self._finer()
        drawn = cv2.warpAffine(mask, fine.matrix, fine.size, flags=cv2.INTER_LINEAR, borderValue=0)
        return drawn if factor == 1 else cv2.resize(drawn, self.size, interpolation=cv2.INTER_AREA)

    def to_canvas(self, points: Points) -> Points:
        return _moved(points, self.matrix)

    def to_picture(self, points: Points) -> Points:
        return _moved(points, cv2.invertAffineTransform(self.matrix))

    def moved_face(self, face: Face) -> Face:
        """`face`, found in the picture, in the canvas's frame (the head pose stays the picture's)."""
        x1, y1, x2, y2 = face.box_xyxy
        corners = self.to_canvas(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32))
        (left, top), (right, bottom) = corners.min(0), corners.max(0)
        box = (float(left), float(top), float(right), float(bottom))
        return Face(box, self.to_canvas(face.points), self.to_canvas(face.landmarks), face.score, face.pose)

    def lift(self, values: Plane, shape: tuple[int, ...], window: Window | None = None) -> Plane:
        """Canvas values (float32, signed is fine) in the frame of a picture of `shape`; 0 beyond the canvas. Only the
        rows and columns `window` of it where that is given."""
        rows, columns = window = window or (slice(0, shape[0]), slice(0, shape[1]))
        lifted = np.zeros((rows.stop - rows.start, columns.stop - columns.start, *values.shape[2:]), np.float32)
        place = self._place(shape)
        if place and (seen := overlap(window, place)):
            lifted[within(seen, window)] = values[within(seen, place)]
        elif not place and (seen := overlap(window, shown := self._shown(shape))):
            # From the first column on that shows anything: OpenCV rounds each column's place from there.
            whole_rows = seen[0], slice(shown[1].start, seen[1].stop)
            lifted[within(seen, window)] = self._lifted(values, whole_rows)[within(seen, whole_rows)]
        return lifted

    def paste(self, picture: Rgb, canvas: Rgb, mask: Mask) -> Rgb:
        """`picture` with `canvas` in it where `mask` (canvas frame) is above 0; every other pixel keeps its bits."""
        result = picture.copy()
        if place := self._place(picture.shape):
            result[place] = blend(picture[place], canvas, mask)
        else:
            window = self._shown(picture.shape)
            above, weight = self._lifted(canvas.astype(np.float32), window), self._lifted(mask, window)
            result[window] = blend(picture[window], above, weight)
        return result

    def _place(self, shape: tuple[int, ...]) -> Window | None:
        """Rows and columns of a picture of `shape` that the canvas is, pixel for pixel; None where it is no such
        rectangle. A warp would give the same bits, more slowly."""
        (left, top), (width, height) = (round(-shift) for shift in self.matrix[:, 2]), self.size
        if not np.array_equal(self.matrix, [[1, 0, -left], [0, 1, -top]]):
            return None
        is_inside = left >= 0 and top >= 0 and left + width <= shape[1] and top + height <= shape[0]
        return (slice(top, top + height), slice(left, left + width)) if is_inside else None

    def _shown(self, shape: tuple[int, ...]) -> Window:
        """Rows and columns of a picture of `shape` beyond which there is nothing of the canvas."""
        right, bottom = self.size
        corners = self.to_picture(np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]], np.float32))
        (x1, y1), (x2, y2) = corners.min(0) - 3, corners.max(0) + 4  # a cubic kernel, and half a canvas pixel
        left, top, right, bottom = clip_box((float(x1), float(y1), float(x2), float(y2)), shape)
        return slice(top, bottom), slice(left, right)

    def _lifted(self, values: Plane, window: Window) -> Plane:
        if self.scale > 1:  # the way back shrinks: take away what would alias
            values = cv2.GaussianBlur(values, (0, 0), 0.5 * self.scale)
        rows, columns = window
        matrix = self.matrix.copy()
        matrix[:, 2] += matrix[:, :2] @ (columns.start, rows.start)
        flags, size = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, (columns.stop - columns.start, rows.stop - rows.start)
        lifted: Plane = cv2.warpAffine(values, matrix, size, flags=flags, borderValue=0)
        return lifted

    def _finer(self) -> tuple[Crop, int]:
        """The same canvas on a grid fine enough to hold every picture pixel, and how many times finer it is."""
        factor = max(1, ceil(1 / self.scale - 0.01))
        if factor == 1:
            return self, 1
        matrix = self.matrix * factor
        matrix[:, 2] += (factor - 1) / 2
        return Crop(matrix, (self.size[0] * factor, self.size[1] * factor)), factor


def blend(below: Rgb, above: NDArray[np.floating] | Rgb, mask: Mask) -> Rgb:
    """`above` over `below` by `mask` (0..1), rounded; where the mask is 0 the bits of `below` stay."""
    result, seen = below.copy(), around_mask(mask > 0)
    if result[seen].size == 0:
        return result
    weight = np.clip(mask[seen], 0, 1)
    mixed = above[seen].astype(np.float32)
    mixed -= below[seen]
    mixed *= for_channels(weight)
    mixed += below[seen]
    np.clip(np.rint(mixed, out=mixed), 0, 255, out=mixed)
    result[seen] = cv2.copyTo(mixed.astype(np.uint8), (weight > 0).view(np.uint8), result[seen])
    return result


def mixed(below: Rgb, above: Rgb, share: float) -> Rgb:
    """`share` of `above` over `below` everywhere, rounded."""
    return np.asarray(cv2.addWeighted(above, share, below, 1 - share, 0), np.uint8)


def shrunk(shape: tuple[int, ...], zoom: float) -> Crop:
    """The whole of a picture of `shape`, `zoom` times as large."""
    size = max(1, round(shape[1] * zoom)), max(1, round(shape[0] * zoom))
    shift = (zoom - 1) / 2  # keeps pixel centres over pixel centres
    return Crop(np.array([[zoom, 0, shift], [0, zoom, shift]], np.float64), size)


def found_near(expected: Face, scale: float, rgb: Rgb, search: Callable[[Rgb], list[Face]]) -> list[Face]:
    """The faces that `search` finds in the box of `expected` grown `scale` times, in the frame of `rgb`."""
    left, top, right, bottom = clip_box(grow_box(expected.box_xyxy, scale), rgb.shape)
    back = Crop(np.array([[1, 0, left], [0, 1, top]], np.float64), (rgb.shape[1], rgb.shape[0]))
    return [back.moved_face(face) for face in search(rgb[top:bottom, left:right])]


def chip_crop(face: Face, size: int) -> Crop:
    """The small model's canonical chip: upright, the five points where `engine.mini.chip` wants them."""
    return Crop(chip_matrix(five_points(face.landmarks), size), (size, size))


def box_crop(face: Face, scale: float, size: tuple[int, int]) -> Crop:
    """An upright canvas of `size` (width, height) that shows at least the face box grown `scale` times."""
    x1, y1, x2, y2 = face.box_xyxy
    zoom = min(size[0] / (face.width * scale), size[1] / (face.height * scale))
    shift_x, shift_y = (size[0] - 1) / 2 - zoom * (x1 + x2) / 2, (size[1] - 1) / 2 - zoom * (y1 + y2) / 2
    return Crop(np.array([[zoom, 0, shift_x], [0, zoom, shift_y]], np.float64), size)


def clipped_box_crop(face: Face, scale: float, shape: tuple[int, ...], longest: int) -> Crop:
    """The face box grown `scale` times and clipped to a picture of `shape`, pixel for pixel; shrunk only if a side
    would be longer than `longest` pixels."""
    x1, y1, x2, y2 = face.box_xyxy
    grow_x, grow_y = face.width * (scale - 1) / 2, face.height * (scale - 1) / 2
    left, top = max(0, int(x1 - grow_x)), max(0, int(y1 - grow_y))
    right, bottom = min(shape[1], ceil(x2 + grow_x)), min(shape[0], ceil(y2 + grow_y))
    zoom = min(1.0, longest / max(right - left, bottom - top))
    size = (round((right - left) * zoom), round((bottom - top) * zoom))
    shift = (zoom - 1) / 2  # keeps pixel centres over pixel centres
    return Crop(np.array([[zoom, 0, shift - zoom * left], [0, zoom, shift - zoom * top]], np.float64), size)


def _moved(points: Points, matrix: Matrix) -> Points:
    return (np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
