"""Subjects as training leaves them, without a LoRA, made of the development photos."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from engine.images import read_photo
from engine.models.dlib_faces import DlibDetector, DlibFaceId
from engine.types import Embedding, SubjectFiles


def embedding_of(photo: Path, detector: DlibDetector, recogniser: DlibFaceId) -> Embedding:
    """Of the largest face."""
    rgb = read_photo(photo).rgb
    return recogniser.embed(rgb, detector(rgb)[0])


def write_subject(
    folder: Path, references: list[Path], held_out: Path, detector: DlibDetector, recogniser: DlibFaceId
) -> SubjectFiles:
    """The first of `references` is the best photo."""
    (folder / "references").mkdir(parents=True)
    for photo in references:
        shutil.copy(photo, folder / "references")
    shutil.copy(references[0], folder / "reference.jpg")
    embedding = embedding_of(held_out, detector, recogniser)
    info = {"held_out": [{"file": held_out.name, "embedding": embedding.tolist()}]}
    (folder / "subject.json").write_text(json.dumps(info), encoding="utf-8")
    return SubjectFiles(folder)
