"""Training: what is split off, exact resumption, the choice of checkpoints, and the whole figure on random networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from skimage.data import astronaut

from engine import lora
from engine.config import TrainingConfig
from engine.errors import Stopped, TooManyPhotos, UnreadablePicture, UnusablePhotos
from engine.images import read_photo, write_jpeg
from engine.inspection import judge
from engine.profiles import MiniProfile
from engine.progress import Progress, Stage, silent
from engine.stages import merge, retouch, segment, train_lora, validate
from engine.subject import Subject
from engine.training import split, train_subject
from engine.types import InspectedPhoto, Photo, Render, SubjectFiles
from tests.unit.engine.lora_updates import update

if TYPE_CHECKING:
    from engine.diffusion import Diffusion
    from tests.unit.engine.test_inspection import Examined

QUICK = TrainingConfig(
    resolution=128,
    rank=4,
    alpha=4,
    batch=1,
    accumulation=1,
    variants=2,
    learning_rate=1e-3,
    validation_steps=2,
    max_steps=4,
    validation_denoise_steps=2,
    seed=7,
)
NOTHING = np.zeros((4, 4, 3), np.uint8)


class RandomProfile(MiniProfile):
    """The small profile with one ID template and networks that know nothing."""

    def __init__(self, diffusion: Diffusion) -> None:
        super().__init__("cpu")
        self._networks = diffusion

    @cached_property
    def diffusion(self) -> Diffusion:
        return self._networks

    def id_templates(self) -> list[Photo]:
        return super().id_templates()[:1]


def crops(count: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [cv2.resize(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), (128, 128)) for _ in range(count)]


def trained(diffusion: Diffusion, folder: Path, on_step: Callable[[int, int], None], steps: int = 4) -> lora.State:
    data = train_lora.training_set(crops(), "easyphoto_face, easyphoto, 1person", diffusion, QUICK)
    last = None
    for checkpoint in train_lora.checkpoints(data, steps, diffusion, QUICK, folder, on_step):
        last = checkpoint.weights
    assert last is not None
    return last


def stop_at(step: int) -> Callable[[int, int], None]:
    def on_step(done: int, _: int) -> None:
        if done == step:
            raise Stopped

    return on_step


def test_a_training_killed_at_any_step_ends_with_the_same_weights(random_diffusion: Diffusion, tmp_path: Path) -> None:
    unbroken = trained(random_diffusion, tmp_path / "unbroken", lambda done, total: None)
    for killed_after, goes_on_with in ((1, 1), (2, 3), (3, 3)):
        folder = tmp_path / f"broken-{killed_after}"
        with pytest.raises(Stopped):
            trained(random_diffusion, folder, stop_at(killed_after))
        done: list[int] = []
        resumed = trained(random_diffusion, folder, lambda step, total, done=done: done.append(step))
        assert done[0] == goes_on_with
        assert resumed.keys() == unbroken.keys()
        assert all(torch.equal(resumed[key], unbroken[key]) for key in unbroken)


def test_a_training_learns(random_diffusion: Diffusion, tmp_path: Path) -> None:
    """Every module of both networks moves."""
    state = trained(random_diffusion, tmp_path, lambda done, total: None)
    moved = {name: float(update(state, name).abs().max()) for name in lora.names(state)}
    assert min(moved.values()) > 0


def test_checkpoints_of_other_photos_or_numbers_are_not_resumed(random_diffusion: Diffusion, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        trained(random_diffusion, tmp_path, stop_at(3))
    done: list[int] = []
    trained(random_diffusion, tmp_path, lambda step, total: done.append(step), steps=2)
    assert done == [1, 2]


def test_a_finished_training_gives_its_checkpoints_again(random_diffusion: Diffusion, tmp_path: Path) -> None:
    first = trained(random_diffusion, tmp_path, lambda done, total: None)
    again = trained(random_diffusion, tmp_path, stop_at(1))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_every_photo_is_learned_from_equally_often() -> None:
    places = [train_lora._photo_at(k, 4, seed=1) for k in range(40)]
    assert sorted(places) == sorted([0, 1, 2, 3] * 10)
    assert places[:4] != places[4:8] or places[4:8] != places[8:12]


def test_the_held_out_photo_is_typical_and_never_the_reference(examined: Examined, recogniser: object) -> None:
    from tests.unit.engine.test_inspection import A, B, C

    for person in (A, B, C):
        inspection = judge([examined(name) for name in person], recogniser)  # type: ignore[arg-type]
        training, held_out = split(inspection, 0.2)
        assert len(training) == 4
        assert len(held_out) == 1
        assert held_out[0] is not inspection.reference
        assert any(photo is inspection.reference for photo in training)
        assert len(split(inspection, 0.4)[1]) == 2
        assert len(split(inspection, 0.0)[1]) == 1


def render(template: int, likeness: float | None) -> Render:
    return Render(template, NOTHING, None, likeness, likeness)


def test_checkpoints_are_weighed_by_their_renders_among_the_best() -> None:
    renders = {
        50: [render(0, 0.1), render(1, 0.5)],
        100: [render(0, 0.3), render(1, 0.7)],
        150: [render(0, 0.2), render(1, None)],
    }
    assert merge.weights(renders, best=2) == {100: 1.0}
    assert merge.weights(renders, best=3) == {100: 2 / 3, 150: 1 / 3}


def test_an_easy_template_does_not_choose_the_checkpoints() -> None:
    """All renders of template 1 are likelier than any of template 0; the reference would look at template 1 only."""
    renders = {50: [render(0, 0.40), render(1, 0.80)], 100: [render(0, 0.10), render(1, 0.81)]}
    assert merge.weights(renders, best=1) == {50: 1.0}


def test_without_any_face_the_last_checkpoint_is_taken() -> None:
    assert merge.weights({50: [render(0, None)], 100: []}, best=10) == {100: 1.0}


def test_copying_a_training_photo_is_told_from_being_like_the_person() -> None:
    person, photo = np.array([1.0, 0, 0], np.float32), np.array([0.8, 0.6, 0], np.float32)
    assert validate.copy_paste(photo, person, [photo]) == pytest.approx(1, abs=0.01)
    assert validate.copy_paste(person, person, [photo]) == pytest.approx(-1, abs=0.01)


@pytest.fixture(scope="module")
def astronaut_face() -> InspectedPhoto:
    from engine.inspection import inspect_photos

    profile = MiniProfile("cpu")
    photo = Photo("astronaut", cv2.resize(astronaut(), (1024, 1024)))
    return inspect_photos([photo], profile.detector, profile.recogniser).usable[0]


def test_a_crop_shows_the_person_before_a_plain_background(astronaut_face: InspectedPhoto) -> None:
    profile = MiniProfile("cpu")
    region, face = retouch.prepared_region(astronaut_face, 43, profile.retoucher, profile.enhancer)
    saliency = profile.segmenter(region, face)
    assert saliency[tuple(face.points[2].astype(int)[::-1])] > 0.99  # the nose
    assert saliency[:10, :10].max() < 0.05
    crop = profile.portrait_crop(region, face).cut(segment.on_plain_background(region, saliency))
    assert crop.shape == (128, 128, 3)
    assert np.abs(crop[:6, :6].astype(int) - segment.BACKGROUND).max() < 12
    again = profile.segmenter(region, face)
    assert np.array_equal(saliency, again)
    without_hair = segment.person_mask(saliency, face, keep_hair=False)
    assert without_hair.sum() < saliency.sum()
    brows = tuple(face.landmarks[24].astype(int)[::-1])
    assert without_hair[brows] > 0.9


def test_only_poor_faces_are_enhanced(astronaut_face: InspectedPhoto) -> None:
    profile = MiniProfile("cpu")
    asked: list[int] = []

    def enhancer(rgb: np.ndarray) -> np.ndarray:
        asked.append(rgb.shape[1])
        return cv2.resize(rgb, None, fx=2, fy=2)

    _, plain = retouch.prepared_region(astronaut_face, 43, profile.retoucher, enhancer)
    assert not asked
    _, enhanced = retouch.prepared_region(astronaut_face, 400, profile.retoucher, enhancer)
    assert len(asked) == 1
    assert enhanced.width == pytest.approx(2 * plain.width, rel=0.01)


def test_retouching_keeps_eyes_and_background(astronaut_face: InspectedPhoto) -> None:
    profile = MiniProfile("cpu")
    face, rgb = astronaut_face.face, astronaut_face.photo.rgb
    smooth = profile.retoucher(rgb, face)
    changed = np.abs(smooth.astype(int) - rgb).max(-1)
    left, top, right, bottom = (int(v) for v in face.box_xyxy)
    assert changed[top:bottom, left:right].mean() > 0.2
    assert changed[:50, :50].max() == 0
    eye = face.landmarks[36:42].astype(int)
    assert changed[eye[:, 1].min() : eye[:, 1].max(), eye[:, 0].min() : eye[:, 0].max()].mean() < 0.5


def folder_of(person: str, shared_data: Path) -> list[Path]:
    return sorted((shared_data / "selfies" / person).glob("*.jpg"))


def test_the_whole_figure_runs_stops_and_resumes_to_the_same_subject(
    shared_data: Path, random_diffusion: Diffusion, tmp_path: Path
) -> None:
    profile = RandomProfile(random_diffusion)
    photos = folder_of("a", shared_data)
    told: list[Progress] = []
    unbroken = train_subject(photos, tmp_path / "one", profile, QUICK, told.append, tmp_path / "steps-one")
    stages = [progress.stage for progress in told]
    assert [stage for k, stage in enumerate(stages) if stage not in stages[:k]] == [
        Stage.INSPECT,
        Stage.PREPARE,
        Stage.TRAIN,
        Stage.MERGE,
    ]
    previews = {progress.preview for progress in told if progress.preview}
    assert len(previews) == 2
    assert all(read_photo(path).rgb.shape == (128, 128, 3) for path in previews)

    def stop(progress: Progress) -> None:
        if progress.stage is Stage.TRAIN and progress.done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        train_subject(photos, tmp_path / "two", profile, QUICK, stop, tmp_path / "steps-two")
    assert not (tmp_path / "two").exists()
    train_subject(photos, tmp_path / "two", profile, QUICK, silent, tmp_path / "steps-two")
    one, two = SubjectFiles(tmp_path / "one"), SubjectFiles(tmp_path / "two")
    assert one.lora.read_bytes() == two.lora.read_bytes()
    assert one.digital_id.read_bytes() == two.digital_id.read_bytes()
    assert one.card.read_bytes() == two.card.read_bytes()

    class Blind(MiniProfile):
        """What training saw need not be looked for again."""

        detector = property()  # type: ignore[assignment]

    sorted(one.references.iterdir())[-1].write_bytes(b"")
    known = Subject.read(one, Blind("cpu"))  # no photo is opened before it is looked at
    with pytest.raises(UnreadablePicture):
        _ = known.references[-1].rgb
    info = json.loads(one.info.read_text())
    two.info.write_text(json.dumps({name: value for name, value in info.items() if name != "found"}))
    searched = Subject.read(two, profile)
    assert len(known.references) == len(searched.references) == 4
    for ours, theirs in zip(known.references, searched.references, strict=True):
        away = np.linalg.norm(ours.face.landmarks - theirs.face.landmarks, axis=1).mean()
        assert away < 0.03 * theirs.face.width  # the files were cropped and compressed
        assert profile.recogniser.likeness(ours.embedding, theirs.embedding) > 0.85
        assert asdict(ours.traits) == pytest.approx(asdict(theirs.traits), rel=0.15, abs=0.15)
    assert known.digital_id.landmarks == pytest.approx(searched.digital_id.landmarks, abs=0.01)
    assert unbroken.usable == 5
    assert unbroken.steps == 4
    assert [c.step for c in unbroken.checkpoints] == [2, 4]
    assert len(info["held_out"][0]["embedding"]) == 128
    assert info["recogniser"] == "dlib-resnet-v1"
    assert len(info["references"]) == len(list(one.references.iterdir())) == 4
    assert info["held_out"][0]["file"] == unbroken.held_out[0]
    assert max(read_photo(one.reference).rgb.shape) <= 1024
    assert json.loads(json.dumps(unbroken.as_json())).keys() == {
        "usable",
        "held_out",
        "steps",
        "checkpoints",
        "merged",
        "seconds",
        "peak_mib",
    }


def test_four_photos_are_too_few_and_twenty_one_too_many(
    shared_data: Path, random_diffusion: Diffusion, tmp_path: Path
) -> None:
    profile = RandomProfile(random_diffusion)
    photos = folder_of("a", shared_data)
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(UnusablePhotos) as few:
        train_subject([*photos[:4], tmp_path / "text.jpg"], tmp_path / "out", profile, QUICK, silent, tmp_path / "c")
    assert (few.value.usable, few.value.needed) == (4, 5)
    assert "text.jpg: unreadable" in str(few.value)
    with pytest.raises(TooManyPhotos):
        train_subject([photos[0]] * 21, tmp_path / "out", profile, QUICK, silent, tmp_path / "c")
    assert not (tmp_path / "out").exists()


def test_steps_count_the_usable_photos() -> None:
    config = TrainingConfig(steps_per_photo=20, max_steps=150)
    assert config.steps_for(5) == 100
    assert config.steps_for(12) == 150


def test_written_previews_are_whole_pictures(tmp_path: Path) -> None:
    write_jpeg(tmp_path / "a.jpg", crops(1)[0])
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]
