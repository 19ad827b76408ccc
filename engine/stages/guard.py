"""After both diffusions: how much of a change may stay, so that no stage makes the face less like its owner.

What a diffusion paints of a person is a memory of their photos, fusion shows the photo itself. On most templates the
passes heal more than they cost; where they cost likeness, their change is scaled back towards the first fusion.
"""

from __future__ import annotations

from collections.abc import Callable

SHARES = (1.0, 0.75, 0.5, 0.25)
MARGIN = 0.01  # of likeness: measured against photos that training knew, it must hold for others


def share_that_keeps(likeness_of: Callable[[float], float], least: float) -> float:
    """The largest share of a change whose likeness is `least` or more; 0 if none is.

    `likeness_of` is asked from the largest share down, and no further than needed.
    """
    return next((share for share in SHARES if likeness_of(share) >= least), 0.0)
