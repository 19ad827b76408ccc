"""The stand-in engine at a pace that leaves time to kill somebody: a training takes four seconds, a portrait three."""

from __future__ import annotations

from gpu_worker.engine_child import Runner
from gpu_worker.engine_messages import Expected
from tests import stand_in_engine


def load_checks(profile: str, device: str, expected: Expected) -> Runner:
    return stand_in_engine.load_checks(profile, device, expected)


def load_renders(profile: str, device: str, expected: Expected) -> Runner:
    stand_in_engine.STEP_S = 1.0  # in the worker's child process only
    return stand_in_engine.load_renders(profile, device, expected)
