"""The engine's command line: one JSON object on standard output, or one sentence on standard error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut, coffee

from engine.__main__ import main


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(astronaut()).resize((1024, 1024)).save(folder / "face.jpg")
    Image.fromarray(coffee()).save(folder / "cup.png")
    (folder / "text.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def said(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = main(arguments)
    out, err = capfd.readouterr()
    return status, out, err


def test_inspect_says_it_all_in_one_json_object(photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(["inspect", str(photos), "--json"], capfd)
    assert status == 0
    assert len(out.splitlines()) == 1
    assert json.loads(out) == {
        "photos": [
            {"file": "cup.png", "verdict": "refused", "reason": "no_face"},
            {"file": "face.jpg", "verdict": "ok", "reason": None},
            {"file": "text.jpg", "verdict": "refused", "reason": "unreadable"},
        ],
        "usable": 1,
        "reference": "face.jpg",
    }


@pytest.mark.parametrize("command", ["inspect", "train"])
def test_a_folder_without_pictures_is_a_sentence(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = [str(tmp_path / "out")] if command == "train" else []
    for folder, sentence in ((tmp_path, "holds no pictures"), (tmp_path / "absent", "is no folder")):
        status, printed, error = said([command, str(folder), *out], capfd)
        assert (status, printed) == (1, "")
        assert sentence in error
        assert len(error.splitlines()) == 1


def test_too_few_usable_photos_are_a_sentence_that_names_them(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, out, error = said(["train", str(photos), str(tmp_path / "out")], capfd)
    assert (status, out) == (1, "")
    assert error.strip() == "1 usable photos, 5 needed (cup.png: no_face, text.jpg: unreadable)"


def test_twenty_one_photos_are_a_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(21):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"{number}.png")
    status, _, error = said(["train", str(tmp_path), str(tmp_path / "out")], capfd)
    assert status == 1
    assert error.strip() == "21 photos, at most 20 are taken"


@pytest.mark.parametrize("text", ['{"max_steps": 0}', '{"no_such_number": 1}', "no json"])
def test_a_wrong_configuration_is_told_before_any_work(
    text: str, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.json"
    config.write_text(text)
    status, out, error = said(["train", str(photos), str(tmp_path / "out"), "--config", str(config)], capfd)
    assert (status, out) == (1, "")
    assert "config.json" in error


def test_the_module_runs_as_a_command(photos: Path) -> None:
    command = [sys.executable, "-m", "engine", "inspect", str(photos)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["usable"] == 1
