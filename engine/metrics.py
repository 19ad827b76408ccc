"""What can be measured of a portrait without asking anybody: its seam, its sharpness, what changed."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.images import for_channels
from engine.types import Mask, Rgb

RING = 0.02  # width of the ring on either side of the mask's edge, share of the mask's width


@dataclass(frozen=True)
class Ring:
    """The edge of a mask and a small ring on either side of it, over which colours are compared. What depends on the
    mask alone is worked out once for all pictures and skins."""

    edge: Mask
    width: float  # of either side: the blur's sigma, px
    sides: tuple[Mask, Mask]  # inside and outside
    share: tuple[Mask, Mask]  # of the neighbourhood that each of them is

    @staticmethod
    def of(mask: Mask) -> Ring:
        inside = (mask > 0.5).astype(np.float32)
        width = max(1.0, RING * float((mask > 0.5).any(0).sum()))
        sides = inside, 1 - inside
        inner, outer = (np.maximum(cv2.GaussianBlur(side, (0, 0), width), 1e-6) for side in sides)
        return Ring(cv2.dilate(inside, np.ones((3, 3))) - inside, width, sides, (inner, outer))

    def steps(self, rgb: Rgb) -> NDArray[np.float32]:
        """(H, W, 3) the colour inside the edge minus that outside, over a small ring, in Lab."""
        inner, outer = self._means(cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB))
        return inner - outer

    def weight(self, skin: Mask) -> Mask:
        """(H, W) how much the step at each pixel counts: on the edge, where `skin` runs across it."""
        inner, outer = self._means(skin)
        return self.edge * np.minimum(inner, outer)

    def _means(self, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of (H, W) or (H, W, 3), over the small ring inside the edge and over the one outside."""
        each = for_channels if values.ndim == 3 else np.asarray
        inner, outer = (
            cv2.GaussianBlur(values * each(side), (0, 0), self.width) / each(share)
            for side, share in zip(self.sides, self.share, strict=True)
        )
        return inner, outer


def seam(rgb: Rgb, template: Rgb, mask: Mask, skin: Mask) -> float:
    """Mean colour step over a ring around the edge of `mask` that was not in the template, in CIE76 ΔE.

    At each point of the edge the colours just inside and just outside are averaged over a small ring; their difference
    is the step, a colour too, and the template's own step there is taken off, since a jaw's shadow is no seam. What
    counts is the edge where the template's `skin` (0..1) runs across it: only there would an eye find a seam, hair
    and background have their own edges. 0 is as seamless as the template, 1 just visible.
    """
    ring = Ring.of(mask)
    return mean_step(ring.steps(rgb) - ring.steps(template), ring.weight(skin))


def natural_step(template: Rgb, mask: Mask, skin: Mask) -> float:
    """The template's own colour step on the same ring, for scale, in CIE76 ΔE."""
    ring = Ring.of(mask)
    return mean_step(ring.steps(template), ring.weight(skin))


def mean_step(added: NDArray[np.float32], counts: Mask) -> float:
    """Of (H, W, 3) differences between steps, in CIE76 ΔE."""
    return float((lengths(added) * counts).sum() / max(float(counts.sum()), 1e-6))


def lengths(colours: NDArray[np.float32]) -> Mask:
    """(H, W) of (H, W, 3) differences. NumPy's norm over three neighbours is slow."""
    lightness, a, b = cv2.split(colours)
    return np.sqrt(lightness * lightness + a * a + b * b)


def changed_pixels(a: Rgb, b: Rgb, where: NDArray[np.bool_]) -> int:
    """Pixels inside `where` that differ in any channel by any amount."""
    return int((differing(a, b) & where).sum())


def differing(a: Rgb, b: Rgb) -> NDArray[np.bool_]:
    """(H, W) where any channel differs."""
    red, green, blue = cv2.split((a != b).view(np.uint8))  # NumPy's `any` over three neighbours is slow
    result: NDArray[np.bool_] = (red | green | blue) > 0
    return result


def sharpness(rgb: Rgb, mask: Mask) -> float:
    """Mean absolute detail (finer than 2 pixels) of the lightness inside `mask`."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    detail = np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 1.0))
    return float(detail[mask > 0.5].mean()) if (mask > 0.5).any() else 0.0
