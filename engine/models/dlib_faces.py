"""dlib as face detector and as FaceID, from the model files that the `face_recognition_models` package carries.

The package itself is never imported (it needs pkg_resources): only its files are read. Sources: dlib.net; the ResNet
reaches 99.38 % on LFW at a distance of 0.6. The 68-point predictor was trained on iBUG 300-W (research use).
"""

from __future__ import annotations

import threading
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import cv2
import dlib
import numpy as np

from engine.errors import MissingWeights
from engine.images import clip_box, fitted, grow_box, resized
from engine.types import Embedding, Face, HeadPose, Points, Rgb

WORKING_SIDE = 1000  # longest side in which faces are searched
SMALLEST_AT_ONCE = 230  # px: is the largest face so wide, then no face of a third its width needs upsampling
MIN_SCORE = 0.0  # of the HOG detector; below it, background is found
SURE_SCORE = (
    0.3  # badges and folds scored up to 0.25; of faces below it only the surest counts, and only if none is above
)
BORDER = 0.25  # added around a picture in which no face was found: the detector needs room around a close-up
TILTS = (-35, 35, 90, -90, 180)  # degrees tried last: the detector bears about 25; photos without EXIF lie sideways
# A face whose place is known is searched for around there: so many boxes wide, at this width, turned upright from that.
NEAR, NEAR_WIDTH, UPRIGHT = 2.0, 128, 20.0

# 14 of the 68 iBUG points on a mean head (centimetres; x to the picture's left, y up, z towards the camera).
HEAD_POINTS = (17, 21, 22, 26, 36, 39, 42, 45, 31, 35, 48, 54, 57, 8)
HEAD_MODEL = np.array(
    [
        [6.825897, 6.760612, 4.402142],
        [1.330353, 7.122144, 6.903745],
        [-1.330353, 7.122144, 6.903745],
        [-6.825897, 6.760612, 4.402142],
        [5.311432, 5.485328, 3.987654],
        [1.789930, 5.393625, 4.413414],
        [-1.789930, 5.393625, 4.413414],
        [-5.311432, 5.485328, 3.987654],
        [2.005628, 1.409845, 6.165652],
        [-2.005628, 1.409845, 6.165652],
        [2.774015, -2.080775, 5.048531],
        [-2.774015, -2.080775, 5.048531],
        [0.0, -3.116408, 6.097667],
        [0.0, -7.415691, 4.070434],
    ]
)


def model_file(name: str) -> str:
    """The path of a model file. Raises `MissingWeights` when its package is not installed."""
    spec = find_spec("face_recognition_models")
    path = Path(spec.origin).parent / "models" / name if spec and spec.origin else None
    if path is None or not path.is_file():
        raise MissingWeights(f"{name} is not there: run `pip install face_recognition_models`")
    return str(path)


def five_points(landmarks: Points) -> Points:
    """Eye centres, nose tip and mouth corners out of the 68 iBUG points."""
    return np.stack(
        [landmarks[36:42].mean(0), landmarks[42:48].mean(0), landmarks[30], landmarks[48], landmarks[54]]
    ).astype(np.float32)


def head_pose(landmarks: Points) -> HeadPose:
    """Rotation of the head as it appears, by fitting a mean head under a camera that looks at the face's middle.

    The camera's true axis is unknown (crops) and off-centre faces look as if turned; what counts is what is seen.
    """
    centre, extent = landmarks.mean(0), np.ptp(landmarks, axis=0).max()
    focal = 6.0 * float(extent)  # a face seen from about a metre
    camera = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
    points = landmarks[list(HEAD_POINTS)].astype(np.float64)
    # The model's axes turned into OpenCV's (x right, y down, z away): a frontal face then has no rotation.
    _, rotation, _ = cv2.solvePnP(-HEAD_MODEL, points, camera, None, flags=cv2.SOLVEPNP_SQPNP)
    matrix, _ = cv2.Rodrigues(rotation)
    yaw = np.degrees(np.arctan2(-matrix[0, 2], np.hypot(matrix[0, 0], matrix[0, 1])))
    pitch = np.degrees(np.arctan2(matrix[1, 2], matrix[2, 2]))
    eyes = landmarks[42:48].mean(0) - landmarks[36:42].mean(0)
    return HeadPose(float(yaw), float(pitch), float(np.degrees(np.arctan2(eyes[1], eyes[0]))))


