"""Figure 2, the control pictures: edges, pose (of the pasted digital ID) and colours; edges and detail afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np

from engine.models.mean_head import HeadView
from engine.types import Face, Rgb

if TYPE_CHECKING:
    from engine.config import PortraitConfig
    from engine.diffusion import Control

BOX = 1.5  # side of the pasted piece of the digital ID over its face box
MOST_TURNED = 15.0  # degrees between digital ID and template beyond which the pasted face would show a wrong pose


class ControlPictures(Protocol):
    """What a model's ControlNets were trained to see. All pictures are RGB of the canvas's size."""

    second_detail: str  # the ControlNet that keeps detail in the second pass

    def canny(self, canvas: Rgb) -> Rgb: ...
    def pose(self, canvas: Rgb, face: Face) -> Rgb: ...
    def color(self, canvas: Rgb) -> Rgb: ...
    def detail(self, canvas: Rgb) -> Rgb: ...


def replaced(picture: Rgb, face: Face, digital_id: Rgb, id_face: Face) -> Rgb:
    """`picture` with the digital ID's face pasted hard over `face` by a similarity of five points: for the pose."""
    matrix, _ = cv2.estimateAffinePartial2D(id_face.points, face.points, method=cv2.LMEDS)
    if matrix is None:
        return picture
    height, width = picture.shape[:2]
    grown = _grown_box(id_face, digital_id.shape)
    mask = np.zeros(digital_id.shape[:2], np.uint8)
    mask[grown[1] : grown[3], grown[0] : grown[2]] = 1
    pasted = cv2.warpAffine(digital_id, matrix, (width, height), flags=cv2.INTER_LINEAR)
    inside = cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_NEAREST) > 0
    return np.where(inside[..., None], pasted, picture)


def is_posed_alike(face: Face, other: Face) -> bool:
    return HeadView.of(face.landmarks).angle_to(HeadView.of(other.landmarks)) <= MOST_TURNED


def first_controls(
    canvas: Rgb, posed: Rgb, posed_face: Face, pictures: ControlPictures, config: PortraitConfig
) -> tuple[Control, ...]:
    """Canny and colour of the working picture's canvas, pose of the canvas `posed` with its `posed_face`."""
    from engine.diffusion import Control

    return (
        Control("canny", pictures.canny(canvas), config.canny_weight),
        Control("pose", pictures.pose(posed, posed_face), config.pose_weight),
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


def _grown_box(face: Face, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = face.box_xyxy
    dx, dy = face.width * (BOX - 1) / 2, face.height * (BOX - 1) / 2
    return (
        max(0, round(x1 - dx)),
        max(0, round(y1 - dy)),
        min(shape[1], round(x2 + dx)),
        min(shape[0], round(y2 + dy)),
    )
