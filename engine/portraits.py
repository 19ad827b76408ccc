"""Figure 2: subjects' LoRAs and photos, and a template, become a portrait. The stages, in order."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from engine import metrics
from engine.config import PortraitConfig
from engine.errors import MissingWeights, NoFaceInTemplate, OutOfGpuMemory, Stopped, UnreadablePicture, UnsafePicture
from engine.images import read_photo
from engine.looks import Look, Rim, Scores, WorkedFace
from engine.portrait_steps import Steps
from engine.profiles import Profile
from engine.progress import Report, Stage, silent
from engine.provenance import write_portrait
from engine.stages import paste_back
from engine.stages.template import left_to_right, template_faces, working_crop
from engine.subject import Subject
from engine.types import Face, Mask, Photo, Rgb, SubjectFiles

logger = logging.getLogger(__name__)

TEMPLATE_SIDE = 4096  # px, longest side at which a template is read
THREADS = 4  # beside the one that makes a portrait: as many as there are candidates
FATAL = (Stopped, OutOfGpuMemory, MissingWeights)  # concern the whole request, not one face


class Skip(StrEnum):
    """Why a face stayed as it was although somebody was to go there."""

    NO_SUCH_FACE = "no_such_face"
    SUBJECT_UNREADABLE = "subject_unreadable"
    FACE_FAILED = "face_failed"


@dataclass(frozen=True)
class SkippedFace:
    face: int  # of the template's faces, left to right from 0
    reason: Skip
    detail: str


@dataclass(frozen=True)
class FaceReport:
    """One face of a portrait and what was measured on the way. Likeness: 1 is identical (see FaceRecogniser)."""

    face: int  # of the template's faces, left to right from 0
    likeness: dict[str, float]  # of "template", "fused" and "final", to photos that took no part in training
    by_stage: dict[str, float]  # the same after every stage, where that was asked for
    compared_to: tuple[str, ...]  # files of the photos that likeness is measured against
    seam: dict[str, float]  # ΔE: what "fused" and "final" add at the face's rim, and the "template"'s own step there
    diffusion_share: float  # 1: all that the passes changed stayed; less where that would have cost likeness
    scores: tuple[Scores, ...]  # of the candidates, best first
    seeds: tuple[int, ...]  # of their noise

    def as_json(self) -> dict[str, Any]:
        return {
            "face": self.face,
            "likeness": {**self.likeness, "to": list(self.compared_to)},
            "by_stage": self.by_stage,
            "seam": self.seam,
            "diffusion_share": self.diffusion_share,
            "candidates": [
                {"seed": seed, **score.as_json()} for seed, score in zip(self.seeds, self.scores, strict=True)
            ],
        }


@dataclass(frozen=True)
class PortraitReport:
    """One finished portrait. Its own numbers are means over `people`."""

    portrait: Rgb
    others: tuple[Rgb, ...]  # further candidates, best first
    ranks: tuple[int, ...]  # of portrait and others among everybody's candidates
    faces: int  # in the template
    people: tuple[FaceReport, ...]
    skipped: tuple[SkippedFace, ...]
    encoder: str
    content_check: str | None  # which one looked at the pictures; None: the profile has none
    changed_outside_mask: int  # pixels, before enlargement
    seconds: dict[str, float]
    notes: tuple[str, ...]

    @property
    def likeness(self) -> dict[str, float]:
        return _means([person.likeness for person in self.people])

    @property
    def seam(self) -> dict[str, float]:
        return _means([person.seam for person in self.people])

    @property
    def diffusion_share(self) -> float:
        return _means([{"share": person.diffusion_share} for person in self.people])["share"]

    def scores(self, candidate: int) -> Scores:
        """Of a candidate, 0 is the portrait: means over the people."""
        means = _means([person.scores[self.ranks[candidate]].as_json() for person in self.people])
        return Scores(means["likeness"], means["quality"], means["seam"])

    def seed(self, candidate: int) -> int | None:
        """Of a candidate's noise; None where several people have several."""
        seeds = {person.seeds[self.ranks[candidate]] for person in self.people}
        return seeds.pop() if len(seeds) == 1 else None

    def as_json(self, portrait: Path) -> dict[str, Any]:
        height, width = self.portrait.shape[:2]
        compared_to = [name for person in self.people for name in person.compared_to]
        return {
            "portrait": str(portrait),
            "faces": self.faces,
            "likeness": {**self.likeness, "encoder": self.encoder, "to": compared_to},
            "content_check": self.content_check,
            "changed_outside_mask": self.changed_outside_mask,
            "seam": self.seam["final"],
            "seam_fused": self.seam["fused"],
            "seam_template": self.seam["template"],
            "diffusion_share": self.diffusion_share,
            "candidates": [{"seed": self.seed(k), **self.scores(k).as_json()} for k in range(1 + len(self.others))],
            "people": [person.as_json() for person in self.people],
            "skipped": [{"face": s.face, "reason": s.reason, "detail": s.detail} for s in self.skipped],
            "seconds": self.seconds,
            "size": [width, height],
            "notes": list(self.notes),
        }


