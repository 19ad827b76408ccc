"""A second opinion on likeness: no network, and nothing that training or validation ever looks at.

Histograms of edge directions in an upright face chip (Dalal 2005), projected on the whitened principal components of
the public-domain portraits (`engine.mini.train.identity` computes them). Much weaker than dlib's network, and wrong
in other ways: that is what it is for. docs/mini-model.md says how well it tells people apart.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from skimage.feature import hog

from engine.crop import chip_crop
from engine.mini.chip import CANVAS
from engine.types import Embedding, Face, Rgb

FILE = Path(__file__).parent / "weights" / "identity" / "model.safetensors"
FACE = (slice(26, 116), slice(24, 104))  # rows and columns of a chip: brows to chin, cheek to cheek


class EdgeFaceId:
    """`engine.types.FaceRecogniser`."""

    name = "edge-directions"
    same_person = 0.22  # 86 % of 43 pairs of photos of one person are above, 7 % of 623 of two people

    def __init__(self) -> None:
        kept = load_file(FILE)
        self._mean: NDArray[np.float32] = kept["mean"].astype(np.float32)
        self._basis: NDArray[np.float32] = kept["basis"].astype(np.float32)

    def embed(self, rgb: Rgb, face: Face) -> Embedding:
        """(components,) float32 of unit length; a face and its mirror image have the same."""
        chip = chip_crop(face, CANVAS).cut(rgb)
        both = (edge_directions(chip) + edge_directions(chip[:, ::-1])) / 2
        code = (both - self._mean) @ self._basis
        return code / np.linalg.norm(code)

    def likeness(self, a: Embedding, b: Embedding) -> float:
        """The cosine."""
        return float(a @ b)


def edge_directions(chip: Rgb) -> NDArray[np.float32]:
    """(2880,) float32 of a (128, 128, 3) chip."""
    grey = cv2.cvtColor(np.ascontiguousarray(chip), cv2.COLOR_RGB2GRAY)[FACE]
    return hog(grey, orientations=8, pixels_per_cell=(8, 8), cells_per_block=(2, 2)).astype(np.float32)
