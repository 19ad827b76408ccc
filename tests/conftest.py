"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from gpu_worker.contract.sealing import MasterKeys

ROOT = Path(__file__).resolve().parents[1]

# No test may reach a model hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
# Bots and workers that tests start are given one key, as an operator would.
os.environ.setdefault("PORTRAIT_MASTER_KEY", MasterKeys((bytes(range(32)),)).text())
# Set before torch loads: its threads spin while they wait, which starves whatever else runs on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The same inputs in every run, however slow the machine is: new ones are looked for by `make fuzz`, with its seeds.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos for tests. Not part of the project: without it, the test is skipped by name."""
    folder = Path(os.environ.get("PORTRAIT_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "selfies").is_dir():
        pytest.skip("needs real photos: set PORTRAIT_TEST_DATA to a folder with selfies/ and templates/")
    return folder
