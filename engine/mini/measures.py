"""What the small model is measured by: pictures from noise, and how well they follow a control picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from engine.config import TRIGGER
from engine.crop import chip_crop
from engine.diffusion import Control, Diffusion, InpaintRequest
from engine.images import resized
from engine.mini.chip import CANVAS
from engine.mini.controls import color_control
from engine.models.mini_controls import MiniControls
from engine.types import Face, FaceDetector, Points, Rgb

LOOKED_AT = 3  # times the canvas: so large a face has to be to be found and measured
GUIDANCE = 2.0


def from_noise(
    diffusion: Diffusion,
    count: int,
    seed: int,
    controls: tuple[Control, ...] = (),
    prompt: str = TRIGGER,
    steps: int = 14,
) -> list[Rgb]:
    """`count` pictures of CANVAS x CANVAS by seeds `seed`, `seed` + 1, ..."""
    grey = np.full((CANVAS, CANVAS, 3), 127, np.uint8)  # drowned in noise; the last of its signal is grey
    request = InpaintRequest(grey, None, prompt, "", steps, 1.0, GUIDANCE, controls, seed, count)
    return diffusion.inpaint(request)


@dataclass(frozen=True)
class Example:
    """A face chip (CANVAS x CANVAS) and its 68 landmarks: control pictures are drawn from it."""

    rgb: Rgb
    face: Face

    @staticmethod
    def of(rgb: Rgb, face: Face) -> Example:
        crop = chip_crop(face, CANVAS)
        return Example(crop.cut(rgb), crop.moved_face(face))

    def control(self, name: str) -> Control:
        """Its control picture for one of the three ControlNets, at full weight on every level."""
        pictures = MiniControls()
        drawn = {"canny": pictures.canny, "color": pictures.color}.get(name)
        return Control(name, drawn(self.rgb) if drawn else pictures.pose(self.rgb, self.face), 1.0, soft=False)


def edges_on(picture: Rgb, control: Rgb) -> float:
    """Share (0..1) of the picture's edges that lie on the control's, within a pixel."""
    edges = cv2.Canny(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 100, 200) > 0
    near = cv2.dilate(control[..., 0], np.ones((3, 3))) > 0
    return float((edges & near).sum() / max(1, edges.sum()))


def colours_off(picture: Rgb, control: Rgb) -> float:
    """Mean difference (levels of 255) between the control's cells and those that the picture would give."""
    return float(np.abs(color_control(picture) * 255 - control).mean())


def landmarks_off(picture: Rgb, landmarks: Points, detector: FaceDetector) -> float | None:
    """Mean distance in canvas pixels between the painted face's 68 landmarks and those asked for; None: no face."""
    found = seen(picture, detector)
    if found is None:
        return None
    return float(np.linalg.norm(found[1].landmarks / LOOKED_AT - landmarks, axis=1).mean())


def seen(picture: Rgb, detector: FaceDetector) -> tuple[Rgb, Face] | None:
    """The picture LOOKED_AT times as large, and its face there."""
    large = resized(picture, (picture.shape[1] * LOOKED_AT, picture.shape[0] * LOOKED_AT))
    faces = detector(large)
    return (large, faces[0]) if faces else None


@dataclass(frozen=True)
class Following:
    """One ControlNet's measure, mean over the examples, with it and without it."""

    name: str
    unit: str
    led: float
    free: float

    @property
    def follows(self) -> bool:
        """At least a third better with it."""
        return self.led > 1.33 * self.free if self.name == "canny" else self.led < self.free / 1.33


def following(diffusion: Diffusion, examples: Sequence[Example], detector: FaceDetector, seed: int) -> list[Following]:
    """How the three ControlNets lead: each paints every example's control picture from the same noise as none does."""
    free = [from_noise(diffusion, 1, seed + k)[0] for k in range(len(examples))]

    def mean_of(name: str, pictures: Sequence[Rgb]) -> float:
        values = [_measure(name, rgb, example, detector) for rgb, example in zip(pictures, examples, strict=True)]
        return float(np.mean([v for v in values if v is not None]))

    units = {"canny": "share of edges on the control's", "pose": "px off", "color": "levels off"}
    results = []
    for name, unit in units.items():
        led = [from_noise(diffusion, 1, seed + k, (e.control(name),))[0] for k, e in enumerate(examples)]
        results.append(Following(name, unit, mean_of(name, led), mean_of(name, free)))
    return results


def _measure(name: str, picture: Rgb, example: Example, detector: FaceDetector) -> float | None:
    if name == "pose":
        return landmarks_off(picture, example.face.landmarks, detector)
    control = example.control(name).picture
    return edges_on(picture, control) if name == "canny" else colours_off(picture, control)
