"""ModelScope's enlargers: GPEN portrait enhancement (x2, restores faces) and RRDB super-resolution (x4 or x2)."""

from __future__ import annotations

from pathlib import Path

import cv2

from engine.models.modelscope_pipelines import Pipeline, open_pipeline, to_picture, to_rgb
from engine.types import Rgb

# Both run a network over the whole picture at once: twelve megapixels do not fit into 40 GB.
MOST_PIXELS = 1_500_000


class PortraitEnhancer:
    """Any of ModelScope's pipelines that answer with an enlarged picture, as the engine's enhancer (twice the size).

    A picture of more than `most_pixels` is enhanced at that size and enlarged to the rest of the way by resampling.
    """

    def __init__(self, pipeline: Pipeline, most_pixels: int = MOST_PIXELS) -> None:
        self._pipeline, self._most_pixels = pipeline, most_pixels

    def __call__(self, rgb: Rgb) -> Rgb:
        height, width = rgb.shape[:2]
        enhanced = to_rgb(self._pipeline(to_picture(_at_most(rgb, self._most_pixels))))
        if enhanced.shape[1] == 2 * width and enhanced.shape[0] == 2 * height:
            return enhanced
        smaller = enhanced.shape[1] > 2 * width
        return cv2.resize(
            enhanced, (2 * width, 2 * height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
        )


def gpen(folder: Path, device: str = "cpu", most_pixels: int = MOST_PIXELS) -> PortraitEnhancer:
    """RRDB x2 everywhere, GPEN on faces that it keeps like themselves."""
    return PortraitEnhancer(open_pipeline("image-portrait-enhancement", folder, device), most_pixels)


def rrdb_x4(folder: Path, device: str = "cpu", most_pixels: int = MOST_PIXELS // 4) -> PortraitEnhancer:
    """RRDB x4, shrunk to half. Knows nothing of faces."""
    return PortraitEnhancer(open_pipeline("image-super-resolution", folder, device), most_pixels)


def rrdb_x2(folder: Path, device: str = "cpu", *, trust_remote_code: bool) -> PortraitEnhancer:
    """The reference's other enlarger; its code lies in its folder and runs only when that is allowed."""
    return PortraitEnhancer(open_pipeline("image-super-resolution-x2", folder, device, trust_remote_code))


def _at_most(rgb: Rgb, pixels: int) -> Rgb:
    height, width = rgb.shape[:2]
    factor = (pixels / (height * width)) ** 0.5
    if factor >= 1:
        return rgb
    size = (max(1, int(width * factor)), max(1, int(height * factor)))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
