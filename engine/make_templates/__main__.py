"""`python -m engine.make_templates --portraits DIR --out DIR`: makes the gallery and the ID templates again."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np

from engine.make_templates.average import Bust, average
from engine.make_templates.compose import Recipe, compose
from engine.make_templates.groups import Group, make_groups, nearest
from engine.make_templates.portraits import FaceNetworks, Portrait, read_portraits
from engine.make_templates.recipes import gallery, id_photos
from engine.types import Rgb

SMALLEST_FACE_PX = 200
PUSHES = (0.6, 0.9)
NOBODY_DISTANCE = 0.5  # at least, to every source portrait; dlib calls two photos below 0.6 possibly one person


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.make_templates", description=__doc__)
    parser.add_argument("--portraits", type=Path, required=True, help="folder of 225x275 public-domain portraits")
    parser.add_argument("--out", type=Path, required=True, help="gets gallery/<category>/ and id_templates/")
    parser.add_argument("--only", nargs="*", default=[], help="ids of the templates to make")
    arguments = parser.parse_args()
    networks = FaceNetworks()
    portraits = read_portraits(arguments.portraits, networks)
    groups = make_groups(portraits)
    busts: dict[str, Bust] = {}
    is_fine = True
    for recipe, path in _wanted(arguments.out, arguments.only):
        if recipe.group not in busts:
            busts[recipe.group] = nobody(groups[recipe.group], networks, portraits)
        rgb = compose(recipe, busts[recipe.group])
        _write(path, rgb)
        complaint, line = _checked(rgb, networks, portraits)
        print(f"{path.name:24} {busts[recipe.group].sources:3} portraits  {line}  {complaint}", flush=True)
        is_fine = is_fine and not complaint
    return 0 if is_fine else 1


def nobody(group: Group, networks: FaceNetworks, portraits: list[Portrait]) -> Bust:
    """The group's average, its shape pushed away from the nearest portraits where it is too much like one."""
    bust = average(group)
    near, distance = _nearest_to(bust, networks, portraits)
    for push in PUSHES:
        if distance >= NOBODY_DISTANCE + 0.03:
            break
        bust = average(group, near, push)
        _, distance = _nearest_to(bust, networks, portraits)
    return bust


def _nearest_to(bust: Bust, networks: FaceNetworks, portraits: list[Portrait]) -> tuple[list[Portrait], float]:
    linear = bust.rgb * bust.alpha[..., None] + 0.5 * (1 - bust.alpha[..., None])
    (face,) = networks.faces((np.clip(linear, 0, 1) ** (1 / 2.2) * 255).astype(np.uint8))
    return nearest(face[1], portraits)


def _wanted(out: Path, only: list[str]) -> list[tuple[Recipe, Path]]:
    jobs = []
    for recipe in gallery():
        if not only or recipe.id in only:
            path = out / "gallery" / recipe.category / f"{recipe.id}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            info = {"title": recipe.title, "people": 1, "wears": recipe.wears}
            path.with_suffix(".json").write_text(
                json.dumps(info, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
            )
            jobs.append((recipe, path))
    for recipe in id_photos():
        if not only or recipe.id in only:
            path = out / "id_templates" / f"{recipe.id}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            jobs.append((recipe, path))
    return jobs


def _write(path: Path, rgb: Rgb) -> None:
    _, jpeg = cv2.imencode(".jpg", np.ascontiguousarray(rgb[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 90])
    path.write_bytes(jpeg.tobytes())


def _checked(rgb: Rgb, networks: FaceNetworks, portraits: list[Portrait]) -> tuple[str, str]:
    """(what is wrong or "", the measures): one large face that is nobody's."""
    faces = networks.faces(rgb)
    if len(faces) != 1:
        return f"{len(faces)} faces found", ""
    _, embedding, box = faces[0]
    _, distance = nearest(embedding, portraits)
    line = f"face {box[2] - box[0]} px, nearest portrait at {distance:.2f}"
    if box[2] - box[0] < SMALLEST_FACE_PX:
        return "face too small", line
    return ("too much like somebody" if distance < NOBODY_DISTANCE else ""), line


if __name__ == "__main__":
    sys.exit(main())
