"""Values that pass between stages. Pictures are HWC uint8 RGB arrays unless a name says otherwise.

Frames: every box and point is in pixels of the picture that it was found in, origin top left, x to the right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]  # (H, W, 3), 0..255, red first
Mask = NDArray[np.float32]  # (H, W), 0..1, 1 = inside
Points = NDArray[np.float32]  # (n, 2), x then y
Embedding = NDArray[np.float32]  # (d,), made and compared by one recogniser only
Matrix = NDArray[np.float64]  # (2, 3) affine, applied to (x, y, 1)


@dataclass(frozen=True)
class Photo:
    """One picture that a person handed over, upright and decoded."""

    name: str
    rgb: Rgb


@dataclass(frozen=True)
class HeadPose:
    """Head rotation in degrees. Yaw > 0: the face looks to the picture's right; pitch > 0: up; roll > 0: clockwise."""

    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True)
class Face:
    """A detected face.

    `box_xyxy` is the detector's box; `points` are five points in the order left eye centre, right eye centre, nose tip,
    left and right mouth corner, where left means left in the picture; `landmarks` are the 68 points of the iBUG scheme.
    """

    box_xyxy: tuple[float, float, float, float]
    points: Points
    landmarks: Points
    score: float
    pose: HeadPose

    @property
    def width(self) -> float:
        return self.box_xyxy[2] - self.box_xyxy[0]

    @property
    def height(self) -> float:
        return self.box_xyxy[3] - self.box_xyxy[1]

    @property
    def area(self) -> float:
        return self.width * self.height


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    REFUSED = "refused"


class Reason(StrEnum):
    """Why a photo is refused or warned about. The words for people live in bot/texts.py."""

    UNREADABLE = "unreadable"
    NO_FACE = "no_face"
    SEVERAL_PEOPLE = "several_people"
    NOT_SAME_PERSON = "not_same_person"
    TOO_SMALL = "too_small"
    BLURRED = "blurred"
    TOO_DARK = "too_dark"
    TOO_BRIGHT = "too_bright"
    DUPLICATE = "duplicate"
    TURNED_AWAY = "turned_away"
    OCCLUDED = "occluded"


@dataclass(frozen=True)
class PhotoReport:
    """What inspection says of one photo. `measures` are the numbers behind it, by name (units in the name)."""

    file: str
    verdict: Verdict
    reason: Reason | None = None
    measures: dict[str, float] = field(default_factory=dict)

    @property
    def is_usable(self) -> bool:
        return self.verdict is not Verdict.REFUSED


@dataclass(frozen=True)
class InspectedPhoto:
    """A usable photo with the subject's face in it and that face's embedding."""

    photo: Photo
    face: Face
    embedding: Embedding
    report: PhotoReport


@dataclass(frozen=True)
class Inspection:
    """The verdict on a whole set: a report per photo in the order given, the usable ones, and the best of them."""

    reports: tuple[PhotoReport, ...]
    usable: tuple[InspectedPhoto, ...]
    reference: InspectedPhoto | None


@dataclass(frozen=True)
class Render:
    """What a checkpoint painted on one validation template. Without a face in it, the other three are None."""

    template: int
    rgb: Rgb
    embedding: Embedding | None = None
    likeness: float | None = None  # to the held-out photos
    ranking: float | None = None  # to the photos by which checkpoints are chosen


@dataclass(frozen=True)
class CheckpointScore:
    """Mean likeness of a checkpoint's validation renders to the held-out photos."""

    step: int
    likeness: float | None  # None: no render showed a face


@dataclass(frozen=True)
class SubjectFiles:
    """A trained subject as a folder of files: what training writes and portraits read.

    `lora.safetensors` (kohya layout), `reference.jpg` (best photo), `digital_id.jpg` (best validation render),
    `card.jpg` (how the training went, as a picture for the person),
    `references/*.jpg` (usable photos, cropped, for choosing the best one for a template), `subject.json` (measures,
    trigger word, profile, held-out embeddings, and the faces and embeddings of the pictures here).
    """

    folder: Path

    @property
    def lora(self) -> Path:
        return self.folder / "lora.safetensors"

    @property
    def reference(self) -> Path:
        return self.folder / "reference.jpg"

    @property
    def digital_id(self) -> Path:
        return self.folder / "digital_id.jpg"

    @property
    def card(self) -> Path:
        return self.folder / "card.jpg"

    @property
    def references(self) -> Path:
        return self.folder / "references"

    @property
    def info(self) -> Path:
        return self.folder / "subject.json"


class FaceDetector(Protocol):
    def __call__(self, rgb: Rgb) -> list[Face]:
        """All faces, largest first. An empty list when there is none."""
        ...

    def near(self, rgb: Rgb, expected: Face) -> list[Face]:
        """The faces around the place of `expected`, in any order: cheaper than a search of the whole picture."""
        ...


class FaceRecogniser(Protocol):
    """FaceID: turns a face into an embedding and compares embeddings."""

    name: str
    same_person: float  # likeness above which two photos show one person

    def embed(self, rgb: Rgb, face: Face) -> Embedding: ...

    def likeness(self, a: Embedding, b: Embedding) -> float:
        """Higher is more alike, 1 is identical: the cosine, or 1 - distance where the encoder is made for distances."""
        ...


class Segmenter(Protocol):
    def __call__(self, rgb: Rgb, face: Face) -> Mask:
        """The person (head and shoulders) around `face`, soft at its edge."""
        ...


class Retoucher(Protocol):
    def __call__(self, rgb: Rgb, face: Face) -> Rgb:
        """Evens the skin; eyes, brows, lips and hair keep their detail."""
        ...


class Enhancer(Protocol):
    def __call__(self, rgb: Rgb) -> Rgb:
        """The picture at twice its size, sharpened or restored."""
        ...


class ContentChecker(Protocol):
    """Whether a picture may be shown to everybody."""

    name: str

    def is_safe(self, rgb: Rgb) -> bool: ...


class FaceFuser(Protocol):
    def __call__(self, template: Rgb, template_face: Face, reference: Rgb, reference_face: Face) -> Rgb:
        """`template` with the reference's face in it; same size. Raises `FusionFailed` when it cannot."""
        ...
