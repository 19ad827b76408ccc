"""What the engine process does with a job: its files in, a call of the engine, result files and a result out.

The only module that knows both the contract and the engine's pipelines. Checks need detection and recognition only;
torch is loaded by `load_renders` alone. Nothing in a job's folder needs to outlive the machine: pictures are not synced
to the disk when they are written there, but when they are stored as blobs.
"""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.config import Style, portrait_style
from engine.errors import NoFaceInTemplate, OutOfGpuMemory, UnreadablePicture, UnsafePicture
from engine.first_look import first_look
from engine.images import read_photo, write_whole
from engine.inspection import PhotoFindings, examine_file, judge
from engine.portraits import TEMPLATE_SIDE, make_portraits
from engine.profiles import Profile, load_profile
from engine.progress import Progress, Report, Stage
from engine.provenance import write_portrait
from engine.stages.template import left_to_right, template_faces
from engine.text_to_photo import Recipe, painted_template, read_recipe
from engine.types import Face, Inspection, Photo, SubjectFiles
from gpu_worker.contract.events import (
    AnyResult,
    Checkpoint,
    CheckTemplateResult,
    InspectResult,
    PortraitFile,
    PortraitResult,
    Scores,
    SkippedFace,
    TemplateFace,
    TrainResult,
)
from gpu_worker.contract.jobs import BlobKey, CheckTemplate, InspectPhotos, MakePortraits, TrainSubject
from gpu_worker.engine_child import Runner
from gpu_worker.engine_messages import NOTHING_EXPECTED, Expected, Run
from gpu_worker.failures import photo_verdicts

logger = logging.getLogger(__name__)

_KEPT_FINDINGS = 200
_KEPT_FOR_S = 1800.0


def load_checks(profile: str, device: str, _: Expected = NOTHING_EXPECTED) -> Runner:
    """A runner for `InspectPhotos` and `CheckTemplate`, its models loaded."""
    models = load_profile(profile, device)
    checks = _Checks(models)
    return checks.run


class _Checks:
    def __init__(self, models: Profile) -> None:
        self._detector, self._recogniser = models.detector, models.recogniser
        self._findings: OrderedDict[BlobKey, tuple[float, PhotoFindings]] = OrderedDict()

    def run(self, request: Run, tell: Report) -> AnyResult:
        self._forget_old_findings()
        match request.job:
            case InspectPhotos() as job:
                return self._inspect(job, request.folder / "photos", tell)
            case CheckTemplate():
                return self._check_template(request.folder / "template.jpg")
            case job:
                raise TypeError(f"not a check: {job.kind}")

    def _inspect(self, job: InspectPhotos, folder: Path, tell: Report) -> InspectResult:
        """Photos come one by one and the set is judged after each: what was found on one is not looked for again."""
        findings = []
        for done, photo in enumerate(job.photos):
            tell(Progress(Stage.INSPECT, done, len(job.photos)))
            findings.append(self._findings_on(photo.key, folder / f"{photo.photo_id}.jpg"))
        inspection = judge(findings, self._recogniser)
        best = inspection.reference
        return InspectResult(
            photos=photo_verdicts(inspection.reports),
            usable=len(inspection.usable),
            reference=Path(best.report.file).stem if best else None,
        )

    def _findings_on(self, key: BlobKey, path: Path) -> PhotoFindings:
        if key in self._findings:
            self._findings.move_to_end(key)
            return self._findings[key][1]
        found = _without_pixels(examine_file(path, self._detector, self._recogniser))
        self._findings[key] = (time.monotonic(), found)
        return found

    def _forget_old_findings(self) -> None:
        """They hold embeddings of people, so they do not outlive a conversation by much."""
        oldest = time.monotonic() - _KEPT_FOR_S
        for key in [key for key, (at, _) in self._findings.items() if at < oldest]:
            del self._findings[key]
        while len(self._findings) > _KEPT_FINDINGS:
            self._findings.popitem(last=False)

    def _check_template(self, path: Path) -> CheckTemplateResult:
        try:
            template = read_photo(path, TEMPLATE_SIDE)
            faces = template_faces(template.rgb, self._detector)
        except UnreadablePicture:
            return CheckTemplateResult(faces=(), reason="unreadable")
        except NoFaceInTemplate:
            too_small = bool(self._detector(template.rgb))
            return CheckTemplateResult(faces=(), reason="too_small" if too_small else "no_face")
        return CheckTemplateResult(faces=tuple(_as_shares(face, template) for face in left_to_right(faces)))


def load_renders(profile: str, device: str, expected: Expected = NOTHING_EXPECTED) -> Runner:
    """A runner for `TrainSubject` and `MakePortraits`, its models loaded and made ready for what is expected."""
    import torch

    from engine.warm_up import prepare

    models = load_profile(profile, device)
    renders = _Renders(models)
    prepare(models, expected.trainings, expected.candidates)

    def run(request: Run, tell: Report) -> AnyResult:
        try:
            return renders.run(request, tell)
        except torch.OutOfMemoryError as error:
            raise OutOfGpuMemory(str(error)) from error

    return run


