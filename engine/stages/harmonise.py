"""Figure 2, colour shift: the face takes on the colours that the template's face had (Reinhard et al. 2001, in Lab).

The reference measures whole rectangles with hair and background in them, in bytes; here skin only, in floats. Where
lips take part they turn orange, so the last shift leaves them out.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from engine import metrics
from engine.crop import blend
from engine.images import around_mask, column_sums, for_channels, in_lab, out_of_lab, pixels_of, smooth_step
from engine.parsing import closed
from engine.types import Mask, Rgb

BLUR = 32  # px on a working picture whose short side is 512
GAPS, SOFT = 0.25, 0.04  # of BLUR: holes in the skin up to so wide are skin too; sigma of its edge
LEAST_SPREAD = 0.5  # of a channel: flat skin is not stretched
GAIN = (0.7, 1.4)  # of a channel's spread: beyond it, noise would be stretched or texture lost
BAND = 0.03  # of the face's width: sigma over which the colours at its rim are compared
INWARDS = 0.12  # of the face's width: so far from the rim does its correction reach
OUTWARDS = 0.025  # of the face's width: on either side of the rim the correction sets in over it
MOST = 10.0  # ΔE: what differs more is no difference of light
TRUST = 10.0  # times the share of a neighbourhood that rim with skin across it must have: a fifth of a straight rim's
TINT = 0.08  # of the face's width: sigma above which colours are the input's
ROUNDS = 2  # the second takes off what the first smoothed over


def colour_shifted(picture: Rgb, skin: Mask, target: Rgb, target_skin: Mask, where: Mask) -> Rgb:
    """`picture` with the mean and spread of its skin brought to the target's, applied softly to skin inside `where`.

    Without skin in one of the two pictures nothing changes.
    """
    size = max(1, round(BLUR * min(picture.shape[:2]) / 512))
    seen, of_target = around_mask(skin, size + 3), around_mask(target_skin, 1)  # beyond the skin's blur nothing changes
    piece, skin, where, target_skin = picture[seen], skin[seen], where[seen], target_skin[of_target]
    if skin.max() == 0 or target_skin.max() == 0 or where.max() == 0:
        return picture
    lab = in_lab(piece)
    mean, spread = _statistics(pixels_of(lab, skin > 0))
    target_mean, target_spread = _statistics(pixels_of(in_lab(target[of_target]), target_skin > 0))
    # By whole rows: NumPy is slow where it goes on by threes.
    means, gains, goals = (
        np.tile(each, piece.shape[1]) for each in (mean, np.clip(target_spread / spread, *GAIN), target_mean)
    )
    rows = lab.reshape(len(lab), -1)
    rows -= means
    rows *= gains
    rows += goals
    result = picture.copy()
    # A highlight that is too light for skin would stay as a white speck, and a hard edge would show as a line.
    soft = cv2.GaussianBlur(closed(skin, size * GAPS), (0, 0), size * SOFT)
    result[seen] = blend(piece, out_of_lab(lab), cv2.blur(where * skin, (size, size)) * soft)
    return result


def colours_held(painted: Rgb, before: Rgb, width: float) -> Rgb:
    """`painted`, a diffusion's picture of `before`, with the large-scale colours of `before`: the detail is the
    diffusion's, light and complexion are not.

    A small model's LoRA brings the tint of the photos along; matching skin alone would leave it on brows and lips.
    Low-frequency colours of the input over a painted picture: Wang et al. 2023, StableSR. `width` is the face's, in
    pixels. What is equal in both pictures stays so.
    """
    new, old = in_lab(painted), in_lab(before)
    new -= cv2.GaussianBlur(new - old, (0, 0), max(1.0, TINT * width))
    return blend(painted, out_of_lab(new), metrics.differing(painted, before).astype(np.float32))


def rim_matched(
    picture: Rgb, ring: metrics.Ring, own: NDArray[np.float32], skin: Mask, own_skin: Mask, width: float
) -> Rgb:
    """`picture` without the colour steps at the rim of a face, which is `ring`, that the template has not, whose `own`
    steps these are: see `metrics.seam`.

    A membrane (Perez et al. 2003) stretched over the face would carry every hair at its edge inwards; here only the low
    frequencies of the steps where the template's `skin` (0..1) crosses the rim are taken off, fading out towards the
    face's middle, which keeps its light, and over a much shorter way outwards: landmarks hit an outline only nearly, so
    that a correction which ends there would draw a line. Only the picture's `own_skin` takes part: a beard's edge is no
    seam. `width` is the face's, in pixels. Beyond OUTWARDS of the face nothing changes.
    """
    own_skin = cv2.GaussianBlur(cv2.erode(own_skin, np.ones((3, 3))), (0, 0), max(0.5, BAND / 3 * width))
    inside = ring.inside.astype(np.uint8)
    depth, height = (cv2.distanceTransform(side, cv2.DIST_L2, 5) for side in (inside, 1 - inside))
    depth /= width
    height /= width
    fade = smooth_step(1 - depth / INWARDS)
    fade *= smooth_step(0.5 + (depth - height) / (2 * OUTWARDS))
    fade *= own_skin
    lab = in_lab(picture)
    counts = ring.weight(skin * own_skin)
    near = cv2.GaussianBlur(ring.laid_out(counts), (0, 0), BAND * width)
    trust = for_channels(np.clip(near * TRUST * width, 0, 1))  # far from any skin at the rim nothing is known
    near, fades = for_channels(np.maximum(near, 1e-6)), for_channels(fade)
    changes = (fade > 0).astype(np.float32)
    for number in range(ROUNDS):
        steps = ring.steps_in(in_lab(picture) if number else lab) - own
        field = cv2.GaussianBlur(ring.laid_out(steps * counts[:, None]), (0, 0), BAND * width)
        field /= near
        field *= trust
        field *= for_channels(np.minimum(1, MOST / np.maximum(metrics.lengths(field), 1e-3)))
        field *= fades
        lab -= field
        picture = blend(picture, out_of_lab(lab), changes)
    return picture


def _statistics(lab: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and spread of (n, 3), without the tenth that is farthest from the median (shadows, beard, highlights)."""
    lightness = np.ascontiguousarray(lab[:, 0])
    away = np.abs(lightness - np.median(lightness))
    kept = lab.compress(away <= np.quantile(away, 0.9), axis=0)
    mean = column_sums(kept) / np.float32(len(kept))
    off = kept.ravel() - np.tile(mean, len(kept))
    off *= off
    variance = column_sums(off.reshape(kept.shape)) / np.float32(len(kept))
    return mean, np.maximum(np.sqrt(variance), np.float32(LEAST_SPREAD))