Who = SubjectFiles | Subject | Sequence[SubjectFiles | None]
_Sitters = Future[Subject] | Sequence[Future[Subject] | None]


def make_portraits(
    who: Who,
    template: Photo,
    profile: Profile,
    config: PortraitConfig,
    report: Report = silent,
    every_stage: bool = False,
) -> PortraitReport:
    """Figure 2, stage by stage: one subject in the template's largest face, or a sequence of them in its faces from
    left to right, where None leaves a face as it is.

    Of several people, a face that cannot be done is skipped and said, the others are done. A face fusion that fails is
    skipped and noted. `every_stage` measures likeness after every stage, which costs time. Raises `NoFaceInTemplate`,
    `UnreadablePicture`, `UnsafePicture`, `MissingWeights`, `OutOfGpuMemory`, `Stopped`.
    """
    with ThreadPoolExecutor(THREADS, "portrait") as beside:
        return _made(Steps(profile, config, report, beside), who, template.rgb, every_stage)


def make_portrait_file(
    subjects: Path | Sequence[Path | None],
    template: Path,
    out: Path,
    profile: Profile,
    config: PortraitConfig,
    report: Report = silent,
) -> dict[str, Any]:
    """A portrait from subjects' folders and a template's file, written to `out` (JPEG), and what was measured, as JSON.

    One subject goes into the largest face, a sequence into the faces from left to right. Further candidates lie beside
    the portrait as `<name>-2.jpg` and so on.
    """
    who: Who
    if isinstance(subjects, Path):
        who = SubjectFiles(subjects)
    else:
        who = [None if folder is None else SubjectFiles(folder) for folder in subjects]
    result = make_portraits(who, read_photo(template, TEMPLATE_SIDE), profile, config, report)
    write_portrait(out, result.portrait)
    for number, other in enumerate(result.others, start=2):
        write_portrait(out.with_stem(f"{out.stem}-{number}"), other)
    return result.as_json(out)


def _made(steps: Steps, who: Who, template: Rgb, every_stage: bool) -> PortraitReport:
    profile = steps.profile
    with steps.stage(Stage.TEMPLATE):
        sitters = _sitters(steps, who)
        faces = template_faces(template, profile.detector)
    works, skipped = _worked_faces(steps, template, faces, _seats(sitters, faces))
    count = min(len(work.candidates) for work in works)
    pasted = _fit_to_show(steps, {rank: _together(steps, template, works, rank) for rank in range(count)})
    best = next(iter(pasted))
    people = [steps.beside.submit(_face_report, work, best, pasted[best], every_stage) for work in works]
    with steps.stage(Stage.ENHANCE):
        portraits = [steps.enhanced(rgb, [work.face for work in works]) for rgb in pasted.values()]
    untouched = np.minimum.reduce([work.piece.lift(work.mask, template.shape) <= 0 for work in works])
    return PortraitReport(
        portrait=portraits[0],
        others=tuple(portraits[1:]),
        faces=len(faces),
        ranks=tuple(pasted),
        people=tuple(person.result() for person in people),
        skipped=skipped,
        encoder=profile.recogniser.name,
        content_check=profile.content_check.name if profile.content_check else None,
        changed_outside_mask=metrics.changed_pixels(template, pasted[best], untouched),
        seconds=steps.watch.seconds,
        notes=tuple(steps.notes),
    )


