"""`python -m bot`: what is missing is said in one sentence, with an exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


def start(tmp_path: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PORTRAIT_")}
    environment |= {f"PORTRAIT_{name}": value for name, value in settings.items()}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, "-m", "bot"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "There is no chat to talk in"),
        ({"TELEGRAM_TOKEN": "1:a", "REDIS_URL": "redis://127.0.0.1:1/0"}, "No Redis answers"),
        ({"TELEGRAM_TOKEN": "1:a", "REDIS_URL": "carrier-pigeon:"}, "No Redis answers"),
        (
            {"TELEGRAM_TOKEN": "1:a", "DATABASE_URL": "sqlite+aiosqlite:////proc/no/where.db"},
            "database cannot be opened",
        ),
        ({"PORTRAITS_PER_JOB": "many"}, "PORTRAIT_PORTRAITS_PER_JOB"),
    ],
    ids=["no token", "no redis", "nonsense redis", "no database", "nonsense setting"],
)
def test_what_is_missing_is_one_sentence(tmp_path: Path, settings: dict[str, str], sentence: str) -> None:
    done = start(tmp_path, **settings)
    assert done.returncode == 69
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert "1:a" not in done.stderr
