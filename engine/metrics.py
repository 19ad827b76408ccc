"""What can be measured of a portrait without asking anybody: its seam, its sharpness, what changed."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.images import around_mask, for_channels, in_lab
from engine.types import Mask, Rgb

RING = 0.02  # width of the ring on either side of the mask's edge, share of the mask's width


@dataclass(frozen=True)
class Ring:
    """The edge of a mask and a small ring on either side of it, over which colours are compared. What depends on the
    mask alone is worked out once for all pictures and skins."""

    inside: Mask  # 0 and 1
    width: float  # of either side: the blur's sigma, px
    edge: NDArray[np.intp]  # n pixels, counted row by row: those around the inside that touch it
    share: tuple[NDArray[np.float32], NDArray[np.float32]]  # (n,) of an edge pixel's neighbourhood: inside, outside
    insides: NDArray[np.float32]  # (H, W, 3) `inside`

    @staticmethod
    def of(mask: Mask) -> Ring:
        inside = (mask > 0.5).astype(np.float32)
        width = max(1.0, RING * float((mask > 0.5).any(0).sum()))
        edge = np.flatnonzero(cv2.dilate(inside, np.ones((3, 3))) > inside)
        blurred = (cv2.GaussianBlur(side, (0, 0), width) for side in (inside, 1 - inside))
        inner, outer = (np.maximum(share.take(edge), 1e-6) for share in blurred)
        return Ring(inside, width, edge, (inner, outer), for_channels(inside))

    def steps(self, rgb: Rgb) -> NDArray[np.float32]:
        """(n, 3) at each pixel of the edge: the colour inside minus that outside, over a small ring, in Lab."""
        return self.steps_in(in_lab(rgb))

    def steps_in(self, lab: NDArray[np.float32]) -> NDArray[np.float32]:
        """The same of a picture in Lab."""
        inner, outer = self._means(lab, self.insides)
        return inner - outer

    def weight(self, skin: Mask) -> NDArray[np.float32]:
        """(n,) how much the step at each pixel of the edge counts: where `skin` runs across it."""
        return np.minimum(*self._means(skin, self.inside))

    def laid_out(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(H, W) or (H, W, 3): `values` of the edge's pixels where they lie, 0 elsewhere."""
        plane = np.zeros((*self.inside.shape, *values.shape[1:]), np.float32)
        plane.reshape(-1, *values.shape[1:])[self.edge] = values
        return plane

    def _means(
        self, values: NDArray[np.float32], inside: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """At the edge's pixels, over the small ring inside and over the one outside."""
        across, within = values.shape[2:], values * inside
        inner = cv2.GaussianBlur(within, (0, 0), self.width).reshape(-1, *across).take(self.edge, axis=0)
        beyond = np.subtract(values, within, out=within)
        outer = cv2.GaussianBlur(beyond, (0, 0), self.width).reshape(-1, *across).take(self.edge, axis=0)
        return (inner.T / self.share[0]).T, (outer.T / self.share[1]).T


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


def mean_step(added: NDArray[np.float32], counts: NDArray[np.float32]) -> float:
    """Of (n, 3) differences between steps, in CIE76 ΔE."""
    sizes = np.sqrt(np.square(added).sum(1))
    return float((sizes * counts).sum() / max(float(counts.sum()), 1e-6))


def lengths(colours: NDArray[np.float32]) -> Mask:
    """(H, W) of (H, W, 3) differences. NumPy's norm over three neighbours is slow."""
    lightness, a, b = cv2.split(colours)
    lightness *= lightness
    lightness += np.multiply(a, a, out=a)
    lightness += np.multiply(b, b, out=b)
    return np.sqrt(lightness, out=lightness)


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
    inside = mask > 0.5
    if not inside.any():
        return 0.0
    seen = around_mask(inside, 6)  # beyond the blur
    grey = cv2.cvtColor(rgb[seen], cv2.COLOR_RGB2GRAY).astype(np.float32)
    grey -= cv2.GaussianBlur(grey, (0, 0), 1.0)
    return float(np.abs(grey[inside[seen]]).mean())
