"""One portrait twice, by the whole pipeline and by fusion alone, and a sheet on which people can compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.crop import box_crop
from engine.images import read_photo
from engine.portraits import PortraitReport, make_portraits
from engine.profiles import Profile
from engine.types import Face, Photo, Rgb, SubjectFiles

CELL = 260  # px
AROUND = 1.9  # side of a cell over the face box
PER_ROW = 2  # trials


@dataclass(frozen=True)
class PortraitTrial:
    """`full` is the profile's portrait, `fused` the same without the two diffusion passes; neither is enlarged."""

    person: str
    template: Photo
    face: Face  # of the template, which stays where it is
    full: PortraitReport
    fused: PortraitReport
    reference: tuple[Rgb, Face]


def portrait_trial(person: str, files: SubjectFiles, template: Photo, profile: Profile) -> PortraitTrial:
    """Makes both portraits with the profile's own numbers."""
    numbers = profile.portrait.with_changes(super_resolution=False)
    alone = numbers.with_changes(first_diffusion=False, second_diffusion=False)
    photo = read_photo(files.reference).rgb
    return PortraitTrial(
        person,
        template,
        profile.detector(template.rgb)[0],
        make_portraits(files, template, profile, numbers),
        make_portraits(files, template, profile, alone),
        (photo, profile.detector(photo)[0]),
    )


def contact_sheet(trials: Sequence[PortraitTrial]) -> Rgb:
    """Per trial: the template, fusion only, the portrait, the person's photo; PER_ROW trials side by side."""
    strips = [
        np.hstack(
            [_around(rgb, trial.face) for rgb in (trial.template.rgb, trial.fused.portrait, trial.full.portrait)]
            + [_around(*trial.reference)]
        )
        for trial in trials
    ]
    strips += [np.zeros_like(strips[0])] * (-len(strips) % PER_ROW)
    return np.vstack([np.hstack(strips[at : at + PER_ROW]) for at in range(0, len(strips), PER_ROW)])


def _around(rgb: Rgb, face: Face) -> Rgb:
    """The face and what is near it, CELL pixels square."""
    return box_crop(face, AROUND, (CELL, CELL)).cut(rgb)
