"""Faces bent: thin plate splines over a coarse grid, and a picture whose face takes on other landmarks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.errors import FusionFailed
from engine.images import as_bytes, as_floats, smooth_step
from engine.types import Points, Rgb

Plane = NDArray[np.float32]

GRID = 56  # nodes along the longer side of a warp; between them it is interpolated
REACH = 0.45  # a picture is bent up to this share of the face width beyond the face
AT_ONCE = 384  # nodes of a spline: what is worked out of them stays near the processor
STIFFNESS = 1e-4  # smoothing of the splines


@dataclass(frozen=True)
class Patch:
    """The rectangle of a picture around a face in which anything may change."""

    left: int
    top: int
    right: int
    bottom: int

    @staticmethod
    def around(points: Points, shape: tuple[int, ...]) -> Patch:
        low, high = points.min(0), points.max(0)
        room = (high - low).max() * (REACH + 0.05)
        left, top = np.maximum(low - room, 0).astype(int)
        right, bottom = np.minimum(np.ceil(high + room), [shape[1], shape[0]]).astype(int)
        if right - left < 16 or bottom - top < 16:
            raise FusionFailed("the face lies outside the picture")
        return Patch(int(left), int(top), int(right), int(bottom))

    @property
    def origin(self) -> Points:
        origin: Points = np.array((self.left, self.top), dtype=np.float32)
        return origin

    def cut(self, rgb: Rgb) -> Plane:
        return as_floats(rgb[self.top : self.bottom, self.left : self.right])

    def put(self, rgb: Rgb, patch: Plane) -> Rgb:
        """`patch` is used up."""
        result = rgb.copy()
        result[self.top : self.bottom, self.left : self.right] = as_bytes(patch)
        return result


def bent(below: Plane, own: Points, goal: Points) -> Plane:
    """A picture with its face's points moved from `own` to `goal`; the movement fades out around the face."""
    nodes, grid = nodes_over(below.shape)
    outside = _distance(nodes, cv2.convexHull(goal)[:, 0])
    fade = smooth_step(1 - outside / (REACH * face_width(goal))).astype(np.float32, copy=False)
    moves = fade > 0
    nodes[moves] += spline(goal, own - goal, nodes[moves]) * fade[moves, None]
    return sampled(below, dense(nodes, grid, below.shape))


def _distance(points: Points, hull: Points) -> NDArray[np.float32]:
    """(n,) of `points` (n, 2) from the convex polygon `hull` (m, 2), in pixels; 0 inside."""
    x, y = (hull[:, axis, None].astype(np.float32) for axis in (0, 1))  # of its corners; all below is (m, n)
    side_x, side_y = np.roll(x, -1, 0) - x, np.roll(y, -1, 0) - y
    away_x, away_y = points[:, 0] - x, points[:, 1] - y
    along = np.clip((away_x * side_x + away_y * side_y) / np.maximum(side_x**2 + side_y**2, 1e-12), 0, 1)
    squared = ((away_x - along * side_x) ** 2 + (away_y - along * side_y) ** 2).min(0)
    turns = side_x * away_y - side_y * away_x
    return np.where((turns >= 0).all(0) | (turns <= 0).all(0), 0.0, np.sqrt(squared))


def face_width(goal: Points) -> float:
    """A face's size that does not shrink when it turns."""
    return float(max(np.linalg.norm(goal[16] - goal[0]), 1.1 * np.linalg.norm(goal[8] - goal[27])))


def nodes_over(shape: tuple[int, ...]) -> tuple[Points, tuple[int, int]]:
    """Nodes (n, 2) over a picture of `shape` as cv2.resize will place them, and their (rows, columns)."""
    step = max(shape[:2]) / GRID
    rows, columns = max(2, round(shape[0] / step)), max(2, round(shape[1] / step))
    y, x = (np.arange(rows) + 0.5) * shape[0] / rows - 0.5, (np.arange(columns) + 0.5) * shape[1] / columns - 0.5
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2).astype(np.float32), (rows, columns)


def dense(nodes: Plane, grid: tuple[int, int], shape: tuple[int, ...]) -> Plane:
    field = nodes.reshape(*grid, -1).astype(np.float32)
    return cv2.resize(field, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def spline(at: Points, values: Points, nodes: Points, stiffness: float = STIFFNESS) -> Plane:
    """Thin plate spline through nearly all of `values` at `at` (a little smoothing bears landmark noise)."""
    size, count = np.ptp(at, axis=0).max(), len(at)
    places, wanted, asked = ((each / size).astype(np.float64) for each in (at, values, nodes))
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = _kernel(places, places) + stiffness * np.eye(count)
    system[:count, count], system[:count, count + 1 :] = 1, places
    system[count:, :count] = system[:count, count:].T
    weights = np.linalg.solve(system, np.concatenate([wanted, np.zeros((3, 2))]))
    parts = (asked[first : first + AT_ONCE] for first in range(0, len(asked), AT_ONCE))
    result = np.concatenate([_kernel(part, places) @ weights[:count] for part in parts])
    result += weights[count] + asked @ weights[count + 1 :]
    return (result * size).astype(np.float32)


def _kernel(points: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, m) r² log r of the distances r from `points` (n, 2) to `places` (m, 2)."""
    squared = np.square(np.subtract.outer(points[:, 0], places[:, 0]))
    squared += np.square(np.subtract.outer(points[:, 1], places[:, 1]))
    kernel = np.log(np.maximum(squared, 1e-300))
    kernel *= squared
    kernel /= 2
    return kernel


def sampled(picture: Plane, where: Plane) -> Plane:
    return cv2.remap(picture, where, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def bent_to(rgb: Rgb, own: Points, goal: Points) -> Rgb:
    """`rgb` with its face's 68 points moved from `own` to `goal`; `rgb` itself where they lie outside of it."""
    try:
        patch = Patch.around(goal, rgb.shape)
    except FusionFailed:
        return rgb
    return patch.put(rgb, bent(patch.cut(rgb), own - patch.origin, goal - patch.origin))
