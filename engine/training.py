"""Figure 1 in order: photos of one person in, a LoRA that paints this person out."""

from __future__ import annotations

import io
import json
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from engine import lora
from engine.config import MAX_PHOTOS, ScoreAgainst, TrainingConfig
from engine.errors import TooManyPhotos, UnusablePhotos
from engine.images import read_photo, write_jpeg, write_whole
from engine.inspection import PhotoFindings, examine, examine_file, judge
from engine.progress import Progress, Report, Stage, Stopwatch, silent
from engine.stages import merge, retouch, segment, train_lora, validate
from engine.stages.caption import training_caption
from engine.stages.reference import Traits
from engine.subject import FoundFaces
from engine.training_card import training_card
from engine.types import (
    CheckpointScore,
    Embedding,
    Face,
    InspectedPhoto,
    Inspection,
    Photo,
    Render,
    Rgb,
    SubjectFiles,
    Verdict,
)

if TYPE_CHECKING:
    from engine.profiles import Profile


T = TypeVar("T")

WORTH_MERGING = 0.01  # likeness


@dataclass(frozen=True)
class TrainingReport:
    """What a training did.

    `held_out` are file names, `merged_weights` shares by step; likenesses are those of renders to the held-out photos
    (None when no render showed a face), `real_likeness` that of the training photos to them: the highest to hope for.
    """

    usable: int
    held_out: tuple[str, ...]
    steps: int
    checkpoints: tuple[CheckpointScore, ...]
    merged_weights: dict[int, float]
    merged_likeness: float | None
    real_likeness: float
    inspection: Inspection
    seconds: dict[str, float] = field(default_factory=dict)
    peak_mib: int = 0

    def as_json(self) -> dict[str, Any]:
        """What the command line prints."""
        return {
            "usable": self.usable,
            "held_out": list(self.held_out),
            "steps": self.steps,
            "checkpoints": [{"step": c.step, "likeness": c.likeness} for c in self.checkpoints],
            "merged": {
                "weights": {str(step): round(share, 4) for step, share in self.merged_weights.items()},
                "likeness": self.merged_likeness,
            },
            "seconds": self.seconds,
            "peak_mib": self.peak_mib,
        }


def train_subject(
    photos: Sequence[Photo | Path],
    out: Path,
    profile: Profile,
    config: TrainingConfig,
    report: Report,
    checkpoints: Path,
    on_inspected: Callable[[Inspection], None] = lambda inspection: None,
) -> TrainingReport:
    """Photos of one person -> a subject folder (`SubjectFiles`) at `out`.

    `checkpoints` is a folder for this training alone: started again on it, a killed training goes on from its last
    checkpoint and ends with the same weights. `on_inspected` is told which photos are usable before anything is
    learned of them. Raises TooManyPhotos, UnusablePhotos, and what `report` raises.
    """
    watch = Stopwatch()
    with watch.timing(Stage.INSPECT):
        inspection = inspect_set(photos, profile, config, report)
        training, held_out = split(inspection, config.held_out_share)
    on_inspected(inspection)
    with watch.timing(Stage.PREPARE):
        data = _training_set(training, profile, config, report)
        exam = _exam(profile, config, training, held_out)
    run = _Run(exam, checkpoints, report, watch)
    run.train(data, config.steps_for(len(inspection.usable)))
    with watch.timing(Stage.MERGE):
        run.merge()
    result = run.result(inspection, training, held_out)
    _write_subject(SubjectFiles(out), result, run, training, held_out)
    return result


def rehearse(photos: Sequence[InspectedPhoto], profile: Profile, config: TrainingConfig) -> None:
    """The start of a training by these numbers on `photos`, whoever they show, and a render of a checkpoint and of the
    merged LoRA: what a training has to record is then recorded. It leaves nothing else behind."""
    data = _training_set(photos, profile, config, silent)
    exam = _exam(profile, config, photos, photos)
    exam = replace(exam, canvases=exam.canvases[:1])  # all have one size
    with train_lora.rehearsed(data, profile.diffusion, config) as state:
        exam.score(exam.paint(lambda: None))
    with lora.applied(profile.diffusion, state, 1.0):
        exam.score(exam.paint(lambda: None))


def inspect_set(photos: Sequence[Photo | Path], profile: Profile, config: TrainingConfig, report: Report) -> Inspection:
    """The verdicts. Raises TooManyPhotos, and UnusablePhotos when fewer are usable than training needs."""
    if len(photos) > MAX_PHOTOS:
        raise TooManyPhotos(len(photos), MAX_PHOTOS)
    findings = [_findings(photo, profile) for photo in _told(photos, Stage.INSPECT, report)]
    inspection = judge(findings, profile.recogniser)
    if len(inspection.usable) < config.min_photos:
        raise UnusablePhotos(len(inspection.usable), config.min_photos, inspection.reports)
    return inspection


