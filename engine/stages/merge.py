"""Figure 1, box "LoRA fusion": the checkpoints that painted the likest pictures, averaged.

The reference takes the ten likest of all renders, so checkpoints that do well on an easy template win; here a render
counts by how far it lies above the other checkpoints' renders of the same template.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from engine import lora
from engine.types import Render


def weights(renders: Mapping[int, Sequence[Render]], best: int) -> dict[int, float]:
    """By step the share of its checkpoint: how many of the `best` renders are its own. Without any face found, the
    last checkpoint alone. `renders` are by step."""
    found = [(step, r.template, r.ranking) for step, of in renders.items() for r in of if r.ranking is not None]
    if not found:
        return {max(renders): 1.0}
    usual = {t: np.mean([likeness for _, of, likeness in found if of == t]) for t in {of for _, of, _ in found}}
    ranked = sorted(found, key=lambda one: usual[one[1]] - one[2])[:best]
    chosen = Counter(step for step, _, _ in ranked)
    return {step: count / len(ranked) for step, count in sorted(chosen.items())}


def merged(
    checkpoint: Callable[[int], lora.State], shares: Mapping[int, float], device: torch.device | str
) -> lora.State:
    """The average of the weight updates of the chosen checkpoints, which are asked for by step."""
    if len(shares) == 1:
        return checkpoint(next(iter(shares)))
    return lora.merge([checkpoint(step) for step in shares], list(shares.values()), device)
