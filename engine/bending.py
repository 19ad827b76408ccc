"""Faces bent: thin plate splines over a coarse grid, and a picture whose face takes on other landmarks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator

from engine.errors import FusionFailed
from engine.images import smooth_step
from engine.types import Points, Rgb

Plane = NDArray[np.float32]

GRID = 56  # nodes along the longer side of a warp; between them it is interpolated
REACH = 0.45  # a picture is bent up to this share of the face width beyond the face
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
        return rgb[self.top : self.bottom, self.left : self.right].astype(np.float32) / np.float32(255)

    def put(self, rgb: Rgb, patch: Plane) -> Rgb:
        result = rgb.copy()
        result[self.top : self.bottom, self.left : self.right] = np.rint(np.clip(patch, 0, 1) * 255)
        return result


def bent(below: Plane, own: Points, goal: Points) -> Plane:
    """A picture with its face's points moved from `own` to `goal`; the movement fades out around the face."""
    nodes, grid = nodes_over(below.shape)
    moved = spline(goal, own - goal, nodes)
    outside = _distance(nodes, cv2.convexHull(goal)[:, 0])
    fade = smooth_step(1 - outside / (REACH * face_width(goal)))
    return sampled(below, dense(nodes + moved * fade[:, None].astype(np.float32), grid, below.shape))


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
    size = np.ptp(at, axis=0).max()
    fitted = RBFInterpolator(at / size, values / size, kernel="thin_plate_spline", smoothing=stiffness)
    return (fitted(nodes / size) * size).astype(np.float32)


def sampled(picture: Plane, where: Plane) -> Plane:
    return cv2.remap(picture, where[..., 0], where[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def bent_to(rgb: Rgb, own: Points, goal: Points) -> Rgb:
    """`rgb` with its face's 68 points moved from `own` to `goal`; `rgb` itself where they lie outside of it."""
    try:
        patch = Patch.around(goal, rgb.shape)
    except FusionFailed:
        return rgb
    return patch.put(rgb, bent(patch.cut(rgb), own - patch.origin, goal - patch.origin))
