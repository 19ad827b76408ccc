"""A mean head of 68 points in three dimensions, and heads seen as that mean, turned, plus a person's own deviation.

The points were computed from 876 public-domain portraits: x and y are the Procrustes mean of the frontal ones, depth
comes from factorising all of them (Tomasi and Kanade 1992), scaled to anatomy. Unit: the distance between the outer
corners of the eyes; x right, y down, z towards the camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from engine.types import Points

Shape = NDArray[np.float64]  # (n, 3)

MEAN_HEAD: Shape = np.array(
    [
        (-0.830, 0.024, -0.656),
        (-0.818, 0.240, -0.621),
        (-0.800, 0.453, -0.601),
        (-0.771, 0.668, -0.559),
        (-0.699, 0.871, -0.455),
        (-0.572, 1.046, -0.305),
        (-0.405, 1.191, -0.133),
        (-0.217, 1.310, 0.027),
        (0.000, 1.346, 0.079),
        (0.217, 1.310, 0.027),
        (0.405, 1.191, -0.133),
        (0.572, 1.046, -0.305),
        (0.699, 0.871, -0.455),
        (0.771, 0.668, -0.559),
        (0.800, 0.453, -0.601),
        (0.818, 0.240, -0.621),
        (0.830, 0.024, -0.656),
        (-0.673, -0.109, -0.097),
        (-0.576, -0.211, 0.031),
        (-0.432, -0.242, 0.125),
        (-0.284, -0.225, 0.195),
        (-0.143, -0.171, 0.253),
        (0.143, -0.171, 0.253),
        (0.284, -0.225, 0.195),
        (0.432, -0.242, 0.125),
        (0.576, -0.211, 0.031),
        (0.673, -0.109, -0.097),
        (0.000, -0.028, 0.276),
        (0.000, 0.115, 0.361),
        (0.000, 0.256, 0.454),
        (0.000, 0.404, 0.540),
        (-0.179, 0.476, 0.284),
        (-0.093, 0.508, 0.337),
        (0.000, 0.540, 0.373),
        (0.093, 0.508, 0.337),
        (0.179, 0.476, 0.284),
        (-0.500, 0.000, 0.000),
        (-0.413, -0.050, 0.032),
        (-0.313, -0.049, 0.048),
        (-0.222, 0.012, 0.053),
        (-0.318, 0.026, 0.046),
        (-0.417, 0.026, 0.031),
        (0.222, 0.012, 0.053),
        (0.313, -0.049, 0.048),
        (0.413, -0.050, 0.032),
        (0.500, 0.000, 0.000),
        (0.417, 0.026, 0.031),
        (0.318, 0.026, 0.046),
        (-0.374, 0.707, -0.039),
        (-0.235, 0.680, 0.136),
        (-0.101, 0.670, 0.242),
        (0.000, 0.689, 0.263),
        (0.101, 0.670, 0.242),
        (0.235, 0.680, 0.136),
        (0.374, 0.707, -0.039),
        (0.242, 0.841, 0.103),
        (0.108, 0.897, 0.208),
        (0.000, 0.908, 0.229),
        (-0.108, 0.897, 0.208),
        (-0.242, 0.841, 0.103),
        (-0.325, 0.718, -0.023),
        (-0.102, 0.721, 0.222),
        (0.000, 0.732, 0.246),
        (0.102, 0.721, 0.222),
        (0.325, 0.718, -0.023),
        (0.104, 0.809, 0.207),
        (0.000, 0.821, 0.231),
        (-0.104, 0.809, 0.207),
    ]
)
BROWS = (17, 19, 21, 22, 24, 26)
FOREHEAD = 0.62  # height of the forehead points over the brows
FOREHEAD_DEPTH = 0.10  # how far they lie behind the brows
_ROUNDS = 60
_CONVERGED = 1e-6  # what a round still turns: a ten-thousandth of a degree


@dataclass(frozen=True)
class HeadView:
    """How a head is seen (weak perspective): picture = scale x (rotation @ head)[:2] + shift."""

    scale: float
    rotation: NDArray[np.float64]  # (3, 3)
    shift: NDArray[np.float64]  # (2,)

    @staticmethod
    def of(landmarks: Points) -> HeadView:
        """The view under which the mean head fits (68, 2) landmarks best.

        Depth is not seen: it is taken from the current fit and the fit is repeated, which converges in about thirty
        rounds. A person's photos are asked for again and again, a template's face several times on its way.
        """
        return _fitted(np.asarray(landmarks, np.float64).tobytes())

    def angle_to(self, other: HeadView) -> float:
        """Degrees between the directions in which the two heads look."""
        cosine = float(self.rotation[:, 2] @ other.rotation[:, 2])
        return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))

    def project(self, head: Shape) -> Points:
        return (self.scale * (head @ self.rotation.T)[:, :2] + self.shift).astype(np.float32)

    def head(self, landmarks: Points) -> Shape:
        """(68, 3) the mean head bent so that it projects exactly on `landmarks`."""
        off = (np.asarray(landmarks, np.float64) - self.project(MEAN_HEAD)) / self.scale
        return MEAN_HEAD + np.column_stack([off, np.zeros(len(off))]) @ self.rotation


@lru_cache(256)
def _fitted(landmarks: bytes) -> HeadView:
    """By 68 points as they lie in memory."""
    seen = np.frombuffer(landmarks, np.float64).reshape(-1, 2)
    shift = seen.mean(0)
    model = MEAN_HEAD - MEAN_HEAD.mean(0)
    spread, size = model.T @ model, float((model**2).sum())
    common = np.zeros((3, 3))  # the completed landmarks' products with the model
    common[:2] = (seen - shift).T @ model
    scale, rotation = 1.0, np.eye(3)
    for _ in range(_ROUNDS):
        before = rotation
        u, s, vt = np.linalg.svd(common)
        flip = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
        rotation = (u * flip) @ vt
        scale = float(s @ flip) / size
        common[2] = scale * rotation[2] @ spread  # the model's depth under this view
        if np.abs(rotation - before).max() < _CONVERGED:
            break
    return HeadView(scale, rotation, shift - scale * (rotation @ MEAN_HEAD.mean(0))[:2])


def with_forehead(head: Shape) -> Shape:
    """(74, 3): `head` and six points over its brows, where landmarks end but faces don't."""
    brows = head[list(BROWS)]
    outer = np.array([1.15, 0.6, 0.1, 0.1, 0.6, 1.15])[:, None]  # the forehead's upper edge is an arch
    raised = brows + np.array([0.0, -FOREHEAD, -FOREHEAD_DEPTH]) + outer * np.array([0.0, 0.17, -0.12])
    return np.concatenate([head, raised])
