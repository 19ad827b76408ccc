"""The boxes of figure 2 as they are called for one request: with its numbers, its clock and what it has to say.

In which order they are called stands in `engine/portraits.py` alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.config import FewStepLora, PortraitConfig
from engine.crop import Crop, blend, mixed, shrunk
from engine.errors import FusionFailed
from engine.looks import Candidate, Look, Rim, Scores, WorkedFace, mean_likeness
from engine.parsing import grown, hidden
from engine.profiles import Profile
from engine.progress import Progress, Report, Stage, Stopwatch
from engine.stages import control, enhance, fuse, guard, harmonise, inpaint, join, makeup, paste_back
from engine.stages.reference import Reference, ranked_references
from engine.stages.template import LONGEST
from engine.subject import Subject
from engine.types import Embedding, Face, Mask, Rgb

if TYPE_CHECKING:
    from engine.diffusion import Control
    from engine.lora import State

WORTH = 0.3  # how much what a reference is worth counts beside its fusion's likeness: a strange light looks odd
# Of how many references a fusion is tried, how much less than the best one they may be worth, and how wide the face is
# meanwhile. On 72 pairs of people and templates nothing beyond was ever taken; at full width 94 % choose the same.
TRIED, NEARLY_AS_GOOD, TRIAL_WIDTH = 3, 0.15, 160


@dataclass
class Steps:
    """One request. `notes` say what was not done and why."""

    profile: Profile
    config: PortraitConfig
    report: Report
    part: int = 0  # which of the faces is worked on,
    parts: int = 1  # of how many
    watch: Stopwatch = field(default_factory=Stopwatch)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        self.tell(stage, 0, 1)
        with self.watch.timing(stage):
            yield
        self.tell(stage, 1, 1)

    def tell(self, stage: Stage, done: int, total: int) -> None:
        self.report(Progress(stage, done, total, part=self.part, parts=self.parts))

    @contextmanager
    def lora(self, subject: Subject, reference: Reference) -> Iterator[None]:
        """The diffusion works with the subject's LoRA inside, and with whatever else is to know them; nothing is loaded
        when neither pass is wanted."""
        with ExitStack() as stack:
            if self.config.paints:
                for lora, weight in self._loras(subject):
                    from engine.lora import applied

                    with self.watch.timing("lora"):
                        stack.enter_context(applied(self.profile.diffusion, lora, weight))
                self._show_face(stack, reference)
            yield

    def _loras(self, subject: Subject) -> Iterator[tuple[Path | State, float]]:
        config, profile = self.config, self.profile
        if config.few_step_lora is not FewStepLora.NONE:
            yield profile.few_step_lora(config.few_step_lora), 1.0
        if config.film_lora_weight > 0:
            if profile.film_lora is None:
                self.notes.append("no film look: the profile has no LoRA for it")
            else:
                yield profile.film_lora, config.film_lora_weight
        if subject.lora is None:
            self.notes.append("no LoRA: the diffusion does not know the subject")
        else:
            yield subject.lora, config.lora_weight

    def _show_face(self, stack: ExitStack, reference: Reference) -> None:
        config, profile = self.config, self.profile
        if config.ip_adapter_weight == 0:
            return
        if profile.ip_adapter is None:
            self.notes.append("no IP-Adapter: the profile has none")
            return
        from engine.models.ip_adapter import face_picture

        shown = face_picture(reference.rgb, reference.face, profile.parse)
        is_guided = config.guidance != 1
        stack.enter_context(profile.ip_adapter.applied(profile.diffusion, shown, config.ip_adapter_weight, is_guided))

    def reference(self, before: Look, subject: Subject) -> Reference:
        """Of the references that suit the template best, the one whose fusion is most like the *other* photos."""
        profile = self.profile
        ranked = ranked_references(subject.references, before.rgb, before.face, profile.recogniser)[:TRIED]
        promising = [(worth, r) for worth, r in ranked if worth >= ranked[0][0] - NEARLY_AS_GOOD]
        if not self.config.fusion_before or len(promising) == 1:
            return ranked[0][1]
        small = shrunk(before.rgb.shape, min(1.0, TRIAL_WIDTH / before.face.width))
        rgb, face = small.cut(before.rgb), small.moved_face(before.face)
        fused: list[tuple[float, Reference, Rgb]] = []
        for worth, reference in promising:
            with suppress(FusionFailed):
                fused.append((worth, reference, profile.fuser(rgb, face, reference.rgb, reference.face)))
        seen = [(fusion, fuse.nearest_face(fusion, face, profile.detector)) for _, _, fusion in fused]
        scores = [
            mean_likeness(own, subject.known(reference), profile.recogniser) + WORTH * worth
            for (worth, reference, _), own in zip(fused, profile.recogniser.embed_all(seen), strict=True)
        ]
        return fused[int(np.argmax(scores))][1] if fused else ranked[0][1]

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

    def makeup(self, look: Look, before: Look) -> Look:
        config = self.config
        if not config.makeup_transfer:
            return look
        rgb = makeup.made_up(look.rgb, look.parts, before.rgb, before.parts, look.face.width, config.makeup_ratio)
        return replace(look, rgb=rgb)

    def first_diffusion(self, look: Look, subject: Subject) -> list[Look]:
        """As many candidates as are wanted; the look itself when the pass is switched off."""
        config = self.config
        if not config.first_diffusion:
            self.notes.append("first diffusion switched off")
            return [look]
        crop = self.profile.portrait_crop(look.rgb, look.face)
        posed = control.posed(look.face, subject.digital_id, look.rgb.shape)
        pictures = self.profile.control_pictures
        controls = control.first_controls(crop.cut(look.rgb), crop.moved_face(posed), pictures, config)
        numbers = self.numbers(subject.trigger, config.first_steps, config.first_strength, config.candidates)
        if not config.face_shape_match:
            mask = inpaint.first_mask(look.parts, look.face) * (1 - hidden(look.rgb, look.face))
            return self.painted(Stage.FIRST_DIFFUSION, look, mask, crop, controls, numbers)
        everywhere = np.ones(look.rgb.shape[:2], np.float32)
        shaped = self.painted(Stage.FIRST_DIFFUSION, look, everywhere, crop, controls, numbers)
        return [replace(new, rgb=blend(look.rgb, new.rgb, inpaint.soft_face(new.parts, new.face))) for new in shaped]

    def second_diffusion(self, look: Look, subject: Subject) -> Look:
        config = self.config
        if not config.second_diffusion:
            self.notes.append("second diffusion switched off")
            return look
        crop = self.profile.portrait_crop(look.rgb, look.face)
        controls = control.second_controls(crop.cut(look.rgb), self.profile.control_pictures, config)
        mask = inpaint.second_mask(look.parts, look.face) * (1 - hidden(look.rgb, look.face))
        numbers = self.numbers(subject.trigger, config.second_steps, config.second_strength, 1)
        return self.painted(Stage.SECOND_DIFFUSION, look, mask, crop, controls, numbers)[0]

    def numbers(self, trigger: str, steps: int, strength: float, count: int = 1) -> inpaint.Pass:
        config = self.config
        prompt = ", ".join(p for p in (trigger, config.prompt, self.profile.positive) if p)
        negative = ", ".join(p for p in (config.negative_prompt, self.profile.negative) if p)
        return inpaint.Pass(
            prompt, negative, steps, strength, config.guidance, config.seed, count, config.few_step_lora
        )

    def painted(
        self,
        stage: Stage,
        look: Look,
        mask: Mask,
        crop: Crop,
        controls: tuple[Control, ...],
        numbers: inpaint.Pass,
    ) -> list[Look]:
        with self.watch.timing(stage):
            rgbs = self.diffused(stage, look.rgb, mask, crop, controls, numbers)
            if self.config.hold_colours:
                rgbs = [harmonise.colours_held(rgb, look.rgb, look.face.width) for rgb in rgbs]
            return [Look.of(rgb, look.face, self.profile) for rgb in rgbs]

    def diffused(
        self,
        stage: Stage,
        rgb: Rgb,
        mask: Mask,
        crop: Crop,
        controls: tuple[Control, ...],
        numbers: inpaint.Pass,
    ) -> list[Rgb]:
        def on_step(done: int, total: int) -> None:
            self.tell(stage, done, total)

        return inpaint.painted(rgb, mask, crop, controls, self.profile.diffusion, numbers, on_step)

    def guarded(self, look: Look, fused: Look, rim: Rim, known: Sequence[Embedding]) -> tuple[Look, float]:
        """`look` scaled back towards `fused`, its rim matched, both as far as likeness to `known` allows; and how much
        of the diffusions' change that left."""
        with self.watch.timing(Stage.ENHANCE):
            least = fused.likeness(known)
            share = 1.0
            if self.config.paints:
                look, share = _kept(fused, look, known, least + guard.MARGIN)
            if self.config.color_shift_last:
                matched = replace(look, rgb=rim.matched(look.rgb, look.face))
                look, _ = _kept(look, matched, known, min(least, look.likeness(known)) - guard.MARGIN)
        if share < 1:
            self.notes.append(f"{share:.0%} of the diffusion's change kept: more would have cost likeness")
        return look, share

    def ranked(
        self, finished: Sequence[tuple[Look, float]], before: Look, rim: Rim, subject: Subject
    ) -> tuple[Candidate, ...]:
        """Best first. `finished` are the looks in the order of their seeds, with the shares that the guard left."""
        with self.watch.timing(Stage.ENHANCE):
            candidates = [
                Candidate(look, self.config.seed + k, share, Scores.of(look, before, rim, subject))
                for k, (look, share) in enumerate(finished)
            ]
        return tuple(sorted(candidates, key=lambda candidate: candidate.scores.worth, reverse=True))

    def harmonised(self, rgb: Rgb, template: Rgb, works: Sequence[WorkedFace]) -> Rgb:
        """One pass over the joins of everybody who was put into `rgb`, and the colours of all rims matched together; as
        much of it as makes nothing worse."""
        config, profile = self.config, self.profile
        piece = join.piece_of_all([work.face for work in works], rgb.shape, LONGEST)
        picture, before = piece.cut(rgb), piece.cut(template)

        def cut(work: WorkedFace, mask: Mask) -> Mask:
            return piece.cut_mask(work.piece.lift(mask, rgb.shape))

        allowed = np.maximum.reduce([cut(work, work.mask) for work in works])
        seen = [Look.of(picture, piece.moved_face(work.face), profile) for work in works]
        canvas = join.canvas(picture.shape, profile.whole_side)
        controls = control.whole_controls(canvas.cut(picture), profile.control_pictures)
        mask = join.band([(look.face, look.parts) for look in seen], allowed)
        numbers = self.numbers("", config.harmonise_steps, config.harmonise_strength)
        (painted,) = self.diffused(Stage.HARMONISE, picture, mask, canvas, controls, numbers)
        rims = [Rim(before, cut(work, work.rim.face), cut(work, work.rim.skin)) for work in works]
        for look, rim in zip(seen, rims, strict=True):
            painted = rim.matched(painted, look.face)
        known = [[reference.embedding for reference in work.subject.references] for work in works]

        def is_better(share: float) -> bool:
            """No seam larger on average, nobody less like themselves."""
            rgb = blend(picture, painted, allowed * share)
            if np.mean([rim.seam(rgb) for rim in rims]) > np.mean([rim.seam(picture) for rim in rims]):
                return False
            return all(
                replace(look, rgb=rgb).likeness(of) >= look.likeness(of) - guard.MARGIN
                for look, of in zip(seen, known, strict=True)
            )

        share = guard.share_that_keeps(is_better, True)
        if share < 1:
            self.notes.append(f"{share:.0%} of the harmonising pass kept: more would have cost likeness or left a seam")
        return paste_back.pasted_back(rgb, piece, blend(picture, painted, allowed * share), allowed)

    def background_restored(self, rgb: Rgb, faces: Sequence[Face]) -> Rgb:
        """All but the faces painted once more: the reference's way to one light over a whole picture."""
        config, profile = self.config, self.profile
        canvas = join.canvas(rgb.shape, profile.whole_side)
        controls = control.whole_controls(canvas.cut(rgb), profile.control_pictures)
        kept = [profile.parse(rgb, fuse.nearest_face(rgb, face, profile.detector)).face for face in faces]
        mask = (1 - np.maximum.reduce(kept)).astype(np.float32)
        numbers = self.numbers("", config.background_steps, config.background_strength)
        return self.diffused(Stage.HARMONISE, rgb, mask, canvas, controls, numbers)[0]

    def enhanced(self, rgb: Rgb, faces: Sequence[Face]) -> Rgb:
        """Skin of `faces` retouched, the picture enlarged, as far as either is wanted."""
        profile, config = self.profile, self.config
        for expected in faces if config.skin_retouch else ():
            rgb = profile.retoucher(rgb, fuse.nearest_face(rgb, expected, profile.detector))
        return (
            enhance.enhanced(rgb, profile.enhancer, config.super_resolution_ratio) if config.super_resolution else rgb
        )


def _kept(below: Look, above: Look, known: Sequence[Embedding], least: float) -> tuple[Look, float]:
    """As much of the change from `below` to `above` as leaves the likeness at `least`, and how much that is."""
    tried = {0.0: below, 1.0: above}

    def likeness(share: float) -> float:
        if share not in tried:
            tried[share] = replace(above, rgb=mixed(below.rgb, above.rgb, share))
        return tried[share].likeness(known)

    share = guard.share_that_keeps(likeness, least)
    return tried[share], share
