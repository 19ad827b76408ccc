"""InsightFace as face detector (SCRFD), 68 landmarks with head pose, and FaceID, from a folder of ONNX files.

The library routes files by their shape, not by their name, and takes the first of each kind: what was loaded is checked
here, so that a wrong file is a sentence at the start and not a wrong likeness later. Any ONNX file with the ArcFace
contract (RGB 112x112 aligned by five points in, one embedding out) can replace the pack's own FaceID.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from insightface.app import FaceAnalysis
from insightface.app.common import Face as Found
from insightface.model_zoo import model_zoo
from insightface.model_zoo.arcface_onnx import ArcFaceONNX
from insightface.utils.face_align import norm_crop

from engine.crop import found_near
from engine.errors import MissingWeights
from engine.types import Embedding, Face, HeadPose, Points, Rgb

if TYPE_CHECKING:
    from numpy.typing import NDArray

Box = tuple[float, float, float, float]
Provider = str | tuple[str, dict[str, str]]

# The small size finds faces that fill the frame, the large one the rest.
DETECTION_SIZES = ((128, 128), (640, 640))
# Where a face is known to be, so many boxes are searched at this size: the face is as large as that of a portrait is in
# a search of the whole picture.
NEAR, NEAR_SIZE = 2.0, (320, 320)
MIN_SCORE = 0.5
# Two photos of one person in the wild have a cosine of about 0.5, of different people 0.13 and at most 0.35.
SAME_PERSON = 0.35
CPU = ("CPUExecutionProvider",)
# The library would else try every way to convolve at each new size and number of faces, which takes seconds.
CUDA = (("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"}), *CPU)


class InsightFaceFaces:
    """One pack's networks, loaded once: `detector`, `recogniser` and `landmarks` share them.

    `pack` is a folder with a detector and a 68-landmark file, and a FaceID file unless `recognition` names another one.
    Raises MissingWeights when the pack is absent or lacks a kind.
    """

    def __init__(
        self,
        pack: Path,
        providers: Sequence[Provider] = CPU,
        *,
        recognition: Path | None = None,
        detection_sizes: Sequence[tuple[int, int]] = DETECTION_SIZES,
        same_person: float = SAME_PERSON,
    ) -> None:
        wanted = ["detection", "landmark_3d_68"] + ([] if recognition else ["recognition"])
        networks = _load_pack(_innermost(pack), providers, wanted)
        networks["detection"].prepare(0, input_size=list(detection_sizes), det_thresh=MIN_SCORE)
        face_id = _load_face_id(recognition, providers) if recognition else networks["recognition"]
        self.landmarks = InsightFaceLandmarks(networks["landmark_3d_68"])
        self.detector = InsightFaceDetector(networks["detection"], self.landmarks)
        self.recogniser = InsightFaceId(face_id, same_person)


class InsightFaceLandmarks:
    """68 landmarks (iBUG order, seen from the front: hidden ones are guessed) and the head's pose, from a face box."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def __call__(self, rgb: Rgb, box: Box) -> tuple[Points, HeadPose]:
        return self.of_bgr(_bgr(rgb), box)

    def of_bgr(self, bgr: Rgb, box: Box) -> tuple[Points, HeadPose]:
        found = Found(bbox=np.array(box, np.float32))
        points = self._network.get(bgr, found)
        pitch, yaw, roll = (float(angle) for angle in found["pose"])
        return points[:, :2].astype(np.float32), HeadPose(yaw, pitch, roll)


class InsightFaceDetector:
    """SCRFD. Boxes may reach a little beyond the picture's border."""

    def __init__(self, network: Any, landmarks: InsightFaceLandmarks) -> None:
        self._network, self._landmarks = network, landmarks

    def __call__(self, rgb: Rgb) -> list[Face]:
        """All faces, largest first."""
        return self._faces(rgb, None)

    def near(self, rgb: Rgb, expected: Face) -> list[Face]:
        """One run of the network on a quarter of the pixels, and one of the landmarks' for each face there."""
        return found_near(expected, NEAR, rgb, lambda piece: self._faces(piece, NEAR_SIZE))

    def _faces(self, rgb: Rgb, size: tuple[int, int] | None) -> list[Face]:
        bgr = _bgr(rgb)
        boxes, points = self._network.detect(bgr, input_size=size)
        faces = [self._face(bgr, box, five) for box, five in zip(boxes, points, strict=True)]
        return sorted(faces, key=lambda face: -face.area)

    def _face(self, bgr: Rgb, found: NDArray[np.float32], points: NDArray[np.float32]) -> Face:
        left, top, right, bottom, score = (float(value) for value in found)
        landmarks, pose = self._landmarks.of_bgr(bgr, (left, top, right, bottom))
        return Face((left, top, right, bottom), points.astype(np.float32), landmarks, score, pose)


class InsightFaceId:
    """An ArcFace network: (d,) unit vectors, compared by their cosine."""

    def __init__(self, network: ArcFaceONNX, same_person: float = SAME_PERSON) -> None:
        self._network = network
        self.name = f"insightface-{Path(network.model_file).stem}"
        self.same_person = same_person

    def embed(self, rgb: Rgb, face: Face) -> Embedding:
        # Never several at once: on a GPU onnxruntime prepares every convolution anew when the number of faces changes,
        # which took 145 ms on an H100, where a face takes 4. And some files were written for one face at a time.
        chip = _bgr(norm_crop(rgb, face.points, self._network.input_size[0]))
        vector: Embedding = self._network.get_feat([chip])[0].astype(np.float32)
        return vector / np.linalg.norm(vector)

    def likeness(self, a: Embedding, b: Embedding) -> float:
        """Cosine, -1..1."""
        return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def _load_pack(folder: Path, providers: Sequence[Provider], wanted: list[str]) -> dict[str, Any]:
    try:
        networks = FaceAnalysis(name=str(folder), allowed_modules=wanted, providers=list(providers)).models
    except AssertionError:  # how it says that it found no detector
        networks = {}
    lacking = [kind for kind in wanted if kind not in networks]
    if lacking:
        raise MissingWeights(
            f"{folder} holds no ONNX file that InsightFace takes for {', '.join(lacking)}:"
            " run `python -m engine models fetch buffalo_l`"
        )
    return networks


def _load_face_id(file: Path, providers: Sequence[Provider]) -> ArcFaceONNX:
    if not file.is_file():
        raise MissingWeights(f"{file} is not there: run `python -m engine models fetch` or name another FaceID file")
    network = model_zoo.get_model(str(file), providers=list(providers))
    if not isinstance(network, ArcFaceONNX):
        raise MissingWeights(f"{file} is no FaceID network: its input must be Nx3x112x112 and it must have one output")
    return network


def _innermost(pack: Path) -> Path:
    """The folder that holds the ONNX files: zip files of packs are known to unpack one folder too deep."""
    for folder in (pack, pack / pack.name):
        if folder.is_dir() and any(folder.glob("*.onnx")):
            return folder
    raise MissingWeights(f"{pack} holds no ONNX files: run `python -m engine models fetch buffalo_l`")


def _bgr(rgb: Rgb) -> Rgb:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), np.uint8)
