"""What every stage of figure 2 does to a face: learned people on real templates, one row of numbers each.

    python -m engine.mini.portrait_evidence SUBJECTS TEMPLATES OUT [--only NAME ...]

SUBJECTS holds one trained subject per folder, TEMPLATES pictures. OUT gets `<subject>-<template>.json` and `.jpg` as
they are made (a second call goes on where the first one ended), `table.md` and `sheet.png` with all that is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from engine.crop import box_crop
from engine.images import read_photo, write_jpeg, write_whole
from engine.portraits import TEMPLATE_SIDE, make_portraits
from engine.profiles import Profile, load_profile
from engine.types import Rgb, SubjectFiles

STAGES = {  # column of the table: the look in the report
    "template": "template",
    "fusion 1": "first_fusion",
    "diffusion 1": "first_diffusion",
    "shift": "first_shift",
    "fusion 2": "second_fusion",
    "diffusion 2": "second_diffusion",
    "last shift": "last_shift",
    "guard, rim": "guard",
    "pasted": "final",
}
NOISE = 0.005  # likeness: less is no difference
CELL, AROUND, PER_ROW = 360, 2.0, 8

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", type=Path)
    parser.add_argument("templates", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="these subjects")
    options = parser.parse_args(arguments)
    profile = load_profile("mini", "cpu")
    subjects = sorted(path for path in options.subjects.iterdir() if (path / "subject.json").is_file())
    for template in sorted(options.templates.glob("*.jpg")):
        for subject in subjects:
            written = options.out / f"{subject.name}-{template.stem}.json"
            if not written.is_file() and subject.name in (options.only or [subject.name]):
                _measure(subject, template, written, profile)
    rows = [json.loads(path.read_text()) for path in sorted(options.out.glob("*-*.json"))]
    write_whole(options.out / "table.md", table(rows).encode())
    pairs = [read_photo(options.out / f"{row['person']}-{row['template']}.jpg").rgb for row in rows]
    cv2.imwrite(str(options.out / "sheet.png"), _sheet(pairs)[..., ::-1])
    return 0


def _measure(subject: Path, file: Path, written: Path, profile: Profile) -> None:
    template = read_photo(file, TEMPLATE_SIDE)
    numbers = profile.portrait.with_changes(super_resolution=False)
    report = make_portraits(SubjectFiles(subject), template, profile, numbers, every_stage=True)
    person = report.people[0]
    row = {
        "person": subject.name,
        "template": file.stem,
        "by_stage": person.by_stage,
        "seam": person.seam,
        "share": person.diffusion_share,
        "changed_outside_mask": report.changed_outside_mask,
        "seconds": round(sum(report.seconds.values())),
    }
    face = profile.detector(template.rgb)[0]
    canvas = box_crop(face, AROUND, (CELL, CELL))
    write_jpeg(written.with_suffix(".jpg"), np.hstack([canvas.cut(template.rgb), canvas.cut(report.portrait)]))
    write_whole(written, json.dumps(row).encode())


def table(rows: Sequence[Row]) -> str:
    """Markdown: likeness to held-out photos after every stage, what each added, the seam, what changed outside."""
    head = ["person", "template", *STAGES, "seam template", "fused", "final", "share", "outside"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        likeness = [f"{row['by_stage'][name]:.3f}" for name in STAGES.values()]
        seams = [f"{row['seam'][name]:.1f}" for name in ("template", "fused", "final")]
        cells = [row["person"], row["template"], *likeness, *seams, f"{row['share']:.2f}"]
        lines.append(f"| {' | '.join(cells)} | {row['changed_outside_mask']} |")
    values = np.array([[row["by_stage"][name] for name in STAGES.values()] for row in rows])
    seams = [f"{np.mean([row['seam'][name] for row in rows]):.1f}" for name in ("template", "fused", "final")]
    share = float(np.mean([row["share"] for row in rows]))
    outside = sum(row["changed_outside_mask"] for row in rows)
    means = [f"{mean:.3f}" for mean in values.mean(0)]
    lines.append(f"| mean | | {' | '.join([*means, *seams, f'{share:.2f}', str(outside)])} |")
    steps = np.diff(values, axis=1)
    lines += ["", "| stage | mean change | helps on | hurts on |", "|---|---|---|---|"]
    for name, column in zip(list(STAGES)[1:], steps.T, strict=True):
        helps, hurts = int((column > NOISE).sum()), int((column < -NOISE).sum())
        lines.append(f"| {name} | {column.mean():+.3f} | {helps} of {len(rows)} | {hurts} |")
    return "\n".join(lines) + "\n"


def _sheet(cells: Sequence[Rgb]) -> Rgb:
    """Template and portrait, PER_ROW / 2 pairs side by side."""
    per_row = PER_ROW // 2
    cells = [*cells, *[np.zeros_like(cells[0])] * (-len(cells) % per_row)]
    return np.vstack([np.hstack(cells[at : at + per_row]) for at in range(0, len(cells), per_row)])


if __name__ == "__main__":
    sys.exit(main())