@dataclass(frozen=True)
class _Seat:
    """Who goes into which face; `number` counts the template's faces from the left."""

    number: int
    sitter: Future[Subject]
    face: Face | None  # None: the template has fewer faces


def _sitters(steps: Steps, who: Who) -> _Sitters:
    """The same, being read while the template is searched."""
    if isinstance(who, SubjectFiles | Subject):
        return steps.sitter(who)
    return [None if one is None else steps.sitter(one) for one in who]


def _seats(sitters: _Sitters, faces: Sequence[Face]) -> list[_Seat]:
    """`faces` are the template's, largest first."""
    ordered = left_to_right(faces)
    if isinstance(sitters, Future):
        largest = next(number for number, face in enumerate(ordered) if face is faces[0])
        return [_Seat(largest, sitters, faces[0])]
    seats = [
        _Seat(number, sitter, ordered[number] if number < len(ordered) else None)
        for number, sitter in enumerate(sitters)
        if sitter is not None
    ]
    if not seats:
        raise ValueError("nobody was named for any face")
    return seats


def _worked_faces(
    steps: Steps, template: Rgb, faces: Sequence[Face], seats: Sequence[_Seat]
) -> tuple[list[WorkedFace], tuple[SkippedFace, ...]]:
    """Every seat's face, done on the template itself; the first error where none could be done."""
    works: list[WorkedFace] = []
    skipped: list[SkippedFace] = []
    errors: list[Exception] = []
    for part, seat in enumerate(seats):
        steps.part, steps.parts = part, len(seats)
        try:
            works.append(_worked(steps, template, seat, faces))
        except FATAL:
            raise
        except Exception as error:  # a face's border: what is wrong with one must not cost the others
            logger.warning("face %d is skipped", seat.number, exc_info=error)
            errors.append(error)
            skipped.append(SkippedFace(seat.number, _reason(error), f"{type(error).__name__}: {error}"))
    if not works:
        raise errors[0]
    return works, tuple(skipped)


def _reason(error: Exception) -> Skip:
    match error:
        case NoFaceInTemplate():
            return Skip.NO_SUCH_FACE
        case UnreadablePicture():
            return Skip.SUBJECT_UNREADABLE
        case _:
            return Skip.FACE_FAILED


def _worked(steps: Steps, template: Rgb, seat: _Seat, faces: Sequence[Face]) -> WorkedFace:
    """One face through the whole pipeline, the template's other faces left out of its mask."""
    profile, config, face = steps.profile, steps.config, seat.face
    if face is None:
        raise NoFaceInTemplate(f"the template has {len(faces)} faces, none is number {seat.number + 1} from the left")
    with steps.stage(Stage.TEMPLATE):
        subject = seat.sitter.result()
        loras = steps.loras(subject)
        piece = working_crop(template, face, config.crop_scale if config.crop_face_preprocess else None)
        before = Look.of(piece.cut(template), piece.moved_face(face), profile)
    with steps.watch.timing(Stage.FUSE):
        tries = steps.tries(before, subject)

    def allowed(fused: Look) -> Mask:
        neighbours = [profile.parse(before.rgb, piece.moved_face(other)) for other in faces if other is not face]
        return paste_back.edit_mask(before.parts, fused.parts, before.face, neighbours)

    def fused_again(first: Look) -> tuple[Look, Look]:
        shifted = steps.colour_shift(first, before, config.color_shift_middle, with_lips=True)
        return shifted, steps.fusion(shifted, reference, config.fusion_after, config.fusion_after_ratio)

    with steps.lora(loras):  # while the faces are fused
        with steps.stage(Stage.FUSE):
            reference, fused = steps.first_fusion(before, subject, tries)
        rim_later, mask_later = steps.beside.submit(Rim.of, before, fused), steps.beside.submit(allowed, fused)
        with steps.shown(reference):
            firsts = steps.first_diffusion(fused, subject)
            with steps.stage(Stage.SECOND_FUSION):
                least_later = steps.beside.submit(fused.likeness, subject.known(reference))
                again, least = steps.each(fused_again, firsts), least_later.result()
            seconds = steps.second_diffusion([look for _, look in again], subject)
    rim, known = rim_later.result(), subject.known(reference)

    def finished(second: Look) -> tuple[Look, tuple[Look, float]]:
        last = steps.makeup(steps.colour_shift(second, before, config.color_shift_last, with_lips=False), before)
        return last, steps.guarded(last, fused, least, rim, known)

    with steps.watch.timing(Stage.ENHANCE):
        ends = steps.each(finished, seconds)
        candidates = steps.ranked([end for _, end in ends], before, rim, subject)
    trail = {"template": before, "first_fusion": fused, "first_diffusion": firsts[0], "first_shift": again[0][0]}
    trail |= {"second_fusion": again[0][1], "second_diffusion": seconds[0], "last_shift": ends[0][0]}
    return WorkedFace(
        number=seat.number,
        face=face,
        subject=subject,
        piece=piece,
        mask=mask_later.result(),
        rim=rim,
        before=before,
        fused=fused,
        candidates=candidates,
        trail=trail,
    )


