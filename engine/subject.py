"""What portraits need of a person: their photos, a digital ID, a LoRA if there is one, and what to measure against."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.config import TRIGGER
from engine.errors import UnreadablePicture
from engine.images import read_photo
from engine.profiles import Profile
from engine.stages.reference import Reference, Traits
from engine.types import Embedding, Face, HeadPose, InspectedPhoto, SubjectFiles


@dataclass(frozen=True)
class Subject:
    """A person as the pipeline knows them. `lora` None: nothing was learned (yet)."""

    references: tuple[Reference, ...]
    digital_id: Face  # in a picture of the person as the LoRA paints them: for the pose
    lora: Path | None
    trigger: str
    held_out: tuple[Embedding, ...]  # of photos that took no part in training; of the references where there are none
    held_out_files: tuple[str, ...]

    @property
    def is_fringed(self) -> bool:
        """Their hair hangs over the forehead, in most of their photos."""
        return float(np.median([reference.traits.fringe for reference in self.references])) > 0.5

    def known(self, shown: Reference) -> list[Embedding]:
        """Of the reference photos but the one `shown`: its fusion would be too much like it to be judged by it."""
        return [r.embedding for r in self.references if r.embedding is not shown.embedding] or [shown.embedding]

    @staticmethod
    def read(files: SubjectFiles, profile: Profile) -> Subject:
        """A trained subject's folder. Raises `UnreadablePicture` for one without a usable reference photo."""
        info = json.loads(files.info.read_text(encoding="utf-8")) if files.info.is_file() else {}
        paths = sorted(files.references.glob("*.jpg")) or [files.reference]
        found = FoundFaces.of(info, profile)
        references = tuple(r for path in paths if (r := found.reference(path, profile)))
        if not references:
            raise UnreadablePicture(files.reference.name, "no face in the subject's photos")
        digital_id = found.face(files.digital_id, profile) if files.digital_id.is_file() else None
        held_out = info.get("held_out") or []
        return Subject(
            references=references,
            digital_id=digital_id or references[0].face,
            lora=files.lora if files.lora.is_file() else None,
            trigger=info.get("trigger", TRIGGER),
            held_out=tuple(np.array(h["embedding"], np.float32) for h in held_out)
            or tuple(r.embedding for r in references),
            held_out_files=tuple(h["file"] for h in held_out) or tuple(path.name for path in paths),
        )

    @staticmethod
    def untrained(photos: Sequence[InspectedPhoto], trigger: str = "1person, face, portrait") -> Subject:
        """A person of whom there are photos only; at least one."""
        references = tuple(Reference.of(p.photo.rgb, p.face, p.embedding) for p in photos)
        return Subject(
            references=references,
            digital_id=references[0].face,
            lora=None,
            trigger=trigger,
            held_out=tuple(r.embedding for r in references),
            held_out_files=tuple(p.photo.name for p in photos),
        )


@dataclass(frozen=True)
class FoundFaces:
    """What training saw in a subject's pictures, by file name. A picture that is not named is searched: an older
    training did not write it down, another profile would not find the same."""

    faces: Mapping[str, Face]
    embeddings: Mapping[str, Embedding]
    traits: Mapping[str, Traits]

    @staticmethod
    def of(info: Mapping[str, Any], profile: Profile) -> FoundFaces:
        """Out of `subject.json`."""
        is_same = (info.get("profile"), info.get("recogniser")) == (profile.name, profile.recogniser.name)
        found = info.get("found", {}) if is_same else {}
        return FoundFaces(
            {file: _face_from(one["face"]) for file, one in found.items() if one["face"]},
            {file: np.array(one["embedding"], np.float32) for file, one in found.items() if one["embedding"]},
            {file: Traits(**one["traits"]) for file, one in found.items() if one.get("traits")},
        )

    def as_json(self) -> dict[str, Any]:
        """What `of` reads under "found"."""
        return {
            file: {
                "face": _face_json(face),
                "embedding": _numbers(self.embeddings.get(file, np.zeros(0)), 6),
                "traits": self.traits[file].as_json() if file in self.traits else None,
            }
            for file, face in self.faces.items()
        }

    def face(self, path: Path, profile: Profile) -> Face | None:
        """The largest of the picture; None without one."""
        return self.faces.get(path.name) or next(iter(profile.detector(read_photo(path).rgb)), None)

    def reference(self, path: Path, profile: Profile) -> Reference | None:
        """A photo of the subject with its largest face; None without one."""
        name = path.name
        if name in self.faces and name in self.embeddings and name in self.traits:
            return Reference(lambda: read_photo(path).rgb, self.faces[name], self.embeddings[name], self.traits[name])
        rgb = read_photo(path).rgb
        face = self.faces.get(name) or next(iter(profile.detector(rgb)), None)
        if face is None:
            return None
        known = self.embeddings.get(name)
        return Reference.of(rgb, face, profile.recogniser.embed(rgb, face) if known is None else known)


def _face_json(face: Face) -> dict[str, Any]:
    pose = face.pose
    return {
        "box": _numbers(np.array(face.box_xyxy), 2),
        "points": _numbers(face.points, 2),
        "landmarks": _numbers(face.landmarks, 2),
        "score": face.score,
        "pose": [pose.yaw, pose.pitch, pose.roll],
    }


def _face_from(found: Mapping[str, Any]) -> Face:
    left, top, right, bottom = found["box"]
    points, landmarks = (np.array(found[name], np.float32).reshape(-1, 2) for name in ("points", "landmarks"))
    return Face((left, top, right, bottom), points, landmarks, found["score"], HeadPose(*found["pose"]))


def _numbers(values: NDArray[Any], digits: int) -> list[float]:
    return [round(float(value), digits) for value in values.ravel()]
