"""Makeup of the template onto the new face, without a network: what lips and lids differ from their own face's skin by.

The reference uses a generator whose licence is unstated. Here only colours move; lines that a brush drew do not.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.crop import blend
from engine.images import in_lab, out_of_lab
from engine.parsing import FaceParts, grown
from engine.types import Mask, Rgb

LIDS = 0.09  # of the face's width: so far around the eyes
SOFT = 0.02  # of the face's width: sigma of a region's edge
MOST = 30.0  # ΔE: beyond it a mouth was open or hair lay over an eye


def made_up(
    picture: Rgb, parts: FaceParts, template: Rgb, template_parts: FaceParts, width: float, ratio: float
) -> Rgb:
    """`picture` with lips and lids brought to the template's by `ratio`; `width` is the face's, in pixels.

    Colours are compared to each face's own skin, so that the template's complexion does not come along. Without skin in
    one of the two nothing changes.
    """
    if parts.skin.max() == 0 or template_parts.skin.max() == 0:
        return picture
    lab, wanted = (in_lab(rgb) for rgb in (picture, template))
    for own, other in ((parts.lips, template_parts.lips), (_lids(parts, width), _lids(template_parts, width))):
        if own.max() == 0 or other.max() == 0:
            continue
        step = (_median(wanted, other) - _median(wanted, template_parts.skin)) - (
            _median(lab, own) - _median(lab, parts.skin)
        )
        step *= min(1.0, MOST / max(float(np.linalg.norm(step)), 1e-6))
        lab = lab + ratio * step * cv2.GaussianBlur(own, (0, 0), max(0.5, SOFT * width))[..., None]
    return blend(picture, out_of_lab(lab), parts.face)


def _lids(parts: FaceParts, width: float) -> Mask:
    return grown(parts.eyes, LIDS * width) * (1 - grown(parts.eyes, 0.01 * width)) * parts.skin


def _median(lab: NDArray[np.float32], where: Mask) -> NDArray[np.float32]:
    """Of (n, 3): an open mouth's teeth do not count."""
    median: NDArray[np.float32] = np.median(lab[where > 0.5], axis=0)
    return median
