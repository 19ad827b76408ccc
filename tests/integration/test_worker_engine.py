"""The real engine behind the worker's own interface, on real photos, without queue."""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from engine.profiles import Profile, load_profile
from engine.progress import Progress, Stage
from gpu_worker import engine_jobs
from gpu_worker.contract.events import CheckTemplateResult, InspectResult, PortraitResult, SkippedFace, TrainResult
from gpu_worker.contract.jobs import (
    CheckTemplate,
    InspectPhotos,
    MakePortraits,
    PhotoRef,
    Sitter,
    TemplateToPaint,
    TrainSubject,
)
from gpu_worker.engine_child import Runner
from gpu_worker.engine_jobs import load_checks, load_renders
from gpu_worker.engine_messages import Run


def tell(progress: Progress) -> None:
    pass


def hasty_profile(name: str, device: str) -> Profile:
    """The mini profile with as few steps as there can be: files and numbers come out, no likeness."""
    profile = load_profile(name, device)
    profile.training = profile.training.with_changes(
        **{"max_steps": 2, "validation_steps": 2, "validation_denoise_steps": 1},
        **{"rank": 8, "accumulation": 1, "variants": 1},
    )
    profile.portrait = profile.portrait.with_changes(first_steps=3, second_steps=3)
    return profile


@pytest.fixture(scope="module")
def checks() -> Runner:
    return load_checks("mini", "cpu")


def inspection(folder: Path, pictures: list[Path]) -> Run:
    """A job folder with the pictures under ids of the kind that the bot gives."""
    (folder / "photos").mkdir(parents=True)
    refs = []
    for number, picture in enumerate(pictures):
        photo_id = f"photo{number}"
        shutil.copy(picture, folder / "photos" / f"{photo_id}.jpg")
        refs.append(PhotoRef(photo_id=photo_id, key=f"users/u1/photos/{picture.stem}-{photo_id}.jpg"))
    job = InspectPhotos(job_id=secrets.token_hex(6), photos=tuple(refs))
    return Run(number=1, job=job, folder=folder, prefix="checks/x")


def test_a_collection_is_judged_by_photo_id_and_faster_the_second_time(
    checks: Runner, shared_data: Path, tmp_path: Path
) -> None:
    no_picture = tmp_path / "text.jpg"
    no_picture.write_text("not a picture")
    stranger = sorted((shared_data / "selfies" / "b").iterdir())[0]
    pictures = [*sorted((shared_data / "selfies" / "a").iterdir())[:5], stranger, no_picture]
    request = inspection(tmp_path / "job", pictures)
    begin = time.process_time()  # what else the machine does has no part in it
    first = checks(request, tell)
    middle = time.process_time()
    again = checks(request, tell)
    assert isinstance(first, InspectResult)
    assert first == again
    assert time.process_time() - middle < (middle - begin) / 10
    verdicts = {photo.photo_id: photo.reason for photo in first.photos if photo.verdict == "refused"}
    assert verdicts == {"photo5": "not_same_person", "photo6": "unreadable"}
    assert first.usable == 5
    assert first.reference in {f"photo{n}" for n in range(5)}


def template_check(folder: Path, picture: Path) -> Run:
    folder.mkdir()
    shutil.copy(picture, folder / "template.jpg")
    job = CheckTemplate(job_id="job001", template_key="users/u1/templates/t.jpg")
    return Run(number=1, job=job, folder=folder, prefix="checks/x")


def test_a_templates_faces_are_given_as_shares_of_the_picture(
    checks: Runner, shared_data: Path, tmp_path: Path
) -> None:
    for number, picture in enumerate(sorted((shared_data / "templates").glob("*.jpg"))[:3]):
        result = checks(template_check(tmp_path / str(number), picture), tell)
        assert isinstance(result, CheckTemplateResult)
        for face in result.faces:
            left, top, right, bottom = face.box_xyxy
            assert -0.1 < left < right < 1.1
            assert -0.1 < top < bottom < 1.1


