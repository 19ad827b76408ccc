"""The control pictures that the ControlNets were trained on. Use these very functions when painting with them.

Each takes what lies on the canvas (a canonical face chip, see `chip.py`) and returns (size, size, 3) float32 RGB in
0..1. Canny and colour need the picture, pose needs the 68 landmarks in canvas pixels.
"""

import cv2
import numpy as np

COLOR_CELLS = 8

# The parts of iBUG's 68 points: first, last, closed?, RGB.
_PARTS = (
    (0, 16, False, (255, 64, 64)),
    (17, 21, False, (255, 200, 0)),
    (22, 26, False, (200, 255, 0)),
    (27, 30, False, (0, 220, 90)),
    (31, 35, False, (0, 255, 200)),
    (36, 41, True, (0, 160, 255)),
    (42, 47, True, (60, 60, 255)),
    (48, 59, True, (200, 0, 255)),
    (60, 67, True, (255, 0, 160)),
)


def canny_control(rgb: np.ndarray) -> np.ndarray:
    """Edges (Canny, thresholds 100 and 200, as the reference) of an HWC uint8 picture: white on black."""
    edges = cv2.Canny(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), 100, 200)
    return np.repeat(edges[..., None], 3, axis=2).astype(np.float32) / 255.0


def pose_control(landmarks_68: np.ndarray, size: int) -> np.ndarray:
    """Jaw, brows, nose, eyes and lips as coloured lines on black; `landmarks_68` is (68, 2) xy in canvas pixels."""
    drawing = np.zeros((size, size, 3), np.uint8)
    fixed = np.round(np.asarray(landmarks_68) * 16).astype(np.int32)  # 4 fractional bits: sub-pixel lines
    width = max(1, round(size / 96))
    for first, last, is_closed, colour in _PARTS:
        line = fixed[first : last + 1].reshape(-1, 1, 2)
        cv2.polylines(drawing, [line], is_closed, colour, width, cv2.LINE_AA, shift=4)
    return drawing.astype(np.float32) / 255.0


def color_control(rgb: np.ndarray) -> np.ndarray:
    """A mosaic of mean colours of an HWC uint8 picture, hard cells, COLOR_CELLS along the shorter side."""
    height, width = rgb.shape[:2]
    cell = min(height, width) / COLOR_CELLS
    cells = cv2.resize(rgb, (round(width / cell), round(height / cell)), interpolation=cv2.INTER_AREA)
    return cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST).astype(np.float32) / 255.0
