"""How the engine reports progress and how it is stopped.

A `Report` is called as often as a stage likes; the receiver throttles. Raising `Stopped` from it is how one cancels:
the engine lets it pass between two steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class Stage(StrEnum):
    """The boxes of the reference's two figures, in the words that progress uses."""

    INSPECT = "inspect"
    PREVIEW = "preview"
    PREPARE = "prepare"
    TRAIN = "train"
    VALIDATE = "validate"
    MERGE = "merge"
    PAINT_TEMPLATE = "paint_template"
    TEMPLATE = "template"
    FUSE = "fuse"
    FIRST_DIFFUSION = "first_diffusion"
    SECOND_FUSION = "second_fusion"
    SECOND_DIFFUSION = "second_diffusion"
    HARMONISE = "harmonise"
    ENHANCE = "enhance"


@dataclass(frozen=True)
class Progress:
    """`done` of `total` steps of `stage`; `preview` is a picture on disk worth showing, if there is one.

    `part` of `parts`: work that repeats its stages, once per face for instance.
    """

    stage: Stage
    done: int
    total: int
    preview: Path | None = None
    part: int = 0
    parts: int = 1


Report = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """A report for callers that do not want any."""


@dataclass
class Stopwatch:
    """Seconds spent per stage, for the report of a run."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - begin, 3)
