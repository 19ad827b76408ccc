"""What a worker makes ready before it takes jobs, so that nobody waits for it: the CUDA graphs of a training and of
portraits. On the way kernels are compiled, libraries start, and networks are read that are built when first asked for.

It is done by the jobs' own code with the profile's own numbers, on its ID photos, so that what is recorded is what jobs
ask for. Nothing depends on it: what was not made ready, the first job that needs it makes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from engine.errors import MissingWeights, OutOfGpuMemory
from engine.first_look import first_look
from engine.inspection import inspect_photos
from engine.memory import keep_freed
from engine.portraits import make_portraits
from engine.profiles import Profile
from engine.subject import Subject
from engine.training import rehearse
from engine.types import InspectedPhoto, Inspection

logger = logging.getLogger(__name__)

# GiB that must be free before more than the usual is made ready: a training beside it may not have taken its own yet.
SPARE_GIB = 8.0


def prepare(profile: Profile, trainings: bool, candidates: Sequence[int]) -> None:
    """Makes ready for trainings, if wanted, and for portraits of so many candidates, the usual number first.

    Where nothing is recorded (on a CPU, for a small GPU) it only tells the C library to keep memory. Raises
    MissingWeights, and OutOfGpuMemory where a training or a usual portrait does not fit. Whatever else goes wrong is
    logged: no job needs this.
    """
    keep_freed()
    diffusion = profile.diffusion
    if not diffusion.graphs.records_on(diffusion.device):
        return
    begin = time.monotonic()
    people = _people(profile)
    for part in _parts(profile, people, trainings, candidates) if people else ():
        _prepared(part, diffusion.device)
    logger.info("prepared in %.1f s", time.monotonic() - begin)


@dataclass(frozen=True)
class _Part:
    """`what` is made ready by `work`. An `extra` is left out where memory is short."""

    what: str
    work: Callable[[], object]
    extra: bool = False


def _parts(
    profile: Profile, people: Sequence[InspectedPhoto], trainings: bool, candidates: Sequence[int]
) -> list[_Part]:
    parts: list[_Part] = []
    if trainings:
        everybody = Inspection((), tuple(people), people[0])
        parts.append(_Part("first look", partial(first_look, everybody, None, profile)))
        if not profile.training.memory_gib:  # with it, nothing of a training is kept
            parts.append(_Part("training", partial(rehearse, people, profile, profile.training)))
    subject = Subject.untrained(people[1:] or people, profile.training.trigger)
    for number, count in enumerate(candidates):
        config = profile.portrait.with_changes(candidates=count)
        work = partial(make_portraits, subject, people[0].photo, profile, config)
        parts.append(_Part(f"portrait with {count} candidates" if number else "portrait", work, extra=number > 0))
    return parts


def _people(profile: Profile) -> list[InspectedPhoto]:
    """Those on the ID photos, each as the only photo of a person."""
    found = [inspect_photos([photo], profile.detector, profile.recogniser) for photo in profile.id_templates()]
    people = [photo for inspection in found for photo in inspection.usable]
    if not people:
        logger.warning("nothing is prepared: no ID photo shows a usable face")
    return people


def _prepared(part: _Part, device: torch.device) -> None:
    if part.extra and _free_gib(device) < SPARE_GIB:
        logger.info("not prepared: a %s (little GPU memory is free)", part.what)
        return
    begin = time.monotonic()
    try:
        part.work()
    except MissingWeights:
        raise
    except (torch.OutOfMemoryError, OutOfGpuMemory) as error:
        sentence = f"the GPU's free memory is too little for a {part.what}: {error}"
        if not part.extra:
            raise OutOfGpuMemory(f"{sentence} (see PORTRAIT_ONE_ENGINE and PORTRAIT_SMALL_GPU)") from error
        logger.warning("not prepared: %s", sentence)
    except Exception:  # a border: what it would have saved is seconds of the first job
        logger.warning("not prepared: a %s", part.what, exc_info=True)
    else:
        logger.info("prepared a %s in %.1f s", part.what, time.monotonic() - begin)
        return
    torch.cuda.empty_cache()


def _free_gib(device: torch.device) -> float:
    return torch.cuda.mem_get_info(device)[0] / 2**30
