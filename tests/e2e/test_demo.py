"""`python -m bot demo`, as a person starts it; with a stand-in engine, and once for real."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from bot.demo import main
from tests.conftest import ROOT


def demo(out: Path, *arguments: str, engine: str = "tests.stand_in_engine", limit_s: float = 110) -> tuple[int, str]:
    """Exit status and everything printed."""
    command = [sys.executable, "-m", "bot", "demo", "--out", str(out), *arguments]
    environment = {**os.environ, "PORTRAIT_ENGINE_ENTRY": engine}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit_s, check=False
    )
    print(done.stdout + done.stderr)
    return done.returncode, done.stdout + done.stderr


def test_the_demo_ends_with_a_portrait_a_transcript_and_a_report(tmp_path: Path, selfies: list[Path]) -> None:
    (selfies[0].parent / "selfie-7.jpg").write_text("This is a text.")
    out = tmp_path / "out"
    own = tmp_path / "own.png"
    Image.new("RGB", (600, 800), "navy").save(own)
    status, printed = demo(out, "--photos", str(selfies[0].parent), "--template", str(own))
    assert status == 0
    assert "portrait-1.jpg" in printed.splitlines()[-3]
    report = json.loads((out / "report.json").read_text())
    verdicts = {photo["file"]: (photo["verdict"], photo["reason"]) for photo in report["photos"]}
    assert verdicts.pop("selfie-7.jpg") == ("refused", "not_a_picture")
    assert verdicts == {path.name: ("ok", None) for path in selfies}
    assert report["training"]["result"]["likeness"] == 0.8
    assert report["portraits"][0]["likeness"] == 0.7
    assert Image.open(report["portraits"][0]["file"]).size == (64, 64)
    transcript = (out / "transcript.txt").read_text()
    for said in ("you   /start", "‹I agree›", "6 photos", "own.png", "AI-generated"):
        assert said in transcript


def test_what_cannot_work_is_a_sentence_and_an_exit_status(
    tmp_path: Path, selfies: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert main([*out, "--template", "no-such-template"]) == 2
    assert "no-such-template is neither a picture nor one of the templates" in capsys.readouterr().err
    assert main([*out, "--photos", str(tmp_path / "nowhere")]) == 1
    assert "is not a folder" in capsys.readouterr().err
    for path in selfies[4:]:
        path.unlink()
    status, printed = demo(tmp_path / "out", "--photos", str(selfies[0].parent))
    assert status == 1
    assert "4 photos" in printed.splitlines()[-1]
    assert "Traceback" not in printed


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_stranger_and_a_group_among_the_photos_are_refused_and_the_rest_becomes_a_portrait(
    tmp_path: Path, shared_data: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(shared_data / "selfies" / "a", photos)
    shutil.copyfile(sorted((shared_data / "selfies" / "strangers").glob("*.jpg"))[0], photos / "stranger.jpg")
    shutil.copyfile(shared_data / "selfies" / "family" / "identification1.jpg", photos / "group.jpg")
    out = tmp_path / "out"
    status, _ = demo(out, "--photos", str(photos), engine="gpu_worker.engine_jobs", limit_s=1400)
    assert status == 0
    report = json.loads((out / "report.json").read_text())
    reasons = {photo["file"]: photo["reason"] for photo in report["photos"] if photo["verdict"] == "refused"}
    assert reasons == {"stranger.jpg": "not_same_person", "group.jpg": "several_people"}
    assert (out / "portrait-1.jpg").stat().st_size > 10_000
