"""How long a training takes as a worker runs it: from ten photos' files to the subject's folder, renders and all.

With random weights nothing looks like a person and the other networks are not there: faces are where the pictures are
known to have them, and finding, comparing, cutting out and retouching them costs nothing here. Everything else is the
real thing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch

from engine.bench.measures import device_name, gpu_peak_gib, told
from engine.bench.random_weights import random_diffusion
from engine.config import TrainingConfig
from engine.crop import box_crop
from engine.diffusion import Diffusion, chosen_device
from engine.images import write_jpeg
from engine.models.mean_head import MEAN_HEAD, HeadView
from engine.profiles import MiniProfile, Profile, load_profile, read_id_templates
from engine.progress import silent
from engine.sd15_profile import CANVAS_SCALE
from engine.training import train_subject
from engine.types import Embedding, Face, HeadPose, Mask, Rgb
from engine.warm_up import prepare

PHOTOS, PHOTO_SIDE = 10, 1024
ID_HEAD = HeadView(131.0, np.eye(3), np.array([253.5, 238.0]))  # how the ID photos show heads, all of them
ID_BOX = (142.0, 167.0, 365.0, 390.0)
TINY = {"resolution": 128, "rank": 4, "alpha": 2, "max_steps": 4, "validation_steps": 2, "variants": 2}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """What `python -m engine bench train --whole` prints: seconds by stage, after all that a worker makes ready at its
    start."""
    device = chosen_device(options.device)
    begin = time.perf_counter()
    profile: Profile
    if options.random_weights:
        numbers = TrainingConfig(crop_scale=CANVAS_SCALE).with_changes(**(TINY if options.tiny else {}))
        profile = StandInProfile(random_diffusion(device, tiny=options.tiny, controlnets=()), device, numbers)
    else:
        profile = load_profile(options.profile, options.device)
    loaded = time.perf_counter() - begin
    prepare(profile, True, ())
    prepared = time.perf_counter() - begin - loaded
    with tempfile.TemporaryDirectory() as folder:
        photos = sorted(options.photos.iterdir()) if options.photos else _photos(Path(folder) / "photos")
        runs = [_timed(photos, profile, Path(folder) / str(number)) for number in range(options.repeats + 1)]
    return {
        "device": device_name(device),
        "torch": torch.__version__,
        "load_s": round(loaded, 2),
        "prepare_s": round(prepared, 2),
        "first": runs[0],
        "warm": runs[1:],
        "median_s": round(median(one["seconds"] for one in runs[1:] or runs), 2),
        "gpu_peak_gib": gpu_peak_gib(device),
    }


def _timed(photos: list[Path], profile: Profile, folder: Path) -> dict[str, Any]:
    begin = time.perf_counter()
    report = train_subject(photos, folder / "out", profile, profile.training, silent, folder / "checkpoints")
    seconds = round(time.perf_counter() - begin, 2)
    figures = {"seconds": seconds, "usable": report.usable, "steps": report.steps, "stages": report.seconds}
    return told("from photos to subject", figures)


class StandInProfile(MiniProfile):
    """The given numbers and networks, and stand-ins for the small networks around them."""

    name = "sd15"

    def __init__(self, diffusion: Diffusion, device: str, numbers: TrainingConfig) -> None:
        super().__init__(device)
        self._networks, self.training = diffusion, numbers

    @cached_property
    def detector(self) -> Any:
        return _KnownFace()

    @cached_property
    def recogniser(self) -> Any:
        return _Alike()

    @cached_property
    def segmenter(self) -> Any:
        return _ellipse

    @cached_property
    def retoucher(self) -> Any:
        return lambda rgb, face: rgb

    @cached_property
    def diffusion(self) -> Diffusion:
        return self._networks

    def portrait_crop(self, rgb: Rgb, face: Face) -> Any:
        side = self.training.resolution
        return box_crop(face, self.training.crop_scale, (side, side))


class _Alike:
    """Embeddings of one person: mostly the same direction, a little by the picture."""

    name, same_person = "stand-in", 0.4

    def embed(self, rgb: Rgb, face: Face) -> Embedding:
        noise = np.random.default_rng(int(rgb.mean() * 1e6)).normal(size=128)
        vector = np.ones(128) + 0.3 * noise
        return np.asarray(vector / np.linalg.norm(vector), np.float32)

    def likeness(self, a: Embedding, b: Embedding) -> float:
        return float(a @ b)


def _ellipse(rgb: Rgb, face: Face) -> Mask:
    left, top, right, bottom = face.box_xyxy
    mask = np.zeros(rgb.shape[:2], np.float32)
    centre, axes = (
        (round((left + right) / 2), round((top + bottom) / 2)),
        (round(face.width * 0.6), round(face.height * 0.8)),
    )
    return cv2.ellipse(mask, centre, axes, 0, 0, 360, 1, -1)


class _KnownFace:
    """Finds the head of an ID photo; in a square, that of its training crop."""

    def __call__(self, rgb: Rgb) -> list[Face]:
        return _known_face(rgb)

    def near(self, rgb: Rgb, expected: Face) -> list[Face]:
        return [expected]


def _known_face(rgb: Rgb) -> list[Face]:
    landmarks = ID_HEAD.project(MEAN_HEAD)
    eyes = [landmarks[k : k + 6].mean(0) for k in (36, 42)]
    points = np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]])
    face = Face(ID_BOX, points, landmarks, 1.0, HeadPose(0, 0, 0))
    height, width = rgb.shape[:2]
    return [face if height != width else box_crop(face, CANVAS_SCALE, (width, width)).moved_face(face)]


def _photos(folder: Path) -> list[Path]:
    """Ten pictures of the ID photos' people before walls that nobody would take for one another."""
    rng = np.random.default_rng(0)
    files = []
    for number in range(PHOTOS):
        templates = read_id_templates()
        person = templates[number % len(templates)].rgb
        crop = box_crop(_known_face(person)[0], CANVAS_SCALE, (PHOTO_SIDE, PHOTO_SIDE))
        wall = cv2.resize(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8), (PHOTO_SIDE, PHOTO_SIDE))
        inside = np.zeros((PHOTO_SIDE, PHOTO_SIDE, 1), np.float32)
        cv2.ellipse(inside, (PHOTO_SIDE // 2, PHOTO_SIDE // 2), (300, 380), 0, 0, 360, 1, -1)
        mixed = crop.cut(person) * inside + wall * (1 - inside) + rng.normal(0, 3, wall.shape)
        files.append(folder / f"{number:02}.jpg")
        write_jpeg(files[-1], np.rint(mixed).clip(0, 255).astype(np.uint8))
    return files
