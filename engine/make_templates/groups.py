"""Sorts measured portraits into groups of people who look alike enough to be averaged.

FaceID embeddings are split by k-means: into two (women and men) and each half again; the parts are told apart by
what is measured (darkest skin, darkest hair), so nobody is labelled by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from engine.make_templates.portraits import Array, Portrait, mirrored

Group = list[Portrait]


def make_groups(portraits: Sequence[Portrait]) -> dict[str, Group]:
    """Groups by name, `w_…` women and `m_…` men; each holds frontal colour portraits without spectacles."""
    women, men = _women_and_men(portraits)
    parts_w = _parts(women, 4)
    parts_m = _parts(men, 6)
    dark_w, dark_m = _darkest(parts_w, 0), _darkest(parts_m, 0)
    east = _darkest([part for part in parts_w if part is not dark_w], 1)
    mean_w, mean_m = (np.mean([p.embedding for p in half], 0) for half in (women, men))
    centre = np.mean([p.embedding for p in east], 0)
    rest_w = [p for part in parts_w if part is not dark_w and part is not east for p in part]
    rest_m = [p for part in parts_m if part is not dark_m for p in part]
    east_m = sorted(rest_m, key=lambda p: float(np.linalg.norm(p.embedding - centre)))[:26]
    near_w = sorted(rest_w, key=lambda p: float(np.linalg.norm(p.embedding - centre)))[:10]
    east_w = [p for p in east if np.linalg.norm(p.embedding - mean_w) < np.linalg.norm(p.embedding - mean_m)] + near_w
    black_w = _clear(rest_w, lambda p: p.hair_lab[0] < 18)
    young = [p for p in rest_m if p.hair_lab[0] < 24]
    return {
        "w_brown": _clear(rest_w, lambda p: 18 <= p.hair_lab[0] < 36 and p.hair_lab[2] >= 8),
        "w_blond": _clear(rest_w, lambda p: p.hair_lab[0] > 38 and p.hair_lab[2] > 15),
        "w_black": black_w,
        "w_silver": _clear(rest_w, lambda p: p.hair_lab[0] > 30 and p.hair_lab[2] < 13),
        "w_long": _clear(rest_w, lambda p: p.hair_below > 0.75 and p.hair_lab[0] < 36),
        "w_short": _clear(rest_w, lambda p: p.hair_below < 0.45 and p.hair_lab[0] < 45),
        "w_red": _clear(rest_w, lambda p: p.hair_lab[1] > 10 and p.hair_lab[0] > 20),
        "w_dark": [*_doubled(_clear(dark_w, lambda p: p.hair_lab[0] < 45, turn=0.17, glasses=130)), *black_w[:6]],
        "w_east": _doubled(_clear(east_w, lambda p: True, turn=0.17, glasses=130)),
        "m_black": _clear(young, lambda p: p.hair_lab[0] < 18),
        "m_brown": _clear(rest_m, lambda p: 22 <= p.hair_lab[0] < 36 and p.hair_lab[2] > 10),
        "m_silver": _clear(rest_m, lambda p: p.hair_lab[0] > 50 and p.hair_lab[2] < 12),
        "m_grey": _clear(rest_m, lambda p: 28 < p.hair_lab[0] < 45 and p.hair_lab[2] < 9),
        "m_fair": _clear(rest_m, lambda p: p.hair_lab[0] > 36 and p.hair_lab[2] > 20),
        "m_dark": _doubled(_clear(dark_m, lambda p: True, turn=0.17, glasses=120)),
        "m_east": _doubled(_clear(east_m, lambda p: p.hair_lab[0] < 40, turn=0.17, glasses=120)),
    }


def nearest(embedding: Array, portraits: Sequence[Portrait]) -> tuple[list[Portrait], float]:
    """The four portraits most like `embedding`, and the dlib distance of the first (0.6: could be one person)."""
    distances = np.array([np.linalg.norm(p.embedding - embedding) for p in portraits])
    order = distances.argsort()[:4]
    return [portraits[k] for k in order], float(distances[order[0]])


def _clear(
    people: Sequence[Portrait],
    wanted: Callable[[Portrait], bool],
    turn: float = 0.09,
    glasses: float = 60,
    most: int = 60,
) -> Group:
    found = [p for p in people if abs(p.turn) < turn and p.glasses < glasses and p.colourful > 12 and wanted(p)]
    return sorted(found, key=lambda p: abs(p.turn))[:most]


def _doubled(group: Group) -> Group:
    return [*group, *(mirrored(p) for p in group)]


def _women_and_men(portraits: Sequence[Portrait]) -> tuple[Group, Group]:
    """Embeddings fall into two clear heaps; in this parliament the smaller one is the women's."""
    parts = _parts(portraits, 2)
    return min(parts, key=len), max(parts, key=len)


def _darkest(parts: Sequence[Group], measure: int) -> Group:
    """The part with the lowest median lightness of skin (0) or hair (1)."""

    def lightness(part: Group) -> float:
        return float(np.median([(p.skin_lab if measure == 0 else p.hair_lab)[0] for p in part]))

    return min(parts, key=lightness)


def _parts(people: Sequence[Portrait], count: int) -> list[Group]:
    """k-means of the embeddings, best of 15 starts."""
    points = np.array([p.embedding for p in people])
    rng = np.random.default_rng(0)
    best_labels, best_cost = np.zeros(len(points), int), np.inf
    for _ in range(15):
        centres = points[rng.choice(len(points), count, replace=False)]
        for _ in range(40):
            labels = ((points[:, None] - centres) ** 2).sum(2).argmin(1)
            centres = np.array(
                [points[labels == k].mean(0) if (labels == k).any() else centres[k] for k in range(count)]
            )
        cost = float(((points - centres[labels]) ** 2).sum())
        if cost < best_cost:
            best_labels, best_cost = labels, cost
    return [[p for p, label in zip(people, best_labels, strict=True) if label == k] for k in range(count)]
