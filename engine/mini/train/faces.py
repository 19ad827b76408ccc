"""Finds faces and their 68 landmarks and FaceID with dlib. For preparation and evaluation only.

dlib's model files are read out of the installed `face_recognition_models`; that package itself is not imported.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import cv2
import dlib
import numpy as np

LONGEST_SIDE = 1000


def dlib_file(name: str) -> str:
    """The path of one of the package's model files. Raises FileNotFoundError when the package is not installed."""
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("Install face_recognition_models: dlib's model files are read from it.")
    return str(Path(spec.submodule_search_locations[0]) / "models" / name)


@dataclass(frozen=True)
class FaceTools:
    """dlib's three networks, loaded once and passed around."""

    detector: dlib.fhog_object_detector
    predictor: dlib.shape_predictor
    recogniser: dlib.face_recognition_model_v1

    @staticmethod
    def load() -> "FaceTools":
        return FaceTools(
            dlib.get_frontal_face_detector(),
            dlib.shape_predictor(dlib_file("shape_predictor_68_face_landmarks.dat")),
            dlib.face_recognition_model_v1(dlib_file("dlib_face_recognition_resnet_model_v1.dat")),
        )

    def landmarks(self, rgb: np.ndarray, upsample: int = 1) -> np.ndarray | None:
        """(68, 2) float64 in pixels of `rgb` (HWC uint8) for the biggest face, or None when no face is found."""
        boxes = self.detector(np.ascontiguousarray(rgb), upsample)
        if not boxes:
            return None
        shape = self.predictor(np.ascontiguousarray(rgb), max(boxes, key=lambda b: b.area()))
        return np.array([(p.x, p.y) for p in shape.parts()], dtype=np.float64)

    def embedding(self, rgb: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """(128,) float64 FaceID; two photos of one person are less than 0.6 apart."""
        points = dlib.points([dlib.point(round(x), round(y)) for x, y in landmarks])
        x0, y0 = landmarks.min(0)
        x1, y1 = landmarks.max(0)
        box = dlib.rectangle(int(x0), int(y0), int(x1), int(y1))
        shape = dlib.full_object_detection(box, points)
        return np.array(self.recogniser.compute_face_descriptor(np.ascontiguousarray(rgb), shape))


def read_picture(path: Path) -> np.ndarray:
    """HWC uint8 RGB, longest side at most LONGEST_SIDE. Raises ValueError when the file is no picture."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError(f"Not a picture: {path.name}")
    scale = min(1.0, LONGEST_SIDE / max(bgr.shape[:2]))
    if scale < 1:
        bgr = cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(bgr[..., ::-1])