def split(inspection: Inspection, held_out_share: float) -> tuple[list[InspectedPhoto], list[InspectedPhoto]]:
    """Photos to learn from and photos kept out to measure likeness: at least one, never the reference, the most
    typical ones first, because one odd photo would measure itself."""
    count = max(1, round(held_out_share * len(inspection.usable)))
    others = [photo for photo in inspection.usable if photo is not inspection.reference]
    others.sort(key=lambda p: (p.report.verdict is not Verdict.OK, -p.report.measures["likeness"]))
    held_out = others[:count]
    return [p for p in inspection.usable if not any(p is h for h in held_out)], held_out


class _Run:
    """The part of a training in which checkpoints come and are examined."""

    def __init__(self, exam: validate.Exam, folder: Path, report: Report, watch: Stopwatch) -> None:
        self.exam, self._folder, self._report, self._watch = exam, folder, report, watch
        self._checkpoints: dict[int, train_lora.Checkpoint] = {}
        self.renders: dict[int, list[Render]] = {}
        self.shares: dict[int, float] = {}
        self.chosen: lora.State = {}
        self.chosen_renders: list[Render] = []

    def train(self, data: train_lora.TrainingSet, steps: int) -> None:
        """Trains to the end; every checkpoint paints and is scored."""
        diffusion, config = self.exam.profile.diffusion, self.exam.config

        def on_step(done: int, total: int) -> None:
            self._report(Progress(Stage.TRAIN, done, total))

        course = train_lora.checkpoints(data, steps, diffusion, config, self._folder, on_step)
        with closing(course), self._watch.timing(Stage.TRAIN):
            for checkpoint in course:
                self._checkpoints[checkpoint.step] = checkpoint
                self.renders[checkpoint.step] = self._examined(checkpoint.step, steps)
        self._watch.seconds[Stage.TRAIN] -= self._watch.seconds[Stage.VALIDATE]

    def merge(self) -> None:
        """Merges the best checkpoints. The last one alone stays unless the merge is clearly more like the person:
        below WORTH_MERGING the few renders that decide say nothing."""
        last = max(self._checkpoints)
        self.shares = merge.weights(self.renders, self.exam.config.merge_best)
        diffusion = self.exam.profile.diffusion
        self.chosen = merge.merged(lambda step: self._checkpoints[step].weights, self.shares, diffusion.device)
        with lora.applied(diffusion, self.chosen, 1.0):
            pictures = self.exam.paint(lambda: self._report(Progress(Stage.MERGE, 0, 1)))
        self.chosen_renders = self.exam.score(pictures)
        gain = (validate.mean_likeness(self.chosen_renders) or 0) - (validate.mean_likeness(self.renders[last]) or 0)
        if gain < WORTH_MERGING:
            self.shares, self.chosen = {last: 1.0}, self._checkpoints[last].weights
            self.chosen_renders = self.renders[last]
        self._report(Progress(Stage.MERGE, 1, 1))

    def digital_id(self) -> Rgb | None:
        """The likest of all renders; None when none shows a face."""
        found = [r for of in (*self.renders.values(), self.chosen_renders) for r in of if r.likeness is not None]
        return max(found, key=lambda render: render.likeness or 0).rgb if found else None

    def result(
        self, inspection: Inspection, training: Sequence[InspectedPhoto], held_out: Sequence[InspectedPhoto]
    ) -> TrainingReport:
        scores = {step: validate.mean_likeness(renders) for step, renders in self.renders.items()}
        return TrainingReport(
            usable=len(inspection.usable),
            held_out=tuple(photo.photo.name for photo in held_out),
            steps=max(self._checkpoints),
            checkpoints=tuple(CheckpointScore(step, likeness) for step, likeness in scores.items()),
            merged_weights=self.shares,
            merged_likeness=validate.mean_likeness(self.chosen_renders),
            real_likeness=_real_likeness(self.exam.profile, training, held_out),
            inspection=inspection,
            seconds={stage: round(seconds, 2) for stage, seconds in self._watch.seconds.items()},
            peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        )

    def _examined(self, step: int, steps: int) -> list[Render]:
        """The checkpoint's renders, scored; those of an earlier run are read back."""
        kept = self._folder / f"renders-{step:06}.npz"
        with self._watch.timing(Stage.VALIDATE):
            if not kept.is_file():
                pictures = self.exam.paint(lambda: self._report(Progress(Stage.TRAIN, step, steps)))
                buffer = io.BytesIO()
                np.savez(buffer, *pictures)
                write_whole(kept, buffer.getvalue())
            with np.load(kept) as stored:
                renders = self.exam.score([stored[name] for name in stored.files])
        preview = self._folder / f"preview-{step:06}.jpg"
        if renders:
            write_jpeg(preview, np.hstack([render.rgb for render in renders]))
        self._report(Progress(Stage.TRAIN, step, steps, preview if renders else None))
        return renders


def _findings(photo: Photo | Path, profile: Profile) -> PhotoFindings:
    if isinstance(photo, Path):
        return examine_file(photo, profile.detector, profile.recogniser)
    return examine(photo, profile.detector, profile.recogniser)


