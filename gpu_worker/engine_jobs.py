"""What the engine process does with a job: its files in, a call of the engine, result files and a result out.

The only module that knows both the contract and the engine's pipelines. Checks need detection and recognition only;
torch is loaded by `load_renders` alone.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.errors import UnreadablePicture
from engine.images import read_photo
from engine.inspection import PhotoFindings, examine_file, judge
from engine.profiles import Profile, load_profile
from engine.progress import Progress, Stage
from engine.types import Face, Photo
from gpu_worker.contract.events import CheckTemplateResult, InspectResult, TemplateFace
from gpu_worker.contract.jobs import BlobKey, CheckTemplate, InspectPhotos
from gpu_worker.engine_child import AnyResult, Runner, Tell
from gpu_worker.engine_messages import Run
from gpu_worker.failures import photo_verdicts

_KEPT_FINDINGS = 200
_KEPT_FOR_S = 1800.0
_LEAST_FACE_PX = 32  # of a template's face


def load_checks(profile: str, device: str) -> Runner:
    """A runner for `InspectPhotos` and `CheckTemplate`, its models loaded."""
    models = load_profile(profile, device)
    checks = _Checks(models)
    return checks.run


class _Checks:
    def __init__(self, models: Profile) -> None:
        self._detector, self._recogniser = models.detector, models.recogniser
        self._findings: OrderedDict[BlobKey, tuple[float, PhotoFindings]] = OrderedDict()

    def run(self, request: Run, tell: Tell) -> AnyResult:
        self._forget_old_findings()
        match request.job:
            case InspectPhotos() as job:
                return self._inspect(job, request.folder / "photos", tell)
            case CheckTemplate():
                return self._check_template(request.folder / "template.jpg")
            case job:
                raise TypeError(f"not a check: {job.kind}")

    def _inspect(self, job: InspectPhotos, folder: Path, tell: Tell) -> InspectResult:
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
            template = read_photo(path)
        except UnreadablePicture:
            return CheckTemplateResult(faces=(), reason="unreadable")
        faces = self._detector(template.rgb)
        if not faces:
            return CheckTemplateResult(faces=(), reason="no_face")
        large = [face for face in faces if face.width >= _LEAST_FACE_PX]
        shares = tuple(_as_shares(face, template) for face in large)
        return CheckTemplateResult(faces=shares, reason=None if shares else "too_small")


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
