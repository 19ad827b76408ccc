"""What can be measured of a portrait without asking anybody: its seam, its sharpness, what changed."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.types import Mask, Rgb

RING = 0.02  # width of the ring on either side of the mask's edge, share of the mask's width


def seam(rgb: Rgb, mask: Mask) -> float:
    """Mean colour step across the edge of `mask`, in CIE76 ΔE: 1 is just visible, a face against hair is 20 to 40.

    At each point of the edge the colours just inside and just outside are averaged over a small ring.
    """
    inside = (mask > 0.5).astype(np.float32)
    steps = _steps(rgb, inside, max(1.0, RING * float(inside.any(0).sum())))
    return float(steps.mean()) if len(steps) else 0.0


def added_seam(rgb: Rgb, template: Rgb, mask: Mask) -> float:
    """How much larger than in the template the colour steps across the edge of `mask` are, mean of what is added."""
    inside = (mask > 0.5).astype(np.float32)
    width = max(1.0, RING * float(inside.any(0).sum()))
    added = _steps(rgb, inside, width) - _steps(template, inside, width)
    return float(np.maximum(added, 0).mean()) if len(added) else 0.0


def changed_pixels(a: Rgb, b: Rgb, where: NDArray[np.bool_]) -> int:
    """Pixels inside `where` that differ in any channel by any amount."""
    return int(((a != b).any(-1) & where).sum())


def sharpness(rgb: Rgb, mask: Mask) -> float:
    """Mean absolute detail (finer than 2 pixels) of the lightness inside `mask`."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    detail = np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 1.0))
    return float(detail[mask > 0.5].mean()) if (mask > 0.5).any() else 0.0


def _steps(rgb: Rgb, inside: Mask, width: float) -> NDArray[np.float32]:
    lab = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    edge = cv2.dilate(inside, np.ones((3, 3))) - inside > 0
    means = []
    for side in (inside, 1 - inside):
        weight = cv2.GaussianBlur(side, (0, 0), width)[..., None]
        means.append(cv2.GaussianBlur(lab * side[..., None], (0, 0), width) / np.maximum(weight, 1e-6))
    return np.linalg.norm(means[0] - means[1], axis=-1)[edge]