def _together(steps: Steps, template: Rgb, works: Sequence[WorkedFace], candidate: int) -> Rgb:
    """The template with everybody's candidate of that rank in it, and one pass over all joins."""
    rgb = template
    for work in works:
        rgb = paste_back.pasted_back(rgb, work.piece, work.candidates[candidate].look.rgb, work.mask)
    if len(works) > 1 and steps.config.harmonise and steps.config.paints:
        with steps.stage(Stage.HARMONISE):
            rgb = steps.harmonised(rgb, works)
    if steps.config.background_restore:
        with steps.stage(Stage.HARMONISE):
            rgb = steps.background_restored(rgb, [work.face for work in works])
    return rgb


def _fit_to_show(steps: Steps, pictures: Mapping[int, Rgb]) -> dict[int, Rgb]:
    """Candidates by rank, without those that are another one bit by bit (where the guard took everything back they are
    alike) or that the content check refuses. Raises `UnsafePicture` where it refuses all."""
    distinct: dict[int, Rgb] = {}
    for rank, rgb in pictures.items():
        if not any(np.array_equal(rgb, other) for other in distinct.values()):
            distinct[rank] = rgb
    check = steps.profile.content_check
    safe = {rank: rgb for rank, rgb in distinct.items() if check is None or check.is_safe(rgb)}
    if not safe:
        raise UnsafePicture("the content check refused every candidate")
    for left_out, why in (
        (len(pictures) - len(distinct), "the same picture as another"),
        (len(distinct) - len(safe), "refused by the content check"),
    ):
        if left_out:
            steps.notes.append(f"{left_out} of {len(pictures)} candidates left out: {why}")
    return safe


def _face_report(work: WorkedFace, rank: int, pasted: Rgb, every_stage: bool) -> FaceReport:
    """`pasted` is the portrait, made of everybody's candidate of that rank."""
    held_out, best = work.subject.held_out, work.candidates[rank]
    # Outside of the mask, far from the face, fusion changes nothing that either measure looks at.
    looks = {"template": work.before, "fused": work.fused, "final": best.look.shown_in(work.piece.cut(pasted))}
    trail = {**work.trail, "guard": best.look, "final": looks["final"]} if every_stage else {}
    return FaceReport(
        face=work.number,
        likeness={name: look.likeness(held_out) for name, look in looks.items()},
        by_stage={name: look.likeness(held_out) for name, look in trail.items()},
        compared_to=work.subject.held_out_files,
        seam={name: work.rim.seam(look.rgb) for name, look in looks.items() if name != "template"}
        | {"template": work.rim.natural_step()},
        diffusion_share=best.share,
        scores=tuple(candidate.scores for candidate in work.candidates),
        seeds=tuple(candidate.seed for candidate in work.candidates),
    )


def _means(of_people: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: round(float(np.mean([of[name] for of in of_people])), 4) for name in of_people[0]}