def _told(items: Sequence[T], stage: Stage, report: Report) -> Iterator[T]:
    """The items, each reported when it is done with."""
    for done, item in enumerate(items, start=1):
        yield item
        report(Progress(stage, done, len(items)))


def _training_set(
    photos: Sequence[InspectedPhoto], profile: Profile, config: TrainingConfig, report: Report
) -> train_lora.TrainingSet:
    crops = [_crop(photo, profile, config) for photo in _told(photos, Stage.PREPARE, report)]
    pictures, landmarks = [rgb for rgb, _ in crops], [face.landmarks for _, face in crops]
    caption = training_caption(config.trigger)
    return train_lora.training_set(pictures, caption, profile.diffusion, config, landmarks)


def _crop(inspected: InspectedPhoto, profile: Profile, config: TrainingConfig) -> tuple[Rgb, Face]:
    """What is learned of one photo, and the face in it."""
    face_on_canvas_px = config.resolution / config.crop_scale
    region, face = retouch.prepared_region(inspected, face_on_canvas_px, profile.retoucher, profile.enhancer)
    mask = segment.person_mask(profile.segmenter(region, face), face, config.keep_hair)
    canvas = profile.portrait_crop(region, face)
    return canvas.cut(segment.on_plain_background(region, mask)), canvas.moved_face(face)


def _exam(
    profile: Profile, config: TrainingConfig, training: Sequence[InspectedPhoto], held_out: Sequence[InspectedPhoto]
) -> validate.Exam:
    ranked_by = held_out if config.score_against is ScoreAgainst.HELD_OUT else training
    return validate.Exam(
        validate.canvases(profile.id_templates(), profile),
        training_caption(config.trigger),
        profile,
        config,
        [photo.embedding for photo in held_out],
        [photo.embedding for photo in ranked_by],
    )


def _write_subject(
    files: SubjectFiles,
    result: TrainingReport,
    run: _Run,
    training: Sequence[InspectedPhoto],
    held_out: Sequence[InspectedPhoto],
) -> None:
    """The folder's files; `subject.json` comes last and says that the others are there."""
    profile, config = run.exam.profile, run.exam.config
    shutil.rmtree(files.references, ignore_errors=True)
    lora.save_kohya(files.lora, run.chosen, {"trigger": config.trigger})
    references, faces, embeddings, traits = [], {}, {}, {}
    for number, photo in enumerate(training, start=1):
        name, crop = f"{number:02}.jpg", retouch.surroundings(photo)
        picture = crop.cut(photo.photo.rgb)
        write_jpeg(files.references / name, picture)
        face, is_best = crop.moved_face(photo.face), photo is result.inspection.reference
        for file in (name, files.reference.name) if is_best else (name,):
            faces[file], embeddings[file], traits[file] = face, photo.embedding, Traits.of(picture, face)
        pose, score = photo.face.pose, photo.report.measures["score"]
        references.append({"file": name, "yaw": pose.yaw, "pitch": pose.pitch, "score": score})
        if is_best:
            write_jpeg(files.reference, picture)
            digital_id = run.digital_id()
            write_jpeg(files.digital_id, picture if digital_id is None else digital_id)
            write_jpeg(files.card, _card(picture, run, result))
    for face in profile.detector(read_photo(files.digital_id).rgb)[:1]:
        faces[files.digital_id.name] = face
    info = {
        **result.as_json(),
        "profile": profile.name,
        "trigger": config.trigger,
        "seed": config.seed,
        "rank": config.rank,
        "recogniser": profile.recogniser.name,
        "same_person": profile.recogniser.same_person,
        "held_out": [{"file": p.photo.name, "embedding": [round(float(x), 6) for x in p.embedding]} for p in held_out],
        "real_likeness": result.real_likeness,
        "copy_paste": _copy_paste(run.chosen_renders, training, held_out),
        "references": references,
        "found": FoundFaces(faces, embeddings, traits).as_json(),
    }
    write_whole(files.info, json.dumps(info, ensure_ascii=False, indent=1).encode())


def _card(reference: Rgb, run: _Run, result: TrainingReport) -> Rgb:
    best_first = sorted(run.chosen_renders, key=lambda render: -(render.likeness or 0.0))
    return training_card(
        reference,
        [render.rgb for render in best_first],
        result.checkpoints,
        result.merged_weights,
        result.merged_likeness,
        result.real_likeness,
    )


def _real_likeness(profile: Profile, training: Sequence[InspectedPhoto], held_out: Sequence[InspectedPhoto]) -> float:
    pairs = [(a.embedding, b.embedding) for a in held_out for b in training]
    return float(np.mean([profile.recogniser.likeness(a, b) for a, b in pairs]))


def _copy_paste(
    renders: Sequence[Render], training: Sequence[InspectedPhoto], held_out: Sequence[InspectedPhoto]
) -> float | None:
    seen: list[Embedding] = [photo.embedding for photo in training]
    scores = [
        validate.copy_paste(render.embedding, photo.embedding, seen)
        for render in renders
        for photo in held_out
        if render.embedding is not None
    ]
    return float(np.mean(scores)) if scores else None
