"""A run over all targets, in a few processes."""

from __future__ import annotations

import faulthandler
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.fuzz.target import Tally, feed_all
from tests.fuzz.targets import SHARES, make_target

AT_ONCE = 5_000


def run(inputs: int, seed: int, processes: int, names: list[str]) -> list[Tally]:
    """Feeds `inputs` inputs, spread over the targets by their shares."""
    whole = sum(SHARES[name] for name in names)
    counts = {name: round(inputs * SHARES[name] / whole) for name in names}
    parts = [
        (name, range(first, min(first + AT_ONCE, count)))
        for name, count in counts.items()
        for first in range(0, count, AT_ONCE)
    ]
    tallies = {name: Tally(name) for name in names}
    # Started afresh, not forked: what one target leaves in memory is not handed to the others.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        running = {pool.submit(_part, name, seed, numbers): name for name, numbers in parts}
        for done in as_completed(running):
            tallies[running[done]].add(done.result())
    return list(tallies.values())


def _part(name: str, seed: int, numbers: range) -> Tally:
    faulthandler.enable()
    target = make_target(name)
    try:
        return feed_all(target, seed, numbers)
    finally:
        target.close()
