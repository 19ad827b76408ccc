"""Who finds the faces while portraits are measured: dlib, or networks of InsightFace's size which are told."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from engine.errors import MissingWeights
from engine.models.dlib_faces import DlibDetector, DlibFaceId
from engine.types import Embedding, Face, FaceDetector, FaceRecogniser, Rgb

if TYPE_CHECKING:
    from engine.models.insightface_faces import InsightFaceFaces

NARROWER = 8  # channels of a rehearsal's networks are divided by it
SEEN = (slice(None, None, 5), slice(None, None, 3))  # of a picture's pixels, by which it is told from others

T = TypeVar("T")


class Faces(FaceDetector, FaceRecogniser, Protocol):
    """Both halves."""


class DlibFaces:
    """dlib's detector and FaceID."""

    def __init__(self) -> None:
        self._detector, self._recogniser = DlibDetector(), DlibFaceId()
        self.name, self.same_person = self._recogniser.name, self._recogniser.same_person

    def __call__(self, rgb: Rgb) -> list[Face]:
        return self._detector(rgb)

    def near(self, rgb: Rgb, expected: Face) -> list[Face]:
        return self._detector.near(rgb, expected)

    def embed(self, rgb: Rgb, face: Face) -> Embedding:
        return self._recogniser.embed(rgb, face)

    def likeness(self, a: Embedding, b: Embedding) -> float:
        return self._recogniser.likeness(a, b)


class ToldFaces:
    """InsightFace's code and networks of its size do all the work, dlib says what comes of it: random weights find
    nothing and know nobody.

    The detector's networks run and find nothing, those of the landmarks run for each face that dlib names, FaceID runs
    for each face that it is given. What dlib said once is remembered by picture, so that a second run of the same
    portrait does not wait for it: `asked` counts how often it was waited for. Left out is what the library does with
    the few boxes that a detector finds for a face (decoding and suppression, well under a millisecond).
    """

    def __init__(self, networks: InsightFaceFaces) -> None:
        self._networks, self._says = networks, DlibFaces()
        self.name, self.same_person = self._says.name, self._says.same_person
        self.asked = 0
        self._known: dict[tuple[Any, ...], Any] = {}

    def __call__(self, rgb: Rgb) -> list[Face]:
        self._networks.detector(rgb)
        return self._with_landmarks(rgb, self._told(rgb, (), lambda: self._says(rgb)))

    def near(self, rgb: Rgb, expected: Face) -> list[Face]:
        self._networks.detector.near(rgb, expected)
        told = self._told(rgb, expected.box_xyxy, lambda: self._says.near(rgb, expected))
        return self._with_landmarks(rgb, told)

    def embed(self, rgb: Rgb, face: Face) -> Embedding:
        self._networks.recogniser.embed(rgb, face)
        return self._told(rgb, tuple(face.points.ravel()), lambda: self._says.embed(rgb, face))

    def likeness(self, a: Embedding, b: Embedding) -> float:
        return self._says.likeness(a, b)

    def _with_landmarks(self, rgb: Rgb, faces: list[Face]) -> list[Face]:
        for face in faces:
            self._networks.landmarks(rgb, face.box_xyxy)
        return faces

    def _told(self, rgb: Rgb, about: tuple[float, ...], ask: Callable[[], T]) -> T:
        key = (rgb.shape, hash(rgb[SEEN].tobytes()), about)
        if key not in self._known:
            self.asked += 1
            self._known[key] = ask()
        known: T = self._known[key]
        return known


class CountedFaces:
    """Another one's faces, timed. Calls that run side by side count one by one."""

    def __init__(self, faces: Faces) -> None:
        self._faces = faces
        self.name, self.same_person = faces.name, faces.same_person
        self.seconds, self.calls = 0.0, 0

    def __call__(self, rgb: Rgb) -> list[Face]:
        return self._timed(lambda: self._faces(rgb))

    def near(self, rgb: Rgb, expected: Face) -> list[Face]:
        return self._timed(lambda: self._faces.near(rgb, expected))

    def embed(self, rgb: Rgb, face: Face) -> Embedding:
        return self._timed(lambda: self._faces.embed(rgb, face))

    def likeness(self, a: Embedding, b: Embedding) -> float:
        return self._faces.likeness(a, b)

    @property
    def asked(self) -> int:
        """How often an answer of dlib's was waited for which true networks would have given."""
        return self._faces.asked if isinstance(self._faces, ToldFaces) else 0

    def _timed(self, function: Callable[[], T]) -> T:
        begin = time.perf_counter()
        result = function()
        self.seconds += time.perf_counter() - begin
        self.calls += 1
        return result


def bench_faces(kind: str, folder: Path, device: str, tiny: bool) -> tuple[CountedFaces, dict[str, Any]]:
    """The faces called "dlib" or "insightface", and what is to be said of them beside the figures.

    Raises MissingWeights where packages are not installed.
    """
    if kind == "dlib":
        return CountedFaces(DlibFaces()), {"networks": "dlib, one core"}
    absent = [package for package in ("onnx", "insightface", "onnxruntime") if find_spec(package) is None]
    if absent:
        raise MissingWeights(f"{', '.join(absent)}: install the extras `production` and `gpu` or `cpu` of this project")
    import onnxruntime

    from engine.bench.face_networks import write_random_pack
    from engine.models.insightface_faces import CPU, CUDA, InsightFaceFaces

    sizes = write_random_pack(folder / "faces", NARROWER if tiny else 1)
    has_cuda = device != "cpu" and CUDA[0][0] in onnxruntime.get_available_providers()
    networks = InsightFaceFaces(folder / "faces", CUDA if has_cuda else CPU)
    return CountedFaces(ToldFaces(networks)), {
        "networks": "InsightFace's code and architectures, random weights; answers by dlib, outside of the seconds",
        "provider": (CUDA[0] if has_cuda else CPU)[0],
        **sizes,
    }
