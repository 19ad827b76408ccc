"""ModelScope's RetinaFace (ResNet-50) as face detector. It gives five points: landmarks and pose come from others."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from engine.crop import found_near
from engine.models.modelscope_pipelines import open_pipeline, to_picture
from engine.types import Face, HeadPose, Points, Rgb

NEAR = 2.5  # boxes: so much is looked at around a face whose place is known


class Landmarker(Protocol):
    def __call__(self, rgb: Rgb, box: tuple[float, float, float, float]) -> tuple[Points, HeadPose]:
        """68 landmarks and the head's pose of the face in `box`."""
        ...


class RetinaFaceDetector:
    """Finds faces with a confidence above 0.9. Pictures above 1500 pixels are searched at 1000 by the model itself."""

    def __init__(self, folder: Path, landmarker: Landmarker, device: str = "cpu") -> None:
        self._pipeline = open_pipeline("face-detection", folder, device)
        self._landmarker = landmarker

    def __call__(self, rgb: Rgb) -> list[Face]:
        """All faces, largest first."""
        found = self._pipeline(to_picture(rgb))
        faces = [
            self._face(rgb, box, points, score)
            for box, points, score in zip(found["boxes"], found["keypoints"], found["scores"], strict=True)
        ]
        return sorted(faces, key=lambda face: -face.area)

    def near(self, rgb: Rgb, expected: Face) -> list[Face]:
        return found_near(expected, NEAR, rgb, self)

    def _face(self, rgb: Rgb, box: list[float], points: list[float], score: float) -> Face:
        left, top, right, bottom = box
        landmarks, pose = self._landmarker(rgb, (left, top, right, bottom))
        return Face(
            (left, top, right, bottom), np.array(points, np.float32).reshape(5, 2), landmarks, float(score), pose
        )
