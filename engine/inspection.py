"""Which photos of a set can be learned from, and why not the others. Needs no torch.

`examine` looks at one photo and costs a fraction of a second; `judge` weighs what was found on a whole set and costs
nothing. So a caller who gets photos one by one examines each once and judges after each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from engine.config import PhotoLimits
from engine.errors import UnreadablePicture
from engine.images import read_photo
from engine.stages import detect, identify, quality
from engine.types import (
    Embedding,
    Face,
    FaceDetector,
    FaceRecogniser,
    InspectedPhoto,
    Inspection,
    Photo,
    PhotoReport,
    Reason,
    Rgb,
    Verdict,
)

THUMBNAIL = 32  # px, side of the grey thumbnails that duplicates are compared by
SAME_SHOT = 0.985  # correlation of two thumbnails above which they show one shot; a burst's next frame lies below
SAME_ASPECT = 0.04
CLEARLY_THE_PERSON = 0.03  # likeness above what is needed; below it the photo gets a warning


@dataclass(frozen=True)
class FoundFace:
    face: Face
    embedding: Embedding
    measures: quality.Measures


@dataclass(frozen=True)
class PhotoFindings:
    """What one photo shows, whatever the rest of the set is. `faces` are the candidates for the subject."""

    file: str
    photo: Photo | None
    faces: tuple[FoundFace, ...] = ()
    thumbnail: np.ndarray | None = None  # (32, 32) float32, mean 0, norm 1
    refusal: Reason | None = None

    @property
    def aspect(self) -> float:
        return self.photo.rgb.shape[1] / self.photo.rgb.shape[0] if self.photo else 1.0


def examine_file(path: Path, detector: FaceDetector, recogniser: FaceRecogniser) -> PhotoFindings:
    """`examine` for a file of unknown content: what cannot be read is a finding, no error."""
    try:
        photo = read_photo(path)
    except UnreadablePicture:
        return unreadable(path.name)
    return examine(photo, detector, recogniser)


def unreadable(file: str) -> PhotoFindings:
    """The finding on a file that is no picture."""
    return PhotoFindings(file, None, refusal=Reason.UNREADABLE)


def examine(photo: Photo, detector: FaceDetector, recogniser: FaceRecogniser) -> PhotoFindings:
    """The per-photo half of inspection."""
    faces = detector(photo.rgb)
    if not faces:
        return PhotoFindings(photo.name, photo, refusal=quality.reason_without_face(photo.rgb))
    candidates = detect.candidates(faces)
    found = tuple(
        FoundFace(face, recogniser.embed(photo.rgb, face), quality.measure(photo.rgb, face)) for face in candidates
    )
    refusal = Reason.SEVERAL_PEOPLE if detect.has_several_people(faces) else None
    return PhotoFindings(photo.name, photo, found, _thumbnail(photo.rgb), refusal)


def inspect_photos(photos: Iterable[Photo], detector: FaceDetector, recogniser: FaceRecogniser) -> Inspection:
    """Both halves at once."""
    return judge([examine(photo, detector, recogniser) for photo in photos], recogniser)


def judge(findings: Sequence[PhotoFindings], recogniser: FaceRecogniser) -> Inspection:
    """Verdicts on the whole set: quality first, then identity among what is good enough, then duplicates.

    The order of the photos plays no part, except that of two equal duplicates the first one stays.
    """
    firsts = [item.faces[0].embedding for item in findings if _first_impression(item).is_usable]
    alike = np.array([[recogniser.likeness(a, b) for b in firsts] for a in firsts]).reshape(len(firsts), len(firsts))
    group = identify.main_person(alike, recogniser.same_person)
    person = _Person(group, [firsts[i] for i in group.members], recogniser)
    judged = [_judge_one(item, person) for item in findings]
    reports = [one.report for one in judged]
    for i in _duplicates(judged):
        reports[i] = replace(reports[i], verdict=Verdict.REFUSED, reason=Reason.DUPLICATE)
    usable = tuple(
        InspectedPhoto(one.findings.photo, one.subject.face, one.subject.embedding, report)
        for one, report in zip(judged, reports, strict=True)
        if report.is_usable and one.findings.photo and one.subject
    )
    best = max(usable, key=lambda photo: photo.report.measures["score"], default=None)
    return Inspection(tuple(reports), usable, best)


@dataclass(frozen=True)
class _Person:
    """Whom the set is about."""

    group: identify.Group
    embeddings: list[Embedding]
    recogniser: FaceRecogniser

    def likeness_of(self, found: FoundFace) -> float:
        """Mean likeness to the person's other photos: 1 for the only photo there is, 0 if there is no such person."""
        others = [e for e in self.embeddings if e is not found.embedding]
        if not others:
            return 1.0 if self.embeddings else 0.0
        return float(np.mean([self.recogniser.likeness(found.embedding, e) for e in others]))


