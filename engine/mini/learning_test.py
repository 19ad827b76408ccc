"""Does the method work? Three people learned for real, and everything measured that the method promises.

    make learning-test        (or: python -m engine.mini.learning_test [--keep DIR] [--sheet FILE] [--templates ...])

Needs real photos: a folder with selfies/a, b, c (five photos each) and templates/, named by PORTRAIT_TEST_DATA or at
../shared/data. Prints a table; the exit status is 0 if every line holds, 1 if one does not, 2 without photos.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from engine import lora
from engine.diffusion import InpaintRequest
from engine.images import read_photo
from engine.mini.identity import EdgeFaceId
from engine.mini.measures import Example, following, from_noise, seen
from engine.mini.portrait_trial import PortraitTrial, contact_sheet, portrait_trial
from engine.profiles import Profile, load_profile
from engine.progress import silent
from engine.stages import validate
from engine.stages.caption import training_caption
from engine.training import train_subject
from engine.types import Embedding, Face, FaceRecogniser, Photo, Rgb, SubjectFiles

log = logging.getLogger(__name__)
Seen = tuple[Rgb, Face] | None  # a painted picture, enlarged, with its face
PEOPLE = ("a", "b", "c")
UNTUNED = "untuned"
SEED = 90_001  # of everything painted here; training's own renders have another
FROM_NOISE = 6  # pictures per model, besides the ID photos
NEEDED_GAIN = {"dlib-resnet-v1": 0.2, "edge-directions": 0.1}  # likeness that a person's LoRA must add
NOISE = 0.01  # likeness: less is no difference
TEMPLATES = ("4.jpg", "id_1.jpg")
BLURRED_REACH = 11  # px: a mask blurred for a canvas of 128 px reaches half of this beyond itself


@dataclass(frozen=True)
class Person:
    """A learned subject: its files, the last checkpoint's LoRA, and its real photos by file name."""

    name: str
    files: SubjectFiles
    last: Path
    photos: dict[str, tuple[Photo, dict[str, Embedding]]]
    held_out: tuple[str, ...]
    is_merged: bool  # else its LoRA is the last checkpoint's

    def codes(self, judge: str, held_out: bool) -> list[Embedding]:
        """Embeddings of the held-out photos, or of the others."""
        return [codes[judge] for name, (_, codes) in self.photos.items() if (name in self.held_out) == held_out]


