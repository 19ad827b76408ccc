"""Figure 2, the control pictures: edges, pose (of the pasted digital ID) and colours; edges and detail afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import cv2

from engine.crop import Crop
from engine.models.mean_head import HeadView
from engine.types import Face, Rgb

if TYPE_CHECKING:
    from engine.config import PortraitConfig
    from engine.diffusion import Control

MOST_TURNED = 15.0  # degrees between digital ID and template beyond which the ID's face would show a wrong pose


class ControlPictures(Protocol):
    """What a model's ControlNets were trained to see. All pictures are RGB of the canvas's size."""

    second_detail: str  # the ControlNet that keeps detail in the second pass

    def canny(self, canvas: Rgb) -> Rgb: ...
    def pose(self, canvas: Rgb, face: Face) -> Rgb: ...
    def color(self, canvas: Rgb) -> Rgb: ...
    def detail(self, canvas: Rgb) -> Rgb: ...


def posed(face: Face, id_face: Face, shape: tuple[int, ...]) -> Face:
    """The digital ID's face laid over `face` (of a picture of `shape`) by a similarity of five points; `face` itself
    where the two heads differ too much.

    The reference pastes the ID's pixels and looks for the pose in them; the points move alike without.
    """
    if not is_posed_alike(face, id_face):
        return face
    matrix, _ = cv2.estimateAffinePartial2D(id_face.points, face.points, method=cv2.LMEDS)
    return face if matrix is None else Crop(matrix, (shape[1], shape[0])).moved_face(id_face)


def is_posed_alike(face: Face, other: Face) -> bool:
    return HeadView.of(face.landmarks).angle_to(HeadView.of(other.landmarks)) <= MOST_TURNED


def first_controls(
    canvas: Rgb, posed_face: Face, pictures: ControlPictures, config: PortraitConfig
) -> tuple[Control, ...]:
    """Canny and colour of the working picture's canvas, and the pose of a face laid over its own."""
    from engine.diffusion import Control

    return (
        Control("canny", pictures.canny(canvas), config.canny_weight),
        Control("pose", pictures.pose(canvas, posed_face), config.pose_weight),
        Control("color", pictures.color(canvas), 0.0 if config.face_shape_match else config.color_weight),
    )


def second_controls(canvas: Rgb, pictures: ControlPictures, config: PortraitConfig) -> tuple[Control, ...]:
    """Canny and detail of the second fusion."""
    from engine.diffusion import Control

    return (
        Control("canny", pictures.canny(canvas), config.second_canny_weight),
        Control(pictures.second_detail, pictures.detail(canvas), config.second_tile_weight),
    )


def whole_controls(canvas: Rgb, pictures: ControlPictures) -> tuple[Control, ...]:
    """Canny and colour in full: a pass over a whole picture shall change nothing of what it shows."""
    from engine.diffusion import Control

    return (Control("canny", pictures.canny(canvas), 1.0), Control("color", pictures.color(canvas), 1.0))
