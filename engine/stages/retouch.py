"""Figure 1, boxes "skin retouch" and "portrait enhancement", for the region around one face.

The reference enhances the better half of the photos, those that need it least; here only faces that are too small for
the canvas, or not sharp, are enhanced.
"""

from __future__ import annotations

import numpy as np

from engine.config import PhotoLimits
from engine.crop import Crop, clipped_box_crop
from engine.types import Enhancer, Face, InspectedPhoto, Retoucher, Rgb

REGION_SCALE = 4.0  # side of the region over the face box: a little more than any training crop shows
LONGEST_REGION = 1024  # px; a training crop is at most so large


def prepared_region(
    inspected: InspectedPhoto, face_on_canvas_px: float, retoucher: Retoucher, enhancer: Enhancer
) -> tuple[Rgb, Face]:
    """The surroundings of the face, retouched and if need be enhanced, and the face in their frame.

    `face_on_canvas_px` is how wide the face will be on the training canvas.
    """
    crop = surroundings(inspected)
    region, face = crop.cut(inspected.photo.rgb), crop.moved_face(inspected.face)
    if is_poor(inspected, face_on_canvas_px):
        width = region.shape[1]
        region = enhancer(region)
        face = _scaled(face, region.shape[1] / width)
    return retoucher(region, face), face


def surroundings(inspected: InspectedPhoto) -> Crop:
    """The part of a photo that shows the head and shoulders."""
    return clipped_box_crop(inspected.face, REGION_SCALE, inspected.photo.rgb.shape, LONGEST_REGION)


def is_poor(inspected: InspectedPhoto, face_on_canvas_px: float) -> bool:
    """Whether the face has fewer pixels than the canvas shows, or is soft."""
    sharpness = inspected.report.measures["sharpness"]
    return inspected.face.width < face_on_canvas_px or sharpness < PhotoLimits().sharpness[1]


def _scaled(face: Face, factor: float) -> Face:
    shift = (factor - 1) / 2  # positions are pixel centres
    matrix = np.array([[factor, 0, shift], [0, factor, shift]])
    return Crop(matrix, (0, 0)).moved_face(face)