class _Renders:
    def __init__(self, models: Profile) -> None:
        self._models = models
        _ = models.diffusion, models.detector, models.recogniser  # built when first asked for

    def run(self, request: Run, tell: Report) -> AnyResult:
        match request.job:
            case TrainSubject() as job:
                return self._train(job, request, tell)
            case MakePortraits() as job:
                return self._portraits(job, request, tell)
            case job:
                raise TypeError(f"not a training or portrait: {job.kind}")

    def _train(self, job: TrainSubject, request: Run, tell: Report) -> TrainResult:
        from engine.training import train_subject

        out = request.folder / "out"
        photos = [request.folder / "photos" / f"{photo.photo_id}.jpg" for photo in job.photos]
        config = self._models.training.with_changes(seed=job.seed)
        checkpoints = request.folder / "checkpoints"
        is_resumed = any(checkpoints.iterdir())

        def on_inspected(inspection: Inspection) -> None:
            if not is_resumed:
                self._show_first_look(inspection, request.folder, tell)

        report = train_subject(photos, out, self._models, config, tell, checkpoints, on_inspected)
        write_whole(out / "report.json", json.dumps(report.as_json()).encode())
        return TrainResult(
            photos=photo_verdicts(report.inspection.reports),
            usable=report.usable,
            held_out=tuple(Path(name).stem for name in report.held_out),
            steps=report.steps,
            checkpoints=tuple(Checkpoint(step=c.step, likeness=c.likeness) for c in report.checkpoints),
            likeness=report.merged_likeness,
            real_likeness=report.real_likeness,
            recogniser=self._models.recogniser.name,
            files_prefix=request.prefix,
            preview_key=f"{request.prefix}/{SubjectFiles(out).digital_id.name}",
            card_key=f"{request.prefix}/{SubjectFiles(out).card.name}",
            report_key=f"{request.prefix}/report.json",
            seconds=report.seconds,
            peak_mib=report.peak_mib,
        )

    def _show_first_look(self, inspection: Inspection, folder: Path, tell: Report) -> None:
        """A training does not depend on it."""
        tell(Progress(Stage.PREVIEW, 0, 1))
        path = folder / "template.jpg"

        def between_steps(progress: Progress) -> None:
            tell(Progress(Stage.PREVIEW, 0, 1))

        try:
            template = read_photo(path, TEMPLATE_SIDE) if path.is_file() else None
            rgb = first_look(inspection, template, self._models, between_steps)
        except (NoFaceInTemplate, UnreadablePicture, UnsafePicture) as error:
            logger.info("no first look: %s", error)
            return
        write_portrait(folder / "first-look.jpg", rgb, synced=False)
        tell(Progress(Stage.PREVIEW, 1, 1, folder / "first-look.jpg"))

    def _template(self, job: MakePortraits, folder: Path, tell: Report) -> Photo:
        """The one that was sent, or one painted now, which is also a result."""
        if job.template_to_paint is None:
            return read_photo(folder / "template.jpg", TEMPLATE_SIDE)
        words, name = job.template_to_paint.prompt.strip(), job.template_to_paint.recipe
        recipe = read_recipe(name) if name else Recipe(prompt=words)
        if name and words:
            recipe = recipe.with_changes(prompt=f"{words}, {recipe.prompt}")

        def on_step(done: int, total: int) -> None:
            tell(Progress(Stage.PAINT_TEMPLATE, done, total))

        template = painted_template(recipe, self._models, job.seed, on_step)
        write_portrait(folder / "out" / "template.jpg", template.rgb, synced=False)
        return template

    def _portraits(self, job: MakePortraits, request: Run, tell: Report) -> PortraitResult:
        """All portraits come from one pass through the pipeline: they are its candidates, the best one first."""
        began = time.perf_counter()
        config = portrait_style(Style(job.style), self._models.portrait)
        config = config.with_changes(seed=job.seed, candidates=job.count)
        template = self._template(job, request.folder, tell)
        report = make_portraits(_who(job, request.folder / "subjects"), template, self._models, config, tell)
        made, files, out = time.perf_counter(), [], request.folder / "out"
        write_whole(out / "report.json", json.dumps(report.as_json(Path("portrait-1.jpg"))).encode(), synced=False)
        for number, rgb in enumerate((report.portrait, *report.others), start=1):
            name = f"portrait-{number}.jpg"
            write_portrait(out / name, rgb, synced=False)
            files.append(
                PortraitFile(
                    key=f"{request.prefix}/{name}",
                    width=rgb.shape[1],
                    height=rgb.shape[0],
                    likeness=report.likeness["final"] if number == 1 else None,
                    notes=report.notes,
                    report_key=f"{request.prefix}/report.json",
                    scores=Scores(**report.scores(number - 1).as_json()),
                    seed=report.seed(number - 1),
                )
            )
        skipped = tuple(
            SkippedFace(face=s.face, subject_id=sitter.subject_id, reason=s.reason.value)
            for s in report.skipped
            if (sitter := job.faces[s.face])
        )
        painted = f"{request.prefix}/template.jpg" if job.template_to_paint else None
        now = time.perf_counter()
        seconds = {**report.seconds, "files": round(now - made, 3), "all": round(now - began, 3)}
        return PortraitResult(portraits=tuple(files), seconds=seconds, skipped=skipped, template_key=painted)


def _who(job: MakePortraits, subjects: Path) -> SubjectFiles | list[SubjectFiles | None]:
    if not job.faces:
        return SubjectFiles(subjects / job.subject_id)
    return [None if sitter is None else SubjectFiles(subjects / sitter.subject_id) for sitter in job.faces]


def _without_pixels(found: PhotoFindings) -> PhotoFindings:
    """Judging a set needs the size of each photo but not its pixels, of which 200 photos would take gigabytes."""
    if found.photo is None:
        return found
    blank = np.broadcast_to(np.uint8(0), found.photo.rgb.shape)  # one byte, whatever the shape
    return replace(found, photo=replace(found.photo, rgb=blank))


def _as_shares(face: Face, picture: Photo) -> TemplateFace:
    height, width = picture.rgb.shape[:2]
    left, top, right, bottom = face.box_xyxy
    return TemplateFace(box_xyxy=(left / width, top / height, right / width, bottom / height))
