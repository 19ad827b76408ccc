"""Figure 2, boxes "first diffusion" and "second diffusion": where they paint and how the result returns to full size.

The canvas may be smaller than the face in the picture. What goes back is therefore not the canvas but its change: the
painted canvas minus what the autoencoder alone makes of the same canvas, enlarged and added to the picture. The
picture's own detail survives, the autoencoder's losses cancel out, and outside the mask nothing happens at all. Where
that canvas does not show what is there (a strand of hair, the edge of a jaw), its change means nothing and is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.config import FewStepLora
from engine.crop import Crop
from engine.images import Window, around_mask, for_channels, within
from engine.parsing import FaceParts, closed, grown
from engine.types import Face, Mask, Rgb

if TYPE_CHECKING:
    from engine.diffusion import Control, Diffusion, InpaintRequest, Painting

RING = (32, 16)  # px grown and shrunk for the second mask, where the face box is FACE_WIDTH wide
FADE = 6.0  # px of the canvas over which a change fades in from the mask's edge
UNSEEN = (12.0, 32.0)  # levels: what the canvas shows so far from the picture changes by all, and by nothing
FACE_WIDTH = 170  # px: a face box on the reference's working picture (512, crop of three boxes)


@dataclass(frozen=True)
class Pass:
    """The numbers of one diffusion pass."""

    prompt: str
    negative: str
    steps: int
    strength: float
    guidance: float
    seed: int
    count: int = 1
    few_step_lora: FewStepLora = FewStepLora.NONE


def first_mask(parts: FaceParts, face: Face) -> Mask:
    """The face, gaps closed, grown by a twentieth of its box."""
    tenth = face.width * 1.1 / 10
    return grown(closed(parts.face, tenth), tenth / 2)


def second_mask(parts: FaceParts, face: Face) -> Mask:
    """The face's rim, the eyes and the lips: the second pass only heals."""
    unit = face.width / FACE_WIDTH
    rim = grown(parts.face, RING[0] * unit / 2) - grown(parts.face, -RING[1] * unit / 2)
    return np.clip(rim + parts.eyes + parts.lips, 0, 1)


def soft_face(parts: FaceParts, face: Face) -> Mask:
    """The face, gaps closed, soft over a fifth of its box: what is taken of a canvas that was painted all over."""
    tenth = face.width * 1.1 / 10
    size = max(1, round(2 * tenth))
    return cv2.blur(grown(closed(parts.face, tenth), tenth), (size, size))


@dataclass(frozen=True)
class Canvas:
    """A picture's way to the diffusion and back: it is painted inside `mask` (picture frame) on the canvas of `crop`,
    which is all that `request` says."""

    picture: Rgb
    mask: Mask
    crop: Crop
    request: InpaintRequest

    @staticmethod
    def of(picture: Rgb, mask: Mask, crop: Crop, shown: Rgb, controls: tuple[Control, ...], numbers: Pass) -> Canvas:
        """`shown` is what `crop` cuts out of the picture: the controls were drawn from it."""
        from engine.diffusion import InpaintRequest, Sampler

        samplers = {FewStepLora.NONE: Sampler.DPM, FewStepLora.LCM: Sampler.LCM, FewStepLora.HYPER_SD: Sampler.TCD}
        request = InpaintRequest(
            image=shown,
            mask=crop.cut_mask(mask),
            prompt=numbers.prompt,
            negative=numbers.negative,
            steps=numbers.steps,
            strength=numbers.strength,
            guidance=numbers.guidance,
            controls=controls,
            seed=numbers.seed,
            count=numbers.count,
            sampler=samplers[numbers.few_step_lora],
        )
        return Canvas(picture, mask, crop, request)

    def weight(self, painting: Painting) -> Mask:
        """How much of a change counts at each pixel of the picture, where the mask is not 0: `_changed`."""
        radius = max(0.5, 0.5 / self.crop.scale)  # grain is no loss: the picture keeps its own
        wide = around_mask(self.mask, 2 * ceil(4 * radius + 2))  # what both blurs look at
        inner = within(self._changed, wide)
        shown = self.crop.lift(painting.unchanged.astype(np.float32), self.picture.shape, wide)
        weight = _seen(self.picture[wide], shown, radius)[inner]
        weight *= _fading_inwards(self.mask[wide], self.crop)[inner]
        return weight

    def back(self, result: Rgb, painting: Painting, weight: Mask) -> Rgb:
        """The picture with the change that `result`, one of the painting's pictures, makes."""
        where = self._changed
        change = self.crop.lift(result.astype(np.float32) - painting.unchanged, self.picture.shape, where)
        change *= for_channels(weight)
        change += self.picture[where]
        np.rint(change, out=change)
        picture = self.picture.copy()
        picture[where] = np.clip(change, 0, 255, out=change)
        return picture

    @cached_property
    def _changed(self) -> Window:
        """Rows and columns beyond which the picture stays as it is."""
        return around_mask(self.mask, 1)


def painted(canvas: Canvas, diffusion: Diffusion, on_step: Callable[[int, int], None]) -> list[Rgb]:
    """As many versions of the canvas's picture as it asks for."""
    painting = diffusion.painting(canvas.request, on_step)
    weight = canvas.weight(painting)
    return [canvas.back(result, painting, weight) for result in painting.pictures]


def _fading_inwards(mask: Mask, crop: Crop) -> Mask:
    """1 deep inside `mask`, 0 from its edge on: a small canvas knows little of what the edge runs through."""
    inside = cv2.distanceTransform((mask > 0).astype(np.uint8), cv2.DIST_L2, 5)
    inside = np.minimum(inside, sum(mask.shape))  # without an edge it is the largest float there is
    return np.clip(inside * crop.scale / FADE, 0, 1)


def _seen(picture: Rgb, shown: NDArray[np.float32], radius: float) -> Mask:
    """1 where `shown`, an enlarged canvas (used up), is what `picture` has there, 0 where that is finer than the
    canvas. What is finer than `radius` is not compared."""
    shown -= picture
    away = cv2.GaussianBlur(shown, (0, 0), radius)
    red, green, blue = cv2.split(np.abs(away, out=away))
    missing = np.maximum(
        np.maximum(red, green, out=red), blue, out=red
    )  # NumPy's maximum over three neighbours is slow
    low, high = UNSEEN
    trust = np.subtract(high, missing, out=missing)
    trust /= high - low
    return np.asarray(cv2.GaussianBlur(np.clip(trust, 0, 1, out=trust), (0, 0), radius), np.float32)
