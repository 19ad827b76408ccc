"""`python -m bot`: what is missing is said in one sentence, with an exit status."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


def start(tmp_path: Path, *, disk_is_full: bool = False, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PORTRAIT_")}
    environment |= {f"PORTRAIT_{name}": value for name, value in settings.items()}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, "-m", "bot"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        preexec_fn=_no_file_can_be_written if disk_is_full else None,
    )


def _no_file_can_be_written() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "There is no chat to talk in"),
        ({"TELEGRAM_TOKEN": "1:no-real-token", "REDIS_URL": "redis://127.0.0.1:1/0"}, "No Redis answers"),
        ({"TELEGRAM_TOKEN": "1:no-real-token", "REDIS_URL": "carrier-pigeon:"}, "No Redis answers"),
        (
            {"TELEGRAM_TOKEN": "1:no-real-token", "DATABASE_URL": "sqlite+aiosqlite:////proc/no/where.db"},
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
    assert "no-real-token" not in done.stderr


def test_a_full_disk_at_the_first_start_is_one_sentence_and_the_next_start_goes_on(tmp_path: Path) -> None:
    settings = {
        "TELEGRAM_TOKEN": "1:no-real-token",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "DATA_DIR": str(tmp_path / "data"),
    }
    full = start(tmp_path, disk_is_full=True, **settings)
    assert full.returncode == 69
    assert "cannot be used" in full.stderr
    assert "Traceback" not in full.stderr
    assert "No Redis answers" in start(tmp_path, **settings).stderr, "the key is there now"
