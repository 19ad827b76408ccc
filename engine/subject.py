"""What portraits need of a person: their photos, a digital ID, a LoRA if there is one, and what to measure against."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.config import TRIGGER
from engine.errors import UnreadablePicture
from engine.images import read_photo
from engine.profiles import Profile
from engine.stages.reference import Reference
from engine.types import Embedding, InspectedPhoto, SubjectFiles


@dataclass(frozen=True)
class Subject:
    """A person as the pipeline knows them. `lora` None: nothing was learned (yet)."""

    references: tuple[Reference, ...]
    digital_id: Reference
    lora: Path | None
    trigger: str
    held_out: tuple[Embedding, ...]  # of photos that took no part in training; of the references where there are none
    held_out_files: tuple[str, ...]

    def known(self, shown: Reference) -> list[Embedding]:
        """Of the reference photos but the one `shown`: its fusion would be too much like it to be judged by it."""
        return [r.embedding for r in self.references if r.embedding is not shown.embedding] or [shown.embedding]

    @staticmethod
    def read(files: SubjectFiles, profile: Profile) -> Subject:
        """A trained subject's folder. Raises `UnreadablePicture` for one without a usable reference photo."""
        info = json.loads(files.info.read_text(encoding="utf-8")) if files.info.is_file() else {}
        paths = sorted(files.references.glob("*.jpg")) or [files.reference]
        references = tuple(r for path in paths if (r := _reference(path, profile)))
        if not references:
            raise UnreadablePicture(files.reference.name, "no face in the subject's photos")
        digital_id = _reference(files.digital_id, profile) if files.digital_id.is_file() else None
        held_out = info.get("held_out") or []
        return Subject(
            references=references,
            digital_id=digital_id or references[0],
            lora=files.lora if files.lora.is_file() else None,
            trigger=info.get("trigger", TRIGGER),
            held_out=tuple(np.array(h["embedding"], np.float32) for h in held_out)
            or tuple(r.embedding for r in references),
            held_out_files=tuple(h["file"] for h in held_out) or tuple(path.name for path in paths),
        )

    @staticmethod
    def untrained(photos: Sequence[InspectedPhoto], trigger: str = "1person, face, portrait") -> Subject:
        """A person of whom there are photos only; at least one."""
        references = tuple(Reference(p.photo.rgb, p.face, p.embedding) for p in photos)
        return Subject(
            references=references,
            digital_id=references[0],
            lora=None,
            trigger=trigger,
            held_out=tuple(r.embedding for r in references),
            held_out_files=tuple(p.photo.name for p in photos),
        )


def _reference(path: Path, profile: Profile) -> Reference | None:
    """The largest face of a photo of the subject; None without one."""
    rgb = read_photo(path).rgb
    face = next(iter(profile.detector(rgb)), None)
    return None if face is None else Reference(rgb, face, profile.recogniser.embed(rgb, face))
