"""ModelScope's U²-Net: what stands out of the background, narrowed to the person around a face."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from engine.models.modelscope_pipelines import open_pipeline, to_picture
from engine.types import Face, Mask, Rgb

BACKGROUND, FOREGROUND = 0.25, 0.75  # the edge is soft between them; the reference cuts hard at one half


class U2NetSegmenter:
    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self._pipeline = open_pipeline("semantic-segmentation", folder, device)

    def __call__(self, rgb: Rgb, face: Face) -> Mask:
        """The salient region that contains the face. The face itself is always inside: the model stretches every
        picture's values to 0..1, so that in a busy picture a face may count for little."""
        saliency = self._pipeline(to_picture(rgb))["masks"].astype(np.float32) / 255
        soft = np.clip((saliency - BACKGROUND) / (FOREGROUND - BACKGROUND), 0, 1)
        with_face = np.maximum(soft, _oval(face, soft.shape))
        return with_face * _region_of(face, with_face)


def _oval(face: Face, shape: tuple[int, ...]) -> Mask:
    left, top, right, bottom = face.box_xyxy
    oval = np.zeros(shape, np.float32)
    centre = (round((left + right) / 2), round((top + bottom) / 2))
    axes = (max(1, round(face.width * 0.45)), max(1, round(face.height * 0.5)))
    cv2.ellipse(oval, centre, axes, 0, 0, 360, 1.0, cv2.FILLED)
    return cv2.GaussianBlur(oval, (0, 0), max(1.0, face.width / 30))


def _region_of(face: Face, mask: Mask) -> Mask:
    """1 in the connected part of `mask` that holds the face's centre: other salient things are left out."""
    _, labels = cv2.connectedComponents((mask > 0).astype(np.uint8))
    left, top, right, bottom = face.box_xyxy
    row = int(np.clip((top + bottom) / 2, 0, mask.shape[0] - 1))
    column = int(np.clip((left + right) / 2, 0, mask.shape[1] - 1))
    return (labels == labels[row, column]).astype(np.float32)
