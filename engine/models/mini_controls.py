"""The control pictures of the small model, as `engine.stages.control` asks for them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.mini.controls import canny_control, color_control, pose_control
from engine.types import Face, Rgb


class MiniControls:
    """`ControlPictures` of the mini profile. It has no tile network: the second pass keeps the coarse colours."""

    second_detail = "color"

    def canny(self, canvas: Rgb) -> Rgb:
        return _bytes(canny_control(canvas))

    def pose(self, canvas: Rgb, face: Face) -> Rgb:
        return _bytes(pose_control(face.landmarks, canvas.shape[0]))

    def color(self, canvas: Rgb) -> Rgb:
        return _bytes(color_control(canvas))

    def detail(self, canvas: Rgb) -> Rgb:
        return _bytes(color_control(canvas))


def _bytes(picture: NDArray[np.float32]) -> Rgb:
    return np.rint(picture * 255).astype(np.uint8)
