"""A short round of chaos, so that `make test` notices when the driver or a promise breaks; `make chaos` is the rest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.faults import schedule
from tests.chaos.town import Plan
from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_nothing_is_lost_and_nothing_shown_twice(tmp_path: Path) -> None:
    arguments = ["--seed", "3", "--only", "1", "--round-s", "12", "--users", "4", "--every-s", "2.5"]
    command = [sys.executable, "-m", "tests.chaos", *arguments, "--logs", str(tmp_path / "logs")]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| **lost** | **0** |" in done.stdout
    assert "| **shown twice** | **0** |" in done.stdout


def test_a_seed_plays_the_same_faults_again() -> None:
    import random

    def faults(seed: str) -> list[str]:
        return [str(fault) for fault in schedule(random.Random(seed), Plan("postgresql", True), 600, 4)]

    assert faults("1/0") == faults("1/0")
    assert faults("1/0") != faults("2/0")
    kinds = {fault.split()[2] for fault in faults("1/0")}
    assert {"kill", "pause", "cut", "flush", "full"} <= kinds