class DlibDetector:
    """HOG face detector with 68 landmarks. A face must be about 4 % of the longest side wide to be found.

    Several threads may ask: dlib's detector works in memory of its own and lets go of Python's lock meanwhile, so that
    two searches at once would write over each other (and end the process). One waits for the other.
    """

    def __init__(self) -> None:
        self._searching = threading.Lock()
        self._detector = dlib.get_frontal_face_detector()
        self._predictor = dlib.shape_predictor(model_file("shape_predictor_68_face_landmarks.dat"))

    def __call__(self, rgb: Rgb) -> list[Face]:
        """All faces, largest first."""
        small, scale = fitted(np.ascontiguousarray(rgb), WORKING_SIDE)
        found = self._search(small)
        faces = [self._face(rgb, box / scale, score) for box, score in found]
        if not faces:
            faces = self._among_tilted(small, scale)
        return sorted(faces, key=lambda face: -face.area)

    def near(self, rgb: Rgb, expected: Face) -> list[Face]:
        """The faces around `expected`, in the order of the detector's scores. Costs a few milliseconds.

        Their boxes are that of `expected`, moved and scaled as its landmarks: what the detector calls a box comes in
        sizes a fifth apart, so that one face's would jump from stage to stage, and every mask with it.
        """
        roll = expected.pose.roll if abs(expected.pose.roll) > UPRIGHT else 0.0
        left, top, right, bottom = clip_box(grow_box(expected.box_xyxy, NEAR), rgb.shape)
        turn = np.array([[1.0, 0, -left], [0, 1, -top]])
        if roll == 0:
            piece = np.ascontiguousarray(rgb[top:bottom, left:right])
        else:
            turn = cv2.getRotationMatrix2D(((left + right) / 2, (top + bottom) / 2), roll, 1.0)
            turn[:, 2] -= left, top
            piece = cv2.warpAffine(rgb, turn, (right - left, bottom - top), borderMode=cv2.BORDER_REPLICATE)
        zoom = NEAR_WIDTH / expected.width
        small = resized(piece, (max(1, round(piece.shape[1] * zoom)), max(1, round(piece.shape[0] * zoom))))
        found = [self._turned_face(piece, turn, 1.0, box / zoom, score) for box, score in self._run(small, 0)]
        return [replace(face, box_xyxy=_carried(expected, face.landmarks)) for face in found]

    def _search(self, small: Rgb) -> list[tuple[np.ndarray, float]]:
        """Boxes in `small`, coarsely first: what upsampling would add is looked for only where it could matter."""
        found = self._run(small, 0)
        if max((box[2] - box[0] for box, _ in found), default=0) < SMALLEST_AT_ONCE:
            found = self._run(small, 1)
        return found

    def _run(self, picture: Rgb, upsampling: int) -> list[tuple[np.ndarray, float]]:
        with self._searching:
            boxes, scores, _ = self._detector.run(picture, upsampling, MIN_SCORE)
        needed = min(SURE_SCORE, max(scores, default=0.0))
        return [
            (np.array([b.left(), b.top(), b.right(), b.bottom()], np.float64), float(score))
            for b, score in zip(boxes, scores, strict=True)
            if score >= needed
        ]

    def _among_tilted(self, small: Rgb, scale: float) -> list[Face]:
        """Faces that fill the frame or are tilted, looked for with room around them and the picture turned."""
        height, width = small.shape[:2]
        side = int(max(width, height) * (1 + 2 * BORDER))
        for angle in (0, *TILTS):
            turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, min(1.0, WORKING_SIDE / side))
            canvas = min(side, WORKING_SIDE)
            turn[:, 2] += (canvas - np.array([width, height])) / 2
            turned = cv2.warpAffine(small, turn, (canvas, canvas), borderMode=cv2.BORDER_REPLICATE)
            faces = [self._turned_face(turned, turn, scale, box, score) for box, score in self._run(turned, 0)]
            if faces:
                return faces
        return []

    def _turned_face(self, turned: Rgb, turn: np.ndarray, scale: float, box: np.ndarray, score: float) -> Face:
        back = cv2.invertAffineTransform(turn)
        landmarks = self._landmarks(turned, box) @ back[:, :2].T + back[:, 2]
        centre = back @ np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, 1.0])
        half = (box[2] - box[0]) / 2 / np.hypot(turn[0, 0], turn[0, 1])
        return _assembled(np.concatenate([centre - half, centre + half]) / scale, landmarks / scale, score)

    def _face(self, rgb: Rgb, box: np.ndarray, score: float) -> Face:
        return _assembled(box, self._landmarks(rgb, box), score)

    def _landmarks(self, rgb: Rgb, box: np.ndarray) -> np.ndarray:
        shape = self._predictor(rgb, dlib.rectangle(*(round(v) for v in box)))
        return np.array([[p.x, p.y] for p in shape.parts()], np.float64)


def _carried(face: Face, landmarks: Points) -> tuple[float, float, float, float]:
    """The box of `face` moved and scaled as its landmarks have to be to lie over `landmarks`."""
    old, new = face.landmarks.mean(0), landmarks.mean(0)
    scale = np.linalg.norm(landmarks - new) / np.linalg.norm(face.landmarks - old)
    left, top, right, bottom = (float(v) for v in np.tile(new, 2) + scale * (face.box_xyxy - np.tile(old, 2)))
    return left, top, right, bottom


def _assembled(box: np.ndarray, landmarks: np.ndarray, score: float) -> Face:
    points = landmarks.astype(np.float32)
    left, top, right, bottom = (float(v) for v in box)
    return Face((left, top, right, bottom), five_points(points), points, score, head_pose(points))


class DlibFaceId:
    """dlib's ResNet: 128 numbers per face; a distance below 0.6 means one person, so a likeness above 0.4."""

    name = "dlib-resnet-v1"
    same_person = 0.4

    def __init__(self) -> None:
        self._embedding = threading.Lock()  # the network keeps what it works out in itself
        self._network = dlib.face_recognition_model_v1(model_file("dlib_face_recognition_resnet_model_v1.dat"))

    def embed(self, rgb: Rgb, face: Face) -> Embedding:
        """(128,) float32."""
        box = dlib.rectangle(*(round(v) for v in face.box_xyxy))
        points = dlib.points([dlib.point(round(x), round(y)) for x, y in face.landmarks])
        shape = dlib.full_object_detection(box, points)
        with self._embedding:
            numbers = self._network.compute_face_descriptor(np.ascontiguousarray(rgb), shape)
        return np.array(numbers, np.float32)

    def likeness(self, a: Embedding, b: Embedding) -> float:
        """1 - Euclidean distance."""
        return 1.0 - float(np.linalg.norm(a - b))
