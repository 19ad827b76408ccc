"""Figure 1, box "FaceID": which photos show the person that the set is about.

The reference ranks photos by their product with the mean embedding, which strangers in the set shift, and refuses
nobody below sixteen photos. Here the set is first grouped by mean likeness; then each photo is judged against the
largest group, relative to that group's own spread and to the encoder's threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SURE_MARGIN = 0.05  # above the encoder's threshold: two groups less alike than that are two people
SPREAD_FLOOR = 0.04  # no set is believed to be tighter than this (standard deviation of likeness)
SPREADS = 4.0  # so far below its group's own mean likeness a photo is an outlier
RELATIVE_REACH = 0.1  # the relative rule refuses nobody who is this far above the encoder's threshold
RIVAL_SHARE = 0.6  # is a second group so large, then even the kept photos are doubtful

Likenesses = NDArray[np.float64]  # (n, n), symmetric


@dataclass(frozen=True)
class Group:
    """The main person of a set."""

    members: tuple[int, ...]  # photos that belong to the person; none when two people are equally frequent
    needed: float  # mean likeness to the members below which a photo shows someone else
    is_doubtful: bool  # a second person has nearly as many photos


def main_person(likenesses: Likenesses, same_person: float) -> Group:
    """The person with the most photos. Does not depend on the order of the photos."""
    clusters = sorted(_clusters(likenesses, same_person + SURE_MARGIN), key=len, reverse=True)
    if not clusters:
        return Group((), same_person, is_doubtful=False)
    rival = len(clusters[1]) if len(clusters) > 1 else 0
    if rival == len(clusters[0]):
        return Group((), same_person, is_doubtful=True)
    core = clusters[0]
    own = np.array([mean_likeness(likenesses, i, core) for i in core])
    needed = same_person
    if len(core) > 1:
        relative = float(own.mean() - SPREADS * max(float(own.std()), SPREAD_FLOOR))
        needed = max(same_person, min(relative, same_person + RELATIVE_REACH))
    members = tuple(i for i in range(len(likenesses)) if i in core or mean_likeness(likenesses, i, core) >= needed)
    return Group(members, needed, is_doubtful=rival > 1 and rival >= RIVAL_SHARE * len(members))


def mean_likeness(likenesses: Likenesses, photo: int, members: Sequence[int]) -> float:
    """Of one photo to the others among `members`; 1 when there are none."""
    others = [j for j in members if j != photo]
    return float(likenesses[photo, others].mean()) if others else 1.0


def _clusters(likenesses: Likenesses, cut: float) -> list[tuple[int, ...]]:
    """Agglomerative clustering by average likeness, down to `cut`."""
    clusters: list[tuple[int, ...]] = [(i,) for i in range(len(likenesses))]
    while len(clusters) > 1:
        pairs = [(a, b) for b in range(len(clusters)) for a in range(b)]
        means = [likenesses[np.ix_(clusters[a], clusters[b])].mean() for a, b in pairs]
        best = int(np.argmax(means))
        if means[best] < cut:
            break
        a, b = pairs[best]
        clusters = [c for i, c in enumerate(clusters) if i not in (a, b)] + [tuple(sorted(clusters[a] + clusters[b]))]
    return clusters