def test_a_template_that_cannot_serve_is_refused_with_the_reason(checks: Runner, tmp_path: Path) -> None:
    grey = tmp_path / "grey.jpg"
    Image.new("RGB", (640, 480), "grey").save(grey)
    text = tmp_path / "text.jpg"
    text.write_text("not a picture")
    for name, picture, reason in (("a", grey, "no_face"), ("b", text, "unreadable")):
        result = checks(template_check(tmp_path / name, picture), tell)
        assert isinstance(result, CheckTemplateResult)
        assert (result.faces, result.reason) == ((), reason)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_subject_and_portraits_come_out_as_files_and_numbers(
    monkeypatch: pytest.MonkeyPatch, shared_data: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(engine_jobs, "load_profile", hasty_profile)
    renders = load_renders("mini", "cpu")
    request = inspection(tmp_path / "train", sorted((shared_data / "selfies" / "a").iterdir())[:5])
    assert isinstance(request.job, InspectPhotos)
    train = TrainSubject(
        job_id="job001", subject_id="subj01", photos=request.job.photos, output_prefix="users/u1/s", seed=1
    )
    (request.folder / "out").mkdir()
    (request.folder / "checkpoints").mkdir()
    told: list[Progress] = []
    trained = renders(request.model_copy(update={"job": train, "prefix": "users/u1/s/1-1"}), told.append)
    (look,) = [progress.preview for progress in told if progress.stage is Stage.PREVIEW and progress.preview]
    first_train = next(n for n, progress in enumerate(told) if progress.stage is Stage.TRAIN)
    assert Stage.PREVIEW not in {progress.stage for progress in told[first_train:]}
    assert look.parent == request.folder
    with Image.open(look) as picture:
        assert min(picture.size) >= 500
    assert isinstance(trained, TrainResult)
    assert (trained.usable, trained.steps, len(trained.held_out)) == (5, 2, 1)
    assert trained.held_out[0] in {photo.photo_id for photo in trained.photos}
    assert trained.files_prefix == "users/u1/s/1-1"
    for key in (trained.preview_key, trained.report_key):
        assert key
        assert (request.folder / "out" / key.removeprefix("users/u1/s/1-1/")).is_file()

    check = template_check(tmp_path / "portrait", sorted((shared_data / "templates").glob("*.jpg"))[0])
    shutil.copytree(request.folder / "out", check.folder / "subjects" / "subj01")
    (check.folder / "out").mkdir()
    job = MakePortraits(
        job_id="job002",
        subject_id="subj01",
        subject_prefix="users/u1/s/1-1",
        template_key="templates/t.jpg",
        output_prefix="users/u1/j",
        count=2,
        seed=1,
    )
    made = renders(check.model_copy(update={"job": job, "prefix": "users/u1/j/1-1"}), tell)
    assert isinstance(made, PortraitResult)
    names = [f"portrait-{n}.jpg" for n in range(1, len(made.portraits) + 1)]  # one where both are the same picture
    assert [portrait.key for portrait in made.portraits] == [f"users/u1/j/1-1/{name}" for name in names]
    assert {path.name for path in (check.folder / "out").iterdir()} == {*names, "report.json"}
    assert made.portraits[0].likeness is not None
    assert made.portraits[0].scores is not None
    assert {portrait.seed for portrait in made.portraits} <= {1, 2}
    assert (made.skipped, made.template_key) == ((), None)
    assert made.seconds["all"] == max(made.seconds.values()) > made.seconds["files"] > 0

    sitter = Sitter(subject_id="subj01", subject_prefix="users/u1/s/1-1")
    absent = Sitter(subject_id="subj02", subject_prefix="users/u2/s/1-1")
    family = template_check(tmp_path / "family", shared_data / "selfies" / "family" / "detection6.jpg")
    shutil.copytree(request.folder / "out", family.folder / "subjects" / "subj01")
    (family.folder / "subjects" / "subj02").mkdir()
    Image.new("RGB", (200, 200)).save(family.folder / "subjects" / "subj02" / "reference.jpg")
    (family.folder / "out").mkdir()
    group = job.model_copy(update={"faces": (sitter, absent), "count": 1})
    made = renders(family.model_copy(update={"job": group, "prefix": "users/u1/j/1-1"}), tell)
    assert isinstance(made, PortraitResult)
    assert made.skipped == (SkippedFace(face=1, subject_id="subj02", reason="subject_unreadable"),)

    painted = job.model_copy(
        update={"template_key": None, "template_to_paint": TemplateToPaint(recipe="id_white", prompt="smile")}
    )
    (family.folder / "template.jpg").unlink()
    made = renders(family.model_copy(update={"job": painted, "prefix": "users/u1/j/1-1"}), told.append)
    assert isinstance(made, PortraitResult)
    assert made.template_key == "users/u1/j/1-1/template.jpg"
    assert (family.folder / "out" / "template.jpg").is_file()
    assert Stage.PAINT_TEMPLATE in {progress.stage for progress in told}