@dataclass
class Table:
    """The lines of the report; a line that does not hold makes the test fail."""

    lines: list[str] = field(default_factory=list)
    failed: int = 0

    def head(self, text: str) -> None:
        self.lines.append(f"\n{text}")

    def line(self, what: str, value: str, holds: bool | None = None) -> None:
        """`holds` None: a number to know, nothing is asked of it."""
        self.failed += holds is False
        self.lines.append(f"{what:<58} {value:<34} {'' if holds is None else 'ok' if holds else 'NOT OK'}".rstrip())


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line, see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the learned people here and use them again")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="template, fusion only, portrait and person")
    parser.add_argument("--templates", nargs="*", default=TEMPLATES, metavar="FILE", help="of the folder's templates/")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    log.setLevel(logging.INFO)
    data = Path(os.environ.get("PORTRAIT_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    if not (data / "selfies" / "a").is_dir():
        sys.stderr.write(
            "The learning test needs real photos: set PORTRAIT_TEST_DATA to a folder with selfies/a, b and c (five "
            "photos each of three people) and templates/.\n"
        )
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        table, trials = _measured(data, options.keep or Path(temporary), options.templates)
    if options.sheet:
        cv2.imwrite(str(options.sheet), contact_sheet(trials)[..., ::-1])
    sys.stdout.write("\n".join(table.lines) + "\n")
    return 1 if table.failed else 0


def _measured(data: Path, folder: Path, templates: Sequence[str]) -> tuple[Table, list[PortraitTrial]]:
    begin = time.monotonic()
    profile = load_profile("mini", "cpu")
    judges: list[FaceRecogniser] = [profile.recogniser, EdgeFaceId()]
    table = Table()
    people = [learned(name, data / "selfies" / name, folder, profile, judges, table) for name in PEOPLE]
    learning(people, profile, judges, table)
    controls(profile, table)
    outside_the_mask(profile, table)
    trials = portraits(people, [data / "templates" / name for name in templates], profile, judges, table)
    table.line("\nminutes", f"{(time.monotonic() - begin) / 60:.1f}")
    return table, trials


def learned(
    name: str, photos: Path, folder: Path, profile: Profile, judges: Sequence[FaceRecogniser], table: Table
) -> Person:
    """Trains a person's LoRA with the profile's own numbers, or reads it back from `folder`."""
    files, checkpoints = SubjectFiles(folder / name), folder / f"{name}-checkpoints"
    paths = sorted(photos.iterdir())
    if not files.info.is_file():
        log.info("learning %s", name)
        begin = time.monotonic()
        train_subject(paths, files.folder, profile, profile.training, silent, checkpoints)
        table.line(f"seconds to learn {name}", f"{time.monotonic() - begin:.0f}")
    info = json.loads(files.info.read_text(encoding="utf-8"))
    known = {}
    for path in paths:
        photo = read_photo(path)
        face = profile.detector(photo.rgb)[0]
        known[path.name] = photo, {judge.name: judge.embed(photo.rgb, face) for judge in judges}
    held_out = tuple(one["file"] for one in info["held_out"])
    return Person(
        name, files, max(checkpoints.glob("step-*.safetensors")), known, held_out, len(info["merged"]["weights"]) > 1
    )


def learning(people: Sequence[Person], profile: Profile, judges: Sequence[FaceRecogniser], table: Table) -> None:
    """Parts (a) and (b): likeness of fresh renders to photos that no training saw."""
    log.info("painting faces")
    painted = {UNTUNED: _renders(profile)}
    for person in people:
        with lora.applied(profile.diffusion, person.files.lora, 1.0):
            painted[person.name] = painted[_last(person)] = _renders(profile)
        if person.is_merged:
            with lora.applied(profile.diffusion, person.last, 1.0):
                painted[_last(person)] = _renders(profile)
    faces: dict[str, list[Seen]] = {}
    for model, pictures in painted.items():
        same = next((other for other in faces if painted[other] is pictures), None)
        faces[model] = faces[same] if same else [seen(rgb, profile.detector) for rgb in pictures]
    for judge in judges:
        alike = {
            (model, person.name): _alike(
                judge, [judge.embed(*face) for face in found if face], person.codes(judge.name, True)
            )
            for model, found in faces.items()
            for person in people
        }
        _say_who_is_learned(people, judge, alike, table)
        table.head(f"(b) merged LoRA and last checkpoint: likeness to held-out photos, by {judge.name}")
        gained = [gain for person in people for gain in _gains(person, judge, faces)]
        table.line(f"merged minus last, {len(gained)} renders", *_not_lower(gained))
    every = [face for found in faces.values() for face in found]
    table.line("painted faces found", f"{sum(face is not None for face in every)} of {len(every)}")


def _gains(person: Person, judge: FaceRecogniser, faces: dict[str, list[Seen]]) -> list[float]:
    """By render: likeness by the merged LoRA minus that by the last checkpoint, from the same noise."""
    held_out = person.codes(judge.name, True)
    merged, last = (
        [None if face is None else _alike(judge, [judge.embed(*face)], held_out) for face in faces[model]]
        for model in (person.name, _last(person))
    )
    return [a - b for a, b in zip(merged, last, strict=True) if a is not None and b is not None]


def _not_lower(gains: Sequence[float]) -> tuple[str, bool]:
    """Differences of pairs: what they are, and whether their mean is no lower than chance explains."""
    error = float(np.std(gains) / np.sqrt(len(gains)))
    return f"{np.mean(gains):+.3f}, standard error {error:.3f}", bool(np.mean(gains) > -max(NOISE, 2 * error))


def _both(trials: Sequence[PortraitTrial]) -> tuple[list[Rgb], list[Rgb]]:
    return [trial.full.portrait for trial in trials], [trial.fused.portrait for trial in trials]


def _likeness(judge: FaceRecogniser, rgb: Rgb, profile: Profile, who: Person) -> float:
    return _alike(judge, [judge.embed(rgb, profile.detector(rgb)[0])], who.codes(judge.name, True))


def _say_who_is_learned(
    people: Sequence[Person], judge: FaceRecogniser, alike: dict[tuple[str, str], float], table: Table
) -> None:
    needed = NEEDED_GAIN[judge.name]
    table.head(f"(a) likeness of painted faces to held-out photos, by {judge.name}")
    for who in people:
        own, free = alike[who.name, who.name], alike[UNTUNED, who.name]
        others = max(alike[p.name, who.name] for p in people if p is not who)
        real = _alike(judge, who.codes(judge.name, False), who.codes(judge.name, True))
        way = f"{(own - free) / (real - free):.2f} of the way to real photos ({real:.3f})"
        table.line(
            f"{who.name}: own LoRA {own:.3f}, untuned {free:.3f}: at least {needed} more", way, own - free > needed
        )
        table.line(f"{who.name}: own LoRA more than another's", f"{own:.3f} against {others:.3f}", own > others + NOISE)


def _renders(profile: Profile) -> list[Rgb]:
    """Faces from noise, and the validation's ID photos, by the model as it is."""
    exam = validate.Exam(
        validate.canvases(profile.id_templates(), profile),
        training_caption(profile.training.trigger),
        profile,
        profile.training.with_changes(seed=SEED),
        [],
        [],
    )
    return from_noise(profile.diffusion, FROM_NOISE, SEED) + exam.paint(lambda: None)


def _alike(judge: FaceRecogniser, some: Sequence[Embedding], others: Sequence[Embedding]) -> float:
    """Mean over all pairs."""
    return float(np.mean([judge.likeness(a, b) for a in some for b in others]))


def _last(person: Person) -> str:
    return f"{person.name}, last checkpoint"


def controls(profile: Profile, table: Table) -> None:
    """Part (c)."""
    log.info("following control pictures")
    examples = [
        Example.of(photo.rgb, face) for photo in profile.id_templates() for face in profile.detector(photo.rgb)[:1]
    ]
    table.head("(c) pictures from noise with a ControlNet and without")
    for one in following(profile.diffusion, examples, profile.detector, SEED):
        table.line(f"{one.name}: {one.unit}", f"{one.led:.2f} with, {one.free:.2f} without", one.follows)


def outside_the_mask(profile: Profile, table: Table) -> None:
    """Part (d): a hard mask, and one blurred as portraits have it."""
    canvas = validate.canvases(profile.id_templates()[:1], profile)[0]
    mask = np.zeros_like(canvas.mask)
    cv2.ellipse(mask, (64, 68), (30, 38), 0, 0, 360, 1.0, -1)
    table.head("(d) inpainting")
    for blur, reach in ((0.0, 1), (None, BLURRED_REACH)):
        asked = InpaintRequest(canvas.rgb, mask, "", "", 10, 0.6, 2.0, seed=SEED, mask_blur=blur)
        changed = (profile.diffusion.inpaint(asked)[0] != canvas.rgb).any(-1)
        outside = cv2.dilate(mask, np.ones((reach, reach))) == 0
        wrong, inside = int((changed & outside).sum()), changed[mask > 0].mean()
        kind = "hard" if blur == 0 else "blurred"
        table.line(
            f"{kind} mask: pixels changed outside", f"{wrong} ({inside:.0%} inside)", wrong == 0 and inside > 0.9
        )


def portraits(
    people: Sequence[Person],
    templates: Sequence[Path],
    profile: Profile,
    judges: Sequence[FaceRecogniser],
    table: Table,
) -> list[PortraitTrial]:
    """Whole portraits, with the diffusion and by fusion alone."""
    trials = []
    for person in people:
        for template in templates:
            log.info("portrait of %s in %s", person.name, template.name)
            trials.append(portrait_trial(person.name, person.files, read_photo(template), profile))
    for judge in judges:
        table.head(f"(5) portraits: likeness to held-out photos, by {judge.name}")
        gains = []
        for who in people:
            full, fused = (
                [_likeness(judge, rgb, profile, who) for rgb in pictures]
                for pictures in _both([trial for trial in trials if trial.person == who.name])
            )
            table.line(who.name, f"{np.mean(full):.3f} with diffusion, {np.mean(fused):.3f} without")
            gains += [a - b for a, b in zip(full, fused, strict=True)]
        table.line(f"with minus without, {len(gains)} portraits", *_not_lower(gains))
    table.head("(5) portraits: seam")
    with_it, without = (float(np.mean([getattr(t, kind).seam["final"] for t in trials])) for kind in ("full", "fused"))
    table.line(
        "smaller than by fusion alone, mean", f"{with_it:.2f} with diffusion, {without:.2f} without", with_it < without
    )
    changed = sum(trial.full.changed_outside_mask for trial in trials)
    table.line("pixels changed outside the mask", str(changed), changed == 0)
    return trials


if __name__ == "__main__":
    sys.exit(main())
