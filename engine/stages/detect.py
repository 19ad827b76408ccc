"""Figure 1, box "face detection": which faces count in a photo.

The reference crops the leftmost face and embeds the largest one; here one rule serves everything that follows.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.types import Face

COMPARABLE_WIDTH = 0.35  # of the largest face: such a second face is a second person in the photo, not a passer-by
MAX_CANDIDATES = 3  # faces of one photo that may turn out to be the subject


def has_several_people(faces: Sequence[Face]) -> bool:
    """Whether a second face is so large that nobody can say whose photo it is. `faces` are sorted, largest first."""
    return any(face.width >= COMPARABLE_WIDTH * faces[0].width for face in faces[1:])


def candidates(faces: Sequence[Face]) -> tuple[Face, ...]:
    """The faces among which the subject is looked for, the likeliest first."""
    return tuple(faces[:MAX_CANDIDATES])
