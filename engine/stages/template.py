"""Figure 2, box "template face": which face of a template is replaced, and the piece of the template to work on."""

from __future__ import annotations

from collections.abc import Sequence

from engine.crop import Crop, clipped_box_crop
from engine.errors import NoFaceInTemplate
from engine.types import Face, FaceDetector, Rgb

LONGEST = 2048  # px, longest side of the piece that is worked on: a bound on memory and time
SMALLEST_FACE = 24  # px wide: below it nothing of a likeness is left


def template_faces(rgb: Rgb, detector: FaceDetector) -> list[Face]:
    """The faces of a template that can be worked with, largest first. Raises `NoFaceInTemplate`."""
    faces = [face for face in detector(rgb) if face.width >= SMALLEST_FACE]
    if not faces:
        raise NoFaceInTemplate("the template shows no face that can be replaced")
    return faces


def left_to_right(faces: Sequence[Face]) -> list[Face]:
    """The faces by the middle of their boxes: the order in which people are named on a picture."""
    return sorted(faces, key=lambda face: face.box_xyxy[0] + face.box_xyxy[2])


def working_crop(rgb: Rgb, face: Face, scale: float | None) -> Crop:
    """The face box grown `scale` times (None: the whole template), pixel for pixel unless that is more than `LONGEST`.

    It may show other faces: they are outside every mask, so nothing happens to them.
    """
    whole = 2 * max(rgb.shape) / face.width
    return clipped_box_crop(face, scale or whole, rgb.shape, LONGEST)
