"""ModelScope's face fusion as the engine's fuser: the reference's own model, or its successor without TensorFlow.

Both look for the largest face themselves and say nothing when they find none: the picture comes back as it went in (and
in the other order of colours). So both pictures are cut to the faces that are meant, and an answer that changed nothing
is a failed fusion.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from engine.errors import FusionFailed
from engine.models.modelscope_pipelines import Pipeline, open_pipeline, to_picture, to_rgb
from engine.types import Face, Rgb

CROP = 2.5  # side of what the model sees over the face's: a face of at most two thirds, little room for others
SMALLEST_FACE = 96  # px: smaller ones are enlarged for the model
LARGEST_FACE = 512  # px: larger ones are shrunk; its own face is 256 px
LEAST_CHANGE = 1.0  # mean levels in the face below which nothing was fused


class ModelScopeFuser:
    """Raises FusionFailed when the model finds no face or answers with something else than a picture of that size."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def __call__(self, template: Rgb, template_face: Face, reference: Rgb, reference_face: Face) -> Rgb:
        window = _window(template_face, template)
        cut = template[window]
        seen = _sized_for(cut, template_face)
        user = reference[_window(reference_face, reference)]
        answer = self._pipeline({"template": to_picture(seen), "user": to_picture(_sized_for(user, reference_face))})
        if "output_img" not in answer or answer["output_img"].shape != seen.shape:
            raise FusionFailed("the model answered without a picture of the template's size")
        fused = to_rgb(answer)
        if _change(fused[..., ::-1], seen) < LEAST_CHANGE or _change(fused, seen) < LEAST_CHANGE:
            raise FusionFailed("the model found no face")
        result = template.copy()
        result[window] = _with_difference(cut, seen, fused)
        return result


def damo_fusion(folder: Path, device: str = "cpu") -> ModelScopeFuser:
    """`cv_unet-image-face-fusion_damo`: needs TensorFlow (extra modelscope-tf); 24-34 s a picture on two CPU cores."""
    return ModelScopeFuser(open_pipeline("image-face-fusion", folder, device))


def torch_fusion(folder: Path, device: str = "cpu", *, trust_remote_code: bool) -> ModelScopeFuser:
    """`cv_unet_face_fusion_torch`: its code lies in its folder and runs only when that is allowed."""
    return ModelScopeFuser(open_pipeline("face_fusion_torch", folder, device, trust_remote_code))


def _window(face: Face, rgb: Rgb) -> tuple[slice, slice]:
    left, top, right, bottom = face.box_xyxy
    half = max(face.width, face.height) * CROP / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    rows = slice(max(0, int(y - half)), min(rgb.shape[0], int(y + half)))
    columns = slice(max(0, int(x - half)), min(rgb.shape[1], int(x + half)))
    return rows, columns


def _sized_for(cut: Rgb, face: Face) -> Rgb:
    factor = float(np.clip(face.width, SMALLEST_FACE, LARGEST_FACE)) / face.width
    if factor == 1:
        return cut
    size = (round(cut.shape[1] * factor), round(cut.shape[0] * factor))
    return cv2.resize(cut, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def _with_difference(cut: Rgb, seen: Rgb, fused: Rgb) -> Rgb:
    """What the model changed, brought to the cut's own size: outside of it the cut keeps its pixels."""
    if seen.shape == cut.shape:
        return fused
    difference = fused.astype(np.float32) - seen
    enlarged = cv2.resize(difference, (cut.shape[1], cut.shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.clip(np.rint(cut + enlarged), 0, 255).astype(np.uint8)


def _change(a: Rgb, b: Rgb) -> float:
    """Mean difference, in levels, over the middle where the face is."""
    height, width = a.shape[:2]
    middle = (slice(height // 4, height - height // 4), slice(width // 4, width - width // 4))
    return float(np.abs(a[middle].astype(np.float32) - b[middle]).mean())
