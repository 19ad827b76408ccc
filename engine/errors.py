"""What can go wrong in the engine, as types with data. No wording for people here: that lives in bot/texts.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.types import PhotoReport


class EngineError(Exception):
    """Base of everything that the engine raises on purpose."""


class UnusablePhotos(EngineError):
    """Too few usable photos are left to train on: the user can fix it."""

    def __init__(self, usable: int, needed: int, reports: Sequence[PhotoReport]) -> None:
        refused = ", ".join(f"{r.file}: {r.reason}" for r in reports if r.reason and not r.is_usable)
        super().__init__(f"{usable} usable photos, {needed} needed ({refused or 'none refused'})")
        self.usable, self.needed, self.reports = usable, needed, tuple(reports)


class TooManyPhotos(EngineError):
    """More photos than a training takes: the user can fix it."""

    def __init__(self, have: int, most: int) -> None:
        super().__init__(f"{have} photos, at most {most} are taken")
        self.have, self.most = have, most


class NoFaceInTemplate(EngineError):
    """The template shows no face that the pipeline can work with: the user can choose another one."""


class UnsafePicture(EngineError):
    """Nothing of what was made is fit to be shown: the user can choose another template or other words."""


class UnreadablePicture(EngineError):
    """A file is no picture, or is broken, or exceeds the limits of decoding."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name, self.why = name, why


class UnknownRecipe(EngineError):
    """No recipe of that name, or its file is none."""


class FusionFailed(EngineError):
    """Face fusion could not be done for this pair of faces; the pipeline goes on without it and says so."""


class MissingWeights(EngineError):
    """A model's files are not there. The message says which and what to run."""


class OutOfGpuMemory(EngineError):
    """The device ran out of memory: transient, the child is restarted."""


class Stopped(EngineError):
    """The caller asked the engine to stop; everything up to the last checkpoint is on disk."""
