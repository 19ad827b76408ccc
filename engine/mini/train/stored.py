"""The layout of the training file: stored chips, their frame, and which of them are held out.

A stored chip is `STORED` pixels wide and shows `MARGIN` times the canvas, so that turned and shifted crops have real
pixels. Every tenth portrait (by file name) is held out of all training.
"""

from typing import Any

import cv2
import numpy as np

from engine.mini.chip import CANVAS, chip_matrix

STORED = 192
MARGIN = 1.25
HOLD_OUT_EVERY = 10


def stored_matrix(points_5: np.ndarray) -> np.ndarray:
    """(2, 3) picture xy to stored chip xy."""
    inner = STORED / MARGIN
    matrix = chip_matrix(points_5, size=1) * inner
    matrix[:, 2] += (STORED - inner) / 2
    return matrix


def to_canvas(points: np.ndarray) -> np.ndarray:
    """Stored chip xy to canvas xy at CANVAS pixels."""
    inner = STORED / MARGIN
    return (points - (STORED - inner) / 2) * (CANVAS / inner)


def unpack_chips(data: dict[str, np.ndarray]) -> np.ndarray:
    """(n, STORED, STORED, 3) uint8 RGB."""
    starts = np.concatenate([[0], data["jpeg_end"][:-1]])
    pairs = zip(starts, data["jpeg_end"], strict=True)
    decoded: list[Any] = [cv2.imdecode(data["jpeg"][a:b], cv2.IMREAD_COLOR) for a, b in pairs]
    return np.stack([bgr[..., ::-1] for bgr in decoded])


def canvas_chips(chips: np.ndarray) -> np.ndarray:
    """(n, CANVAS, CANVAS, 3) uint8: the middle of stored chips, at the canvas' size."""
    inner = STORED / MARGIN
    scale, shift = CANVAS / inner, (STORED - inner) / 2
    matrix = np.array([[scale, 0, -shift * scale], [0, scale, -shift * scale]])
    return np.stack([cv2.warpAffine(c, matrix, (CANVAS, CANVAS), flags=cv2.INTER_AREA) for c in chips])
