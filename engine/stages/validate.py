"""Figure 1, box "validation": the LoRA in training paints ID photos, and FaceID says how like the person they are.

Scored against photos that were kept out of training (the reference scores against the training photos).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from engine.config import TrainingConfig
from engine.diffusion import InpaintRequest
from engine.images import clip_box, grow_box, resized
from engine.types import Embedding, Mask, Photo, Render, Rgb

if TYPE_CHECKING:
    from engine.profiles import Profile

MASK_SCALE = 1.3  # side of the painted rectangle over the face box
SCORED_SIDE = 384  # px: smaller renders are enlarged so far before a face is looked for


@dataclass(frozen=True)
class Canvas:
    """An ID-photo template ready to be painted on."""

    rgb: Rgb
    mask: Mask


@dataclass(frozen=True)
class Exam:
    """The same task for every checkpoint: paint these canvases, be scored against these photos."""

    canvases: Sequence[Canvas]
    prompt: str
    profile: Profile
    config: TrainingConfig
    held_out: Sequence[Embedding]
    ranked_by: Sequence[Embedding]

    def paint(self, breathe: Callable[[], None]) -> list[Rgb]:
        """One picture per canvas by the model as it is. The seed is the same each time, so that checkpoints compare.

        `breathe` is called between denoising steps; what it raises ends the painting.
        """
        pictures: list[Rgb] = []
        for canvas in self.canvases:
            request = InpaintRequest(
                image=canvas.rgb,
                mask=canvas.mask,
                prompt=self.prompt,
                negative=self.config.validation_negative,
                steps=self.config.validation_denoise_steps,
                strength=self.config.validation_strength,
                guidance=self.config.validation_guidance,
                seed=self.config.seed,
            )
            pictures += self.profile.diffusion.inpaint(request, lambda done, total: breathe())
        return pictures

    def score(self, pictures: Sequence[Rgb]) -> list[Render]:
        """How like the person each picture's face is."""
        large = [_large(rgb) for rgb in pictures]
        seen = {
            template: self.profile.recogniser.embed(rgb, faces[0])
            for template, rgb in enumerate(large)
            if (faces := self.profile.detector(rgb))
        }
        return [self._scored(template, rgb, seen.get(template)) for template, rgb in enumerate(pictures)]

    def _scored(self, template: int, rgb: Rgb, embedding: Embedding | None) -> Render:
        if embedding is None:
            return Render(template, rgb)
        return Render(
            template, rgb, embedding, self._alike(embedding, self.held_out), self._alike(embedding, self.ranked_by)
        )

    def _alike(self, embedding: Embedding, photos: Sequence[Embedding]) -> float:
        return float(np.mean([self.profile.recogniser.likeness(embedding, photo) for photo in photos]))


def _large(rgb: Rgb) -> Rgb:
    """Enlarged until detectors see a small canvas."""
    factor = max(1, ceil(SCORED_SIDE / min(rgb.shape[:2])))
    return resized(rgb, (rgb.shape[1] * factor, rgb.shape[0] * factor))


def canvases(templates: Sequence[Photo], profile: Profile) -> list[Canvas]:
    """The templates that show a face, cropped as portraits are."""
    found = []
    for template in templates:
        for face in profile.detector(template.rgb)[:1]:
            crop = profile.portrait_crop(template.rgb, face)
            rgb = crop.cut(template.rgb)
            mask = np.zeros(rgb.shape[:2], np.float32)
            left, top, right, bottom = clip_box(grow_box(crop.moved_face(face).box_xyxy, MASK_SCALE), rgb.shape)
            mask[top:bottom, left:right] = 1
            found.append(Canvas(rgb, mask))
    return found


def mean_likeness(renders: Sequence[Render]) -> float | None:
    """Of the renders that show a face; None when none does."""
    found = [render.likeness for render in renders if render.likeness is not None]
    return float(np.mean(found)) if found else None


def copy_paste(render: Embedding, held_out: Embedding, training: Sequence[Embedding]) -> float:
    """How far a render leans to the nearest training photo instead of the person: (a(g,t) - a(g,r)) / a(t,r) with the
    angles between render g, held-out photo t and nearest training photo r. 0 is neutral, 1 is a copy of r."""

    def angle(a: Embedding, b: Embedding) -> float:
        return float(np.arccos(np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1)))

    nearest = min(training, key=lambda photo: angle(render, photo))
    return (angle(render, held_out) - angle(render, nearest)) / max(angle(held_out, nearest), 1e-6)
