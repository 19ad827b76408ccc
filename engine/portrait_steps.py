"""The boxes of figure 2 as they are called for one request: with its numbers, its clock and what it has to say.

In which order they are called stands in `engine/portraits.py` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from engine.config import FewStepLora, PortraitConfig
from engine.crop import blend, mixed, shrunk
from engine.errors import FusionFailed
from engine.looks import Candidate, Look, Rim, Scores, WorkedFace
from engine.parsing import above_brows, grown, hidden
from engine.profiles import Profile
from engine.progress import Progress, Report, Stage, Stopwatch
from engine.stages import control, enhance, fuse, guard, harmonise, inpaint, join, makeup, tone
from engine.stages.reference import Reference, ranked_references
from engine.stages.template import LONGEST
from engine.subject import Subject
from engine.types import Embedding, Face, Mask, Rgb, SubjectFiles

if TYPE_CHECKING:
    from engine.lora import State

WORTH = 0.3  # how much what a reference is worth counts beside its fusion's likeness: a strange light looks odd
# Of how many references a fusion is tried, how much less than the best one they may be worth, and how wide the face is
# meanwhile. On 72 pairs of people and templates nothing beyond was ever taken; at full width 94 % choose the same, and
# with the first one at full width all of 36.
TRIED, NEARLY_AS_GOOD, TRIAL_WIDTH = 3, 0.15, 160

One = TypeVar("One")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Try:
    """A reference that may be the one to take."""

    worth: float
    reference: Reference
    fused: Callable[[], Look]  # the picture with its face, large or small; raises FusionFailed

    def score(self, subject: Subject) -> float:
        """How good a choice it is; below all others if it cannot be taken."""
        try:
            return self.fused().likeness(subject.known(self.reference)) + WORTH * self.worth
        except FusionFailed:
            return -inf


@dataclass
class Steps:
    """One request. `notes` say what was not done and why.

    `beside` are threads for work that nothing waits for yet, and for what is done to several pictures alike. Neither
    may change anything that others look at, and beside a diffusion's pass nothing may use the GPU, whose work is being
    recorded.
    """

    profile: Profile
    config: PortraitConfig
    report: Report
    beside: ThreadPoolExecutor
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

    def each(self, do: Callable[[One], Made], of: Sequence[One]) -> list[Made]:
        """What `do` makes of each, side by side, in their order."""
        return [do(one) for one in of] if len(of) == 1 else list(self.beside.map(do, of))

    def sitter(self, who: SubjectFiles | Subject) -> Future[Subject]:
        """Being read, where it is not in memory yet."""
        return self.beside.submit(lambda: who if isinstance(who, Subject) else Subject.read(who, self.profile))

    def loras(self, subject: Subject) -> list[tuple[Future[State], float]]:
        """Whatever the diffusion is to know, being read, and its weight; nothing when neither pass is wanted."""
        config, profile = self.config, self.profile
        wanted: list[tuple[Callable[[], State], float]] = []
        if not config.paints:
            return []
        if config.few_step_lora is not FewStepLora.NONE:
            wanted.append((partial(profile.few_step_lora, config.few_step_lora), 1.0))
        if config.film_lora_weight > 0:
            if profile.film_lora is None:
                self.notes.append("no film look: the profile has no LoRA for it")
            else:
                wanted.append((partial(_read, profile.film_lora, profile), config.film_lora_weight))
        if subject.lora is None:
            self.notes.append("no LoRA: the diffusion does not know the subject")
        else:
            wanted.append((partial(_read, subject.lora, profile), config.lora_weight))
        if wanted:
            _ = profile.diffusion  # loaded here: of several threads that ask for it at once, each could load it
        return [(self.beside.submit(read), weight) for read, weight in wanted]

    @contextmanager
    def lora(self, loras: Sequence[tuple[Future[State], float]]) -> Iterator[None]:
        """The diffusion works with these LoRAs inside."""
        with ExitStack() as stack:
            for state, weight in loras:
                from engine.lora import applied

                with self.watch.timing("lora"):
                    stack.enter_context(applied(self.profile.diffusion, state.result(), weight))
            yield

    @contextmanager
    def shown(self, reference: Reference) -> Iterator[None]:
        """The diffusion is shown the face itself inside, where it is to be."""
        config, profile = self.config, self.profile
        if config.ip_adapter_weight == 0 or not config.paints:
            yield
        elif profile.ip_adapter is None:
            self.notes.append("no IP-Adapter: the profile has none")
            yield
        else:
            from engine.models.ip_adapter import face_picture

            picture, is_guided = face_picture(reference.rgb, reference.face, profile.parse), config.guidance != 1
            with profile.ip_adapter.applied(profile.diffusion, picture, config.ip_adapter_weight, is_guided):
                yield

    def tries(self, before: Look, subject: Subject) -> list[Try]:
        """The references that suit the template best, best first. Where a fusion is wanted theirs are begun: the first
        one's as large as it will be needed if it stays the best one, as nine of ten do, the others' small."""
        ranked = ranked_references(subject.references, before.rgb, before.face, self.profile.recogniser, TRIED)
        if not self.config.fusion_before:
            return [Try(*ranked[0], lambda: before)]
        (best, first), *others = [(worth, r) for worth, r in ranked if worth >= ranked[0][0] - NEARLY_AS_GOOD]

        def begun(rgb: Rgb, face: Face, reference: Reference) -> Callable[[], Look]:
            return self.beside.submit(self._fused, rgb, face, reference, is_judged=bool(others)).result

        tries = [Try(best, first, begun(before.rgb, before.face, first))]
        if others:
            small = shrunk(before.rgb.shape, min(1.0, TRIAL_WIDTH / before.face.width))
            rgb, face = small.cut(before.rgb), small.moved_face(before.face)
            tries += [Try(worth, r, begun(rgb, face, r)) for worth, r in others]
        return tries

    def first_fusion(self, before: Look, subject: Subject, tries: Sequence[Try]) -> tuple[Reference, Look]:
        """Of the `tries` the reference whose fusion is most like the *other* photos, and the picture with its face."""
        chosen = first = tries[0]
        if not self.config.fusion_before:
            return first.reference, before
        if len(tries) > 1:
            chosen = max(tries, key=lambda one: one.score(subject))
        again = partial(self._fused, before.rgb, before.face, chosen.reference)
        fusion = chosen.fused if chosen is first else again
        return chosen.reference, self._mixed(before, fusion, self.config.fusion_before_ratio)

    def fusion(self, look: Look, reference: Reference, wanted: bool, ratio: float) -> Look:
        return self._mixed(look, partial(self._fused, look.rgb, look.face, reference), ratio) if wanted else look

    def _fused(self, rgb: Rgb, face: Face, reference: Reference, is_judged: bool = False) -> Look:
        """Wholly the reference's face, its embedding made if it `is_judged`. Raises FusionFailed."""
        fusion = self.profile.fuser(rgb, face, reference.rgb, reference.face)
        look = Look.of(tone.toned(fusion, rgb, face), face, self.profile)
        if is_judged:
            _ = look.embedding
        return look

    def _mixed(self, look: Look, fused: Callable[[], Look], ratio: float) -> Look:
        """As much of the fusion as is wanted; where it fails that is noted, and the look stays as it is."""
        try:
            fusion = fused()
        except FusionFailed as failure:
            self.notes.append(f"face fusion skipped: {failure}")
            return look
        if ratio >= 1:
            return fusion
        rgb = fuse.mixed(look.rgb, fusion.rgb, look.parts, fusion.parts, ratio)
        return Look.of(rgb, look.face, self.profile)

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
        numbers = self.numbers(subject.trigger, config.first_steps, config.first_strength, config.candidates)

        def canvas(look: Look) -> inpaint.Canvas:
            crop = self.profile.portrait_crop(look.rgb, look.face)
            posed = control.posed(look.face, subject.digital_id, look.rgb.shape)
            pictures = self.profile.control_pictures
            shown = crop.cut(look.rgb)
            controls = control.first_controls(shown, crop.moved_face(posed), pictures, config)
            if config.face_shape_match:
                mask = np.ones(look.rgb.shape[:2], np.float32)
            else:
                mask = _without_spared(inpaint.first_mask(look.parts, look.face), look, subject)
            return inpaint.Canvas.of(look.rgb, mask, crop, shown, controls, numbers)

        painted = self.painted(Stage.FIRST_DIFFUSION, [look], canvas)
        if not config.face_shape_match:
            return painted
        return [replace(new, rgb=blend(look.rgb, new.rgb, inpaint.soft_face(new.parts, new.face))) for new in painted]

    def second_diffusion(self, looks: Sequence[Look], subject: Subject) -> list[Look]:
        """Each of `looks`, healed."""
        config = self.config
        if not config.second_diffusion:
            self.notes.append("second diffusion switched off")
            return list(looks)
        numbers = self.numbers(subject.trigger, config.second_steps, config.second_strength, 1)

        def canvas(look: Look) -> inpaint.Canvas:
            crop = self.profile.portrait_crop(look.rgb, look.face)
            shown = crop.cut(look.rgb)
            controls = control.second_controls(shown, self.profile.control_pictures, config)
            mask = _without_spared(inpaint.second_mask(look.parts, look.face), look, subject)
            return inpaint.Canvas.of(look.rgb, mask, crop, shown, controls, numbers)

        return self.painted(Stage.SECOND_DIFFUSION, looks, canvas)

    def numbers(self, trigger: str, steps: int, strength: float, count: int = 1) -> inpaint.Pass:
        config = self.config
        prompt = ", ".join(p for p in (trigger, config.prompt, self.profile.positive) if p)
        negative = ", ".join(p for p in (config.negative_prompt, self.profile.negative) if p)
        return inpaint.Pass(
            prompt, negative, steps, strength, config.guidance, config.seed, count, config.few_step_lora
        )

    def painted(self, stage: Stage, looks: Sequence[Look], canvas_of: Callable[[Look], inpaint.Canvas]) -> list[Look]:
        """What the diffusion makes of each of `looks` on its canvas, which may be several versions."""
        with self.watch.timing(stage):
            canvases = self.each(canvas_of, looks)
            paintings = [
                self.profile.diffusion.painting(canvas.request, partial(self.tell, stage)) for canvas in canvases
            ]
            weights = self.each(lambda pair: pair[0].weight(pair[1]), list(zip(canvases, paintings, strict=True)))
            versions = [
                (look, partial(canvas.back, result, painting, weight))
                for look, canvas, painting, weight in zip(looks, canvases, paintings, weights, strict=True)
                for result in painting.pictures
            ]

            def seen(version: tuple[Look, Callable[[], Rgb]]) -> Look:
                look, back = version
                rgb = back()
                if self.config.hold_colours:
                    rgb = harmonise.colours_held(rgb, look.rgb, look.face.width)
                return Look.of(tone.toned(rgb, look.rgb, look.face), look.face, self.profile)

            return self.each(seen, versions)

    def diffused(self, canvas: inpaint.Canvas, face: Face) -> Rgb:
        """A whole picture, harmonised; `face` is one of its faces."""
        painted = inpaint.painted(canvas, self.profile.diffusion, partial(self.tell, Stage.HARMONISE))[0]
        return tone.toned(painted, canvas.picture, face)

    def guarded(
        self, look: Look, fused: Look, least: float, rim: Rim, known: Sequence[Embedding]
    ) -> tuple[Look, float]:
        """`look` scaled back towards `fused`, its rim matched, both as far as likeness to `known` allows, which is
        `least` for `fused`; and how much of the diffusions' change that left."""
        share = 1.0
        if self.config.paints:
            look, share = _kept(fused, look, known, least + guard.MARGIN)
        if self.config.color_shift_last:
            matched = replace(look, rgb=rim.matched(look.rgb, look.face))
            look, _ = _kept(look, matched, known, min(least, look.likeness(known)) - guard.MARGIN)
        return look, share

    def ranked(
        self, finished: Sequence[tuple[Look, float]], before: Look, rim: Rim, subject: Subject
    ) -> tuple[Candidate, ...]:
        """Best first. `finished` are the looks in the order of their seeds, with the shares that the guard left."""
        scores = self.each(lambda one: Scores.of(one[0], before, rim, subject), finished)
        candidates = [
            Candidate(look, self.config.seed + k, share, score)
            for k, ((look, share), score) in enumerate(zip(finished, scores, strict=True))
        ]
        self.notes += [
            f"{share:.0%} of the diffusion's change kept: more would have cost likeness"
            for _, share in finished
            if share < 1
        ]
        return tuple(sorted(candidates, key=lambda candidate: candidate.scores.worth, reverse=True))

    def harmonised(self, rgb: Rgb, works: Sequence[WorkedFace]) -> Rgb:
        """One pass over the joins of everybody who was put into `rgb`; as much of it as makes nothing worse.

        Each rim was matched before; matched once more, what the pass paints would pass for better, and light specks
        show where a rim has little skin.
        """
        config, profile = self.config, self.profile
        piece = join.piece_of_all([work.face for work in works], rgb.shape, LONGEST)
        picture = piece.cut(rgb)
        allowed = np.maximum.reduce([work.piece.lift(work.mask, rgb.shape) for work in works])
        seen = [Look.of(picture, piece.moved_face(work.face), profile) for work in works]
        canvas = join.canvas(picture.shape, profile.whole_side)
        shown = canvas.cut(picture)
        controls = control.whole_controls(shown, profile.control_pictures)
        mask = join.band([(look.face, look.parts) for look in seen], piece.cut_mask(allowed))
        numbers = self.numbers("", config.harmonise_steps, config.harmonise_strength)
        painted = self.diffused(inpaint.Canvas.of(picture, mask, canvas, shown, controls, numbers), seen[0].face)
        above = rgb + piece.lift(painted.astype(np.float32) - picture, rgb.shape)  # the piece may be a smaller picture
        known = [[reference.embedding for reference in work.subject.references] for work in works]

        def seam(whole: Rgb) -> float:
            """As it is reported: on each face's own piece, against the template bent to the new face."""
            return float(np.mean([work.rim.seam(work.piece.cut(whole)) for work in works]))

        before = seam(rgb)

        def is_better(share: float) -> bool:
            """No seam larger on average, nobody less like themselves."""
            some = blend(rgb, above, allowed * share)
            if seam(some) > before:
                return False
            return all(
                replace(look, rgb=piece.cut(some)).likeness(of) >= look.likeness(of) - guard.MARGIN
                for look, of in zip(seen, known, strict=True)
            )

        share = guard.share_that_keeps(is_better, True)
        if share < 1:
            self.notes.append(f"{share:.0%} of the harmonising pass kept: more would have cost likeness or left a seam")
        return blend(rgb, above, allowed * share)

    def background_restored(self, rgb: Rgb, faces: Sequence[Face]) -> Rgb:
        """All but the faces painted once more: the reference's way to one light over a whole picture."""
        config, profile = self.config, self.profile
        canvas = join.canvas(rgb.shape, profile.whole_side)
        shown = canvas.cut(rgb)
        controls = control.whole_controls(shown, profile.control_pictures)
        kept = [profile.parse(rgb, fuse.nearest_face(rgb, face, profile.detector)).face for face in faces]
        mask = (1 - np.maximum.reduce(kept)).astype(np.float32)
        numbers = self.numbers("", config.background_steps, config.background_strength)
        return self.diffused(inpaint.Canvas.of(rgb, mask, canvas, shown, controls, numbers), faces[0])

    def enhanced(self, rgb: Rgb, faces: Sequence[Face]) -> Rgb:
        """Skin of `faces` retouched, the picture enlarged, as far as either is wanted."""
        profile, config = self.profile, self.config
        for expected in faces if config.skin_retouch else ():
            rgb = profile.retoucher(rgb, fuse.nearest_face(rgb, expected, profile.detector))
        return (
            enhance.enhanced(rgb, profile.enhancer, config.super_resolution_ratio) if config.super_resolution else rgb
        )


def _read(file: Path, profile: Profile) -> State:
    from engine.lora import load_kohya

    return load_kohya(file, profile.diffusion.device)


def _without_spared(mask: Mask, look: Look, subject: Subject) -> Mask:
    """A pass's `mask` without what none may paint: what lies before the face and, of somebody with a fringe, the
    forehead. A LoRA brings the fringe along, and inside a mask that ends at the hairline it is a dark band on a bare
    forehead."""
    spared = hidden(look.rgb, look.face, mask)
    if subject.is_fringed:
        spared = np.maximum(spared, above_brows(look.face, mask.shape))
    return mask * (1 - spared)


def _kept(below: Look, above: Look, known: Sequence[Embedding], least: float) -> tuple[Look, float]:
    """As much of the change from `below` to `above` as leaves the likeness at `least`, and how much that is."""
    tried = {0.0: below, 1.0: above}

    def likeness(share: float) -> float:
        if share not in tried:
            tried[share] = replace(above, rgb=mixed(below.rgb, above.rgb, share))
        return tried[share].likeness(known)

    share = guard.share_that_keeps(likeness, least)
    return tried[share], share