@dataclass(frozen=True)
class _Judged:
    findings: PhotoFindings
    subject: FoundFace | None
    report: PhotoReport


def _first_impression(item: PhotoFindings) -> PhotoReport:
    """The report on the photo alone, as if its largest face were the subject's."""
    return _quality_report(item, item.faces[0] if item.faces else None)


def _quality_report(item: PhotoFindings, face: FoundFace | None) -> PhotoReport:
    measures = face.measures.as_dict() if face else {}
    if item.refusal or face is None:
        return PhotoReport(item.file, Verdict.REFUSED, item.refusal or Reason.NO_FACE, measures)
    verdict, reason = quality.verdict(face.measures, PhotoLimits())
    return PhotoReport(item.file, verdict, reason, measures)


def _judge_one(item: PhotoFindings, person: _Person) -> _Judged:
    """One photo's report before duplicates. A photo refused for its quality keeps that reason."""
    if item.refusal or not item.faces:
        return _Judged(item, None, _first_impression(item))
    needed = person.group.needed
    subject = max(item.faces, key=person.likeness_of)
    if person.likeness_of(subject) < needed:
        subject = item.faces[0]
    alike = person.likeness_of(subject)
    report = _quality_report(item, subject)
    score = quality.score(subject.measures) * max(alike, 0.0)
    report = replace(report, measures={**report.measures, "likeness": round(alike, 4), "score": round(score, 4)})
    if not report.is_usable:
        return _Judged(item, subject, report)
    if alike < needed:
        report = replace(report, verdict=Verdict.REFUSED, reason=Reason.NOT_SAME_PERSON)
    elif alike < needed + CLEARLY_THE_PERSON or person.group.is_doubtful:
        report = replace(report, verdict=Verdict.WARNING, reason=Reason.NOT_SAME_PERSON)
    return _Judged(item, subject, report)


def _duplicates(judged: Sequence[_Judged]) -> list[int]:
    """Places of the usable photos that show the same shot as a better one."""

    def worse(i: int) -> tuple[float, float, int]:
        measures = judged[i].report.measures
        return -measures["width_px"], -measures["score"], i

    kept: list[int] = []
    again: list[int] = []
    for i in sorted((i for i, one in enumerate(judged) if one.report.is_usable), key=worse):
        same = any(_is_same_shot(judged[i].findings, judged[j].findings) for j in kept)
        (again if same else kept).append(i)
    return again


def _is_same_shot(a: PhotoFindings, b: PhotoFindings) -> bool:
    """Whether two photos are one shot, resized, recompressed, brightened or mirrored."""
    if a.thumbnail is None or b.thumbnail is None or abs(np.log(a.aspect / b.aspect)) > SAME_ASPECT:
        return False
    return bool(max((a.thumbnail * b.thumbnail).sum(), (a.thumbnail * b.thumbnail[:, ::-1]).sum()) > SAME_SHOT)


def _thumbnail(rgb: Rgb) -> np.ndarray:
    grey = cv2.cvtColor(cv2.resize(rgb, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    centred = grey.astype(np.float32) - grey.mean()
    return np.asarray(centred / max(float(np.linalg.norm(centred)), 1e-6), np.float32)
