"""Several people, after all of them are in: one pass over the places where the new faces meet the picture.

The reference paints the band around the faces' boxes once more, without anybody's LoRA; here the band follows the
faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

import numpy as np

from engine.crop import Crop, clipped_box_crop
from engine.parsing import FaceParts, grown
from engine.types import Face, Mask

BAND = (0.19, 0.09)  # of a face box's width, outwards and inwards from the face's edge
MARGIN = 1.5  # side of the piece over the box of all faces
MULTIPLE = 64  # sides of the canvas


def piece_of_all(faces: Sequence[Face], shape: tuple[int, ...], longest: int) -> Crop:
    """The piece of a picture of `shape` that shows all `faces`, pixel for pixel unless it is longer than `longest`."""
    boxes = np.array([face.box_xyxy for face in faces])
    (left, top), (right, bottom) = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    everybody = replace(faces[0], box_xyxy=(float(left), float(top), float(right), float(bottom)))
    return clipped_box_crop(everybody, MARGIN, shape, longest)


def canvas(shape: tuple[int, ...], longest: int) -> Crop:
    """A canvas for a whole picture of `shape`: its longer side `longest`, both sides multiples of MULTIPLE."""
    height, width = shape[:2]
    zoom = longest / max(height, width)
    size = tuple(MULTIPLE * ceil(side * zoom / MULTIPLE - 0.01) for side in (width, height))
    shift = [(of - 1) / 2 - zoom * (side - 1) / 2 for of, side in zip(size, (width, height), strict=True)]
    return Crop(np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]], np.float64), (size[0], size[1]))


def band(faces: Sequence[tuple[Face, FaceParts]], allowed: Mask) -> Mask:
    """The edges of all faces, as far as they lie where something may change (`allowed` is above 0)."""
    outwards, inwards = BAND
    edges = [
        grown(parts.face, outwards * face.width) - grown(parts.face, -inwards * face.width) for face, parts in faces
    ]
    mask: Mask = (np.maximum.reduce(edges) * (allowed > 0)).astype(np.float32)
    return mask
