"""Figure 2: a subject's LoRA and photos, and a template, become a portrait. The stages, in order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine import metrics
from engine.config import TRIGGER, PortraitConfig
from engine.crop import Crop, blend
from engine.errors import FusionFailed, UnreadablePicture
from engine.images import read_photo
from engine.parsing import FaceParts, grown, skin_of
from engine.profiles import Profile
from engine.progress import Progress, Report, Stage, Stopwatch, silent
from engine.provenance import write_portrait
from engine.stages import control, enhance, fuse, guard, harmonise, inpaint, paste_back
from engine.stages.reference import Reference, ranked_references
from engine.stages.template import template_faces, working_crop
from engine.types import Embedding, Face, Mask, Photo, Rgb, SubjectFiles

if TYPE_CHECKING:
    from engine.diffusion import Control

TRIED = 4  # references of which a fusion is tried before one is taken
WORTH = 0.3  # how much what a reference is worth counts beside that: a strange light is alike, but looks odd
TEMPLATE_SIDE = 4096  # px, longest side at which a template is read


@dataclass(frozen=True)
class PortraitReport:
    """One finished portrait and what was measured on the way. Likeness: 1 is identical (see FaceRecogniser)."""

    portrait: Rgb
    others: tuple[Rgb, ...]  # further candidates, best first
    faces: int  # in the template
    likeness: dict[str, float | None]  # of "template", "fused" and "final"
    encoder: str
    compared_to: tuple[str, ...]  # files of the photos that likeness is measured against
    changed_outside_mask: int  # pixels, before enlargement
    seam: dict[str, float]  # ΔE: what "fused" and "final" add at the face's rim, and the "template"'s own step there
    diffusion_share: float  # 1: all that the passes changed stayed; less where that would have cost likeness
    seconds: dict[str, float]
    notes: tuple[str, ...]

    def as_json(self, portrait: Path) -> dict[str, Any]:
        height, width = self.portrait.shape[:2]
        return {
            "portrait": str(portrait),
            "faces": self.faces,
            "likeness": {**self.likeness, "encoder": self.encoder, "to": list(self.compared_to)},
            "changed_outside_mask": self.changed_outside_mask,
            "seam": self.seam["final"],
            "seam_fused": self.seam["fused"],
            "seam_template": self.seam["template"],
            "diffusion_share": self.diffusion_share,
            "seconds": self.seconds,
            "size": [width, height],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Subject:
    """What portraits need of a trained subject, read from its folder."""

    files: SubjectFiles
    references: tuple[Reference, ...]
    digital_id: Reference
    trigger: str
    held_out: tuple[Embedding, ...]  # of photos that took no part in training; of the references where there are none
    held_out_files: tuple[str, ...]

    def known(self, shown: Reference) -> list[Embedding]:
        """Of the reference photos but the one `shown`: its fusion would be too much like it to be judged by it."""
        return [r.embedding for r in self.references if r.embedding is not shown.embedding] or [shown.embedding]

    @staticmethod
    def read(files: SubjectFiles, profile: Profile) -> Subject:
        """Raises `UnreadablePicture` for a folder without a usable reference photo."""
        info = json.loads(files.info.read_text(encoding="utf-8")) if files.info.is_file() else {}
        paths = sorted(files.references.glob("*.jpg")) or [files.reference]
        references = tuple(r for path in paths if (r := _reference(path, profile)))
        if not references:
            raise UnreadablePicture(files.reference.name, "no face in the subject's photos")
        digital_id = _reference(files.digital_id, profile) if files.digital_id.is_file() else None
        held_out = info.get("held_out") or []
        return Subject(
            files=files,
            references=references,
            digital_id=digital_id or references[0],
            trigger=info.get("trigger", TRIGGER),
            held_out=tuple(np.array(h["embedding"], np.float32) for h in held_out)
            or tuple(r.embedding for r in references),
            held_out_files=tuple(h["file"] for h in held_out) or tuple(path.name for path in paths),
        )


def make_portrait_file(
    subject: Path, template: Path, out: Path, profile: Profile, config: PortraitConfig, report: Report = silent
) -> dict[str, Any]:
    """A portrait from a subject's folder and a template's file, written to `out` (JPEG); what was measured, as JSON."""
    result = make_portraits(SubjectFiles(subject), read_photo(template, TEMPLATE_SIDE), profile, config, report)
    write_portrait(out, result.portrait)
    return result.as_json(out)


def make_portraits(
    files: SubjectFiles, template: Photo, profile: Profile, config: PortraitConfig, report: Report = silent
) -> PortraitReport:
    """The subject in the template's largest face: figure 2, stage by stage.

    Raises `NoFaceInTemplate`, `UnreadablePicture`, `MissingWeights`, `OutOfGpuMemory`, `Stopped`. A face fusion that
    cannot be done is skipped and noted.
    """
    run = _Run(profile, config, report)
    with run.stage(Stage.TEMPLATE):
        subject = Subject.read(files, profile)
        faces = template_faces(template.rgb, profile.detector)
        piece = working_crop(template.rgb, faces[0], config.crop_scale if config.crop_face_preprocess else None)
        before = Look.of(piece.cut(template.rgb), piece.moved_face(faces[0]), profile)
    with run.stage(Stage.FUSE):
        reference = run.reference(before, subject)
        fused = run.fusion(before, reference, config.fusion_before, config.fusion_before_ratio)
    finished = []
    with run.lora(subject):
        for first in run.first_diffusion(fused, subject):
            shifted = run.colour_shift(first, before, config.color_shift_middle, with_lips=True)
            with run.stage(Stage.SECOND_FUSION):
                again = run.fusion(shifted, reference, config.fusion_after, config.fusion_after_ratio)
            second = run.second_diffusion(again, subject)
            finished.append(run.colour_shift(second, before, config.color_shift_last, with_lips=False))
    rim = Rim.of(before, fused)
    known = subject.known(reference)
    finished = [run.guarded(look, fused, rim, known) for look in finished]
    ranked = run.ranked(finished, subject, before, rim)
    others = [profile.parse(before.rgb, piece.moved_face(face)) for face in faces[1:]]
    mask = paste_back.edit_mask(before.parts, fused.parts, before.face, others)
    pasted = [paste_back.pasted_back(template.rgb, piece, look.rgb, mask) for look in ranked]
    with run.stage(Stage.ENHANCE):
        portraits = [run.enhanced(rgb, faces[0]) for rgb in pasted]
    looks = {
        "template": before,
        "fused": replace(fused, rgb=blend(before.rgb, fused.rgb, mask)),
        "final": replace(ranked[0], rgb=piece.cut(pasted[0])),
    }
    return PortraitReport(
        portrait=portraits[0],
        others=tuple(portraits[1:]),
        faces=len(faces),
        likeness={name: run.likeness(look, subject.held_out) for name, look in looks.items()},
        encoder=profile.recogniser.name,
        compared_to=subject.held_out_files,
        changed_outside_mask=metrics.changed_pixels(template.rgb, pasted[0], piece.lift(mask, template.rgb.shape) <= 0),
        seam={name: rim.seam(look.rgb) for name, look in looks.items() if name != "template"}
        | {"template": round(metrics.natural_step(before.rgb, rim.face, rim.skin), 2)},
        diffusion_share=run.shares[id(ranked[0])],
        seconds=run.watch.seconds,
        notes=tuple(run.notes),
    )


@dataclass(frozen=True)
class Look:
    """The working picture at one point of the pipeline, with the face in it and the face's parts."""

    rgb: Rgb
    face: Face
    parts: FaceParts

    @staticmethod
    def of(rgb: Rgb, expected: Face, profile: Profile) -> Look:
        """`expected` is where the face should be; where exactly it is, is looked for."""
        face = fuse.nearest_face(rgb, expected, profile.detector)
        return Look(rgb, face, profile.parse(rgb, face))


