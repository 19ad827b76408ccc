"""The profile sd15 at its published size with random weights, behind the worker's own interface.

`SPEED_TINY` in the environment makes the networks narrow and the trainings short, to rehearse on a CPU; `SPEED_STEPS`
sets how long trainings are, `SPEED_FACES` who finds the faces (`engine/bench/faces.py`).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from engine.bench.portrait import RandomProfile
from engine.diffusion import chosen_device
from engine.profiles import MiniProfile, Profile
from gpu_worker import engine_jobs
from gpu_worker.engine_child import Runner
from gpu_worker.engine_messages import Expected


def load_checks(profile: str, device: str, expected: Expected) -> Runner:
    return engine_jobs.load_checks("mini", "cpu")


def load_renders(profile: str, device: str, expected: Expected) -> Runner:
    engine_jobs.load_profile = _random_profile
    return engine_jobs.load_renders(profile, device, expected)


def _random_profile(name: str, device: str) -> Profile:
    tiny = "SPEED_TINY" in os.environ
    folder, faces = Path(tempfile.mkdtemp(prefix="speed")), os.environ.get("SPEED_FACES", "dlib")
    profile = RandomProfile(folder, chosen_device(device), tiny, faces)
    small = MiniProfile("cpu")
    profile.segmenter, profile.retoucher = small.segmenter, small.retoucher
    if tiny:
        profile.training = profile.training.with_changes(max_steps=40, validation_steps=20, rank=4, variants=1)
    if "SPEED_STEPS" in os.environ:
        profile.training = profile.training.with_changes(max_steps=int(os.environ["SPEED_STEPS"]))
    return profile