@dataclass(frozen=True)
class Rim:
    """Where the new face meets the template: the edge of both faces, and the template's skin across it."""

    template: Rgb
    face: Mask
    skin: Mask

    @staticmethod
    def of(before: Look, fused: Look) -> Rim:
        skin = skin_of(before.rgb, before.face)
        return Rim(before.rgb, np.maximum(before.parts.face, fused.parts.face), skin)

    def seam(self, rgb: Rgb) -> float:
        return round(metrics.seam(rgb, self.template, self.face, self.skin), 2)

    def matched(self, rgb: Rgb, face: Face) -> Rgb:
        return harmonise.rim_matched(rgb, self.template, self.face, self.skin, skin_of(rgb, face), face.width)


@dataclass
class _Run:
    """One call: its numbers, its clock and what it has to say."""

    profile: Profile
    config: PortraitConfig
    report: Report
    watch: Stopwatch = field(default_factory=Stopwatch)
    notes: list[str] = field(default_factory=list)
    shares: dict[int, float] = field(default_factory=dict)  # of the diffusions' change that a finished look kept

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        self.report(Progress(stage, 0, 1))
        with self.watch.timing(stage):
            yield
        self.report(Progress(stage, 1, 1))

    def lora(self, subject: Subject) -> AbstractContextManager[object]:
        """The diffusion works with the subject's LoRA inside; nothing is loaded when neither pass is wanted."""
        if not (self.config.first_diffusion or self.config.second_diffusion):
            return nullcontext()
        if not subject.files.lora.is_file():
            self.notes.append("no LoRA: the diffusion does not know the subject")
            return nullcontext()
        from engine.lora import applied

        return applied(self.profile.diffusion, subject.files.lora, self.config.lora_weight)

    def reference(self, before: Look, subject: Subject) -> Reference:
        """Of the references that suit the template best, the one whose fusion is most like the *other* photos."""
        profile = self.profile
        ranked = ranked_references(subject.references, before.rgb, before.face, profile.recogniser)[:TRIED]
        if not self.config.fusion_before or len(subject.references) < 2:
            return ranked[0][1]

        def likeness(reference: Reference) -> float:
            try:
                rgb = profile.fuser(before.rgb, before.face, reference.rgb, reference.face)
            except FusionFailed:
                return -1.0
            return self.likeness(replace(before, rgb=rgb), subject.known(reference))

        return max(ranked, key=lambda tried: likeness(tried[1]) + WORTH * tried[0])[1]

    def fusion(self, look: Look, reference: Reference, wanted: bool, ratio: float) -> Look:
        if not wanted:
            return look
        profile = self.profile
        try:
            fusion = profile.fuser(look.rgb, look.face, reference.rgb, reference.face)
        except FusionFailed as failure:
            self.notes.append(f"face fusion skipped: {failure}")
            return look
        return Look.of(
            fuse.mixed(look.rgb, fusion, look.face, profile.detector, profile.parse, ratio), look.face, profile
        )

    def colour_shift(self, look: Look, before: Look, wanted: bool, with_lips: bool) -> Look:
        if not wanted:
            return look
        where = look.parts.face if with_lips else look.parts.face * (1 - grown(look.parts.lips, 0.02 * look.face.width))
        rgb = harmonise.colour_shifted(look.rgb, look.parts.skin, before.rgb, before.parts.skin, where)
        return replace(look, rgb=rgb)

    def first_diffusion(self, look: Look, subject: Subject) -> list[Look]:
        """As many candidates as are wanted; the look itself when the pass is switched off."""
        config = self.config
        if not config.first_diffusion:
            self.notes.append("first diffusion switched off")
            return [look]
        crop = self.profile.portrait_crop(look.rgb, look.face)
        posed = self.posed(look, subject.digital_id)
        pictures = self.profile.control_pictures
        controls = control.first_controls(
            crop.cut(look.rgb), crop.cut(posed.rgb), crop.moved_face(posed.face), pictures, config
        )
        mask = inpaint.first_mask(look.parts, look.face)
        numbers = self.numbers(subject, config.first_steps, config.first_strength, config.candidates)
        return self.painted(Stage.FIRST_DIFFUSION, look, mask, crop, controls, numbers)

    def second_diffusion(self, look: Look, subject: Subject) -> Look:
        config = self.config
        if not config.second_diffusion:
            self.notes.append("second diffusion switched off")
            return look
        crop = self.profile.portrait_crop(look.rgb, look.face)
        controls = control.second_controls(crop.cut(look.rgb), self.profile.control_pictures, config)
        mask = inpaint.second_mask(look.parts, look.face)
        numbers = self.numbers(subject, config.second_steps, config.second_strength, 1)
        return self.painted(Stage.SECOND_DIFFUSION, look, mask, crop, controls, numbers)[0]

    def posed(self, look: Look, digital_id: Reference) -> Look:
        """The picture with the digital ID pasted over the face; the look itself where the two heads differ too much."""
        if not control.is_posed_alike(look.face, digital_id.face):
            return look
        rgb = control.replaced(look.rgb, look.face, digital_id.rgb, digital_id.face)
        return replace(look, rgb=rgb, face=fuse.nearest_face(rgb, look.face, self.profile.detector))

    def numbers(self, subject: Subject, steps: int, strength: float, count: int) -> inpaint.Pass:
        config = self.config
        prompt = ", ".join(p for p in (subject.trigger, config.prompt, self.profile.positive) if p)
        negative = ", ".join(p for p in (config.negative_prompt, self.profile.negative) if p)
        return inpaint.Pass(prompt, negative, steps, strength, config.guidance, config.seed, count)

    def painted(
        self,
        stage: Stage,
        look: Look,
        mask: Mask,
        crop: Crop,
        controls: tuple[Control, ...],
        numbers: inpaint.Pass,
    ) -> list[Look]:
        def on_step(done: int, total: int) -> None:
            self.report(Progress(stage, done, total))

        with self.watch.timing(stage):
            rgbs = inpaint.painted(look.rgb, mask, crop, controls, self.profile.diffusion, numbers, on_step)
            return [Look.of(rgb, look.face, self.profile) for rgb in rgbs]

    def guarded(self, look: Look, fused: Look, rim: Rim, known: Sequence[Embedding]) -> Look:
        """`look` scaled back towards `fused`, its rim matched, both as far as likeness to `known` allows."""
        config = self.config
        with self.watch.timing(Stage.ENHANCE):
            least = self.likeness(fused, known)
            share = 1.0
            if config.first_diffusion or config.second_diffusion:
                look, share = self.kept(look, fused.rgb, look.rgb, known, least + guard.MARGIN)
            if config.color_shift_last:
                matched = rim.matched(look.rgb, look.face)
                look, _ = self.kept(
                    look, look.rgb, matched, known, min(least, self.likeness(look, known)) - guard.MARGIN
                )
        if share < 1:
            self.notes.append(f"{share:.0%} of the diffusion's change kept: more would have cost likeness")
        self.shares[id(look)] = share
        return look

    def kept(self, look: Look, below: Rgb, above: Rgb, known: Sequence[Embedding], least: float) -> tuple[Look, float]:
        """As much of the change from `below` to `above` as leaves the likeness at `least`, and how much that is."""

        def at(share: float) -> Look:
            return replace(look, rgb=blend(below, above, np.full(below.shape[:2], share, np.float32)))

        share = guard.share_that_keeps(lambda share: self.likeness(at(share), known), least)
        return at(share), share

    def likeness(self, look: Look, others: Sequence[Embedding]) -> float:
        """Mean over `others`."""
        recogniser = self.profile.recogniser
        face = fuse.nearest_face(look.rgb, look.face, self.profile.detector)
        own = recogniser.embed(look.rgb, face)
        return round(float(np.mean([recogniser.likeness(own, other) for other in others])), 4)

    def ranked(self, looks: Sequence[Look], subject: Subject, before: Look, rim: Rim) -> list[Look]:
        """Best first: likeness to the references x sharpness, at most the template's x freedom from a seam."""
        known = [reference.embedding for reference in subject.references]
        wanted = metrics.sharpness(before.rgb, before.parts.face)

        def worth(look: Look) -> float:
            quality = min(1.0, metrics.sharpness(look.rgb, look.parts.face) / max(wanted, 1e-3))
            return max(0.0, self.likeness(look, known)) * quality / (1 + rim.seam(look.rgb))

        return sorted(looks, key=worth, reverse=True) if len(looks) > 1 else list(looks)

    def enhanced(self, rgb: Rgb, expected: Face) -> Rgb:
        profile, config = self.profile, self.config
        if config.skin_retouch:
            rgb = profile.retoucher(rgb, fuse.nearest_face(rgb, expected, profile.detector))
        return (
            enhance.enhanced(rgb, profile.enhancer, config.super_resolution_ratio) if config.super_resolution else rgb
        )


def _reference(path: Path, profile: Profile) -> Reference | None:
    """The largest face of a photo of the subject; None without one."""
    rgb = read_photo(path).rgb
    face = next(iter(profile.detector(rgb)), None)
    return None if face is None else Reference(rgb, face, profile.recogniser.embed(rgb, face))
