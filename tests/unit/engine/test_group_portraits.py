"""Several people on one template, on real group photos: who goes where, what stays, what a failing face costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine import portrait_steps
from engine.config import PortraitConfig
from engine.diffusion import InpaintRequest, Painting
from engine.errors import FusionFailed, NoFaceInTemplate, UnreadablePicture
from engine.images import read_photo
from engine.portraits import Skip, make_portraits
from engine.profiles import MiniProfile
from engine.progress import Progress, Stage
from engine.stages import join
from engine.stages.fuse import nearest_face
from engine.stages.template import left_to_right
from engine.types import Face, Photo, Rgb, SubjectFiles
from gpu_worker.contract.events import SKIP_REASONS
from tests.unit.engine.subjects import embedding_of

PAINTLESS = {"first_diffusion": False, "second_diffusion": False, "super_resolution": False}


@pytest.fixture(scope="module")
def profile() -> MiniProfile:
    return MiniProfile("cpu")


@pytest.fixture(scope="module")
def config(profile: MiniProfile) -> PortraitConfig:
    result: PortraitConfig = profile.portrait.with_changes(**PAINTLESS)
    return result


@pytest.fixture(scope="module")
def couple(shared_data: Path) -> Photo:
    """Cheek to cheek: a man on the left, a woman on the right."""
    return read_photo(shared_data / "selfies" / "family" / "detection6.jpg")


@pytest.fixture(scope="module")
def family(shared_data: Path) -> Photo:
    """Three faces that the detector finds, the middle one in front."""
    return read_photo(shared_data / "selfies" / "family" / "identification1.jpg")


def test_everybody_gets_the_face_they_were_named_for_and_nothing_else_changes(
    profile: MiniProfile, config: PortraitConfig, people: dict[str, SubjectFiles], couple: Photo, shared_data: Path
) -> None:
    report = make_portraits([people["b"], people["a"]], couple, profile, config)
    assert (report.faces, report.skipped, report.changed_outside_mask) == (2, (), 0)
    assert [person.face for person in report.people] == [0, 1]
    held_out = {
        name: embedding_of(shared_data / "selfies" / name / f"{photo}.jpg", profile.detector, profile.recogniser)  # type: ignore[arg-type]
        for name, photo in (("a", "img62"), ("b", "img30"))
    }
    for place, own, other in zip(left_to_right(profile.detector(couple.rgb)), "ba", "ab", strict=True):
        face = nearest_face(report.portrait, place, profile.detector)
        embedding = profile.recogniser.embed(report.portrait, face)
        likeness = {name: profile.recogniser.likeness(embedding, of) for name, of in held_out.items()}
        assert likeness[own] > profile.recogniser.same_person > likeness[other]


def test_a_face_that_nobody_is_named_for_keeps_every_bit(
    profile: MiniProfile, config: PortraitConfig, people: dict[str, SubjectFiles], family: Photo
) -> None:
    report = make_portraits([None, people["a"], people["b"]], family, profile, config)
    assert [person.face for person in report.people] == [1, 2]
    left, *others = left_to_right(profile.detector(family.rgb))
    changed = (report.portrait != family.rgb).any(-1)
    assert not changed[profile.parse(family.rgb, left).face > 0].any()
    for face in others:
        assert changed[profile.parse(family.rgb, face).face > 0].mean() > 0.5


def test_a_face_that_fails_is_skipped_and_said_and_the_others_are_there(
    config: PortraitConfig, people: dict[str, SubjectFiles], couple: Photo, tmp_path: Path
) -> None:
    Image.new("RGB", (200, 200)).save(tmp_path / "reference.jpg")
    parts: list[tuple[int, int]] = []

    def listen(progress: Progress) -> None:
        parts.append((progress.part, progress.parts))

    profile = MiniProfile("cpu")
    report = make_portraits([people["a"], SubjectFiles(tmp_path), people["b"]], couple, profile, config, listen)
    assert [(s.face, s.reason) for s in report.skipped] == [(1, Skip.SUBJECT_UNREADABLE), (2, Skip.NO_SUCH_FACE)]
    assert [person.face for person in report.people] == [0]
    assert set(parts) >= {(0, 3), (1, 3), (2, 3)}
    assert report.as_json(tmp_path / "p.jpg")["skipped"][0]["reason"] == "subject_unreadable"


def test_a_mistake_in_one_face_costs_no_other(
    config: PortraitConfig, people: dict[str, SubjectFiles], couple: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine import portraits

    crop = portraits.working_crop

    def particular(rgb: Rgb, face: Face, scale: float | None) -> object:
        if face.box_xyxy[0] > 250:
            raise ValueError("the right face lies badly")
        return crop(rgb, face, scale)

    monkeypatch.setattr(portraits, "working_crop", particular)
    report = make_portraits([people["a"], people["b"]], couple, MiniProfile("cpu"), config)
    assert [(s.face, s.reason) for s in report.skipped] == [(1, Skip.FACE_FAILED)]
    assert "lies badly" in report.skipped[0].detail
    assert [person.face for person in report.people] == [0]


def test_where_nobody_can_be_done_the_first_fault_is_raised(
    profile: MiniProfile, config: PortraitConfig, people: dict[str, SubjectFiles], couple: Photo, tmp_path: Path
) -> None:
    Image.new("RGB", (200, 200)).save(tmp_path / "reference.jpg")
    with pytest.raises(UnreadablePicture):
        make_portraits([SubjectFiles(tmp_path)], couple, profile, config)
    with pytest.raises(NoFaceInTemplate, match="2 faces, none is number 3"):
        make_portraits([None, None, people["a"]], couple, profile, config)


def test_a_fusion_that_fails_for_one_face_is_noted_not_skipped(
    config: PortraitConfig, people: dict[str, SubjectFiles], couple: Photo
) -> None:
    class Failing(MiniProfile):
        @property
        def fuser(self):  # type: ignore[no-untyped-def,override]
            def fail(*_: object) -> Rgb:
                raise FusionFailed("turned too far")

            return fail

    report = make_portraits([people["a"], people["b"]], couple, Failing("cpu"), config)
    assert report.skipped == ()
    assert any("face fusion skipped: turned too far" in note for note in report.notes)


@pytest.mark.parametrize(
    ("tint", "longest"),
    [((60, -60, 60), 2048), ((0, 0, 0), 2048), ((0, 0, 0), 300), ((-6, -4, -4), 300), ((6, 4, 4), 2048)],
)
def test_the_harmonising_pass_runs_once_and_leaves_no_new_seam(
    config: PortraitConfig,
    people: dict[str, SubjectFiles],
    couple: Photo,
    tint: tuple[int, int, int],
    longest: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(portrait_steps, "LONGEST", longest)  # of the piece that shows both: whole, or shrunk
    masks: list[np.ndarray] = []
    passes = 2  # the second of each face, which paints nothing

    class Spoiler:
        def painting(self, request: InpaintRequest, on_step: object = None) -> Painting:
            assert request.mask is not None
            masks.append(request.mask)
            change = np.array(tint) if len(masks) > passes else 0
            return Painting(
                request.image, lambda: [np.clip(request.image.astype(int) + change, 0, 255).astype(np.uint8)]
            )

    class Spoiling(MiniProfile):
        diffusion = Spoiler()  # type: ignore[assignment]

    numbers = config.with_changes(second_diffusion=True)
    who = [people["b"], people["a"]]
    seen: list[Stage] = []
    report = make_portraits(who, couple, Spoiling("cpu"), numbers, lambda progress: seen.append(progress.stage))
    assert seen.count(Stage.HARMONISE) == 2  # begun and ended once, for both faces
    assert len(masks) == passes + 1
    assert 0 < masks[-1].mean() < 0.6
    assert report.changed_outside_mask == 0
    masks.clear()
    without = make_portraits(who, couple, Spoiling("cpu"), numbers.with_changes(harmonise=False))
    assert len(masks) == passes
    assert report.seam["final"] <= without.seam["final"] + 0.005  # rounded to 0.01
    if not any(tint):
        assert np.array_equal(report.portrait, without.portrait)


def test_the_band_follows_every_face_and_leaves_its_middle(profile: MiniProfile, couple: Photo) -> None:
    faces = profile.detector(couple.rgb)
    parts = [profile.parse(couple.rgb, face) for face in faces]
    everywhere = np.ones(couple.rgb.shape[:2], np.float32)
    band = join.band(list(zip(faces, parts, strict=True)), everywhere)
    for face, own in zip(faces, parts, strict=True):
        nose = np.round(face.landmarks[30]).astype(int)
        assert band[nose[1], nose[0]] == 0
        jaw = np.round(face.landmarks[8]).astype(int)
        assert band[jaw[1], jaw[0]] == 1
        assert own.face.max() == 1
    assert join.band(list(zip(faces, parts, strict=True)), everywhere * 0).max() == 0


@pytest.mark.parametrize("size", [(300, 500), (500, 300), (64, 64), (333, 777)])
def test_a_canvas_for_everybody_shows_the_whole_picture_on_whole_multiples(size: tuple[int, int]) -> None:
    canvas = join.canvas((*size, 3), 256)
    assert all(side % join.MULTIPLE == 0 for side in canvas.size)
    assert max(canvas.size) == 256
    corners = canvas.to_canvas(np.array([[0, 0], [size[1] - 1, size[0] - 1]], np.float32))
    assert (corners >= -1).all()
    assert (corners <= np.array(canvas.size)).all()


def test_faces_are_counted_from_the_left(couple: Photo, profile: MiniProfile) -> None:
    faces = profile.detector(couple.rgb)
    assert faces[0].area >= faces[1].area
    mirrored = [replace(face, box_xyxy=(600 - f[2], f[1], 600 - f[0], f[3])) for face in faces if (f := face.box_xyxy)]
    lefts = [face.box_xyxy[0] for face in left_to_right(mirrored)]
    assert lefts == sorted(lefts)


def test_the_reasons_are_those_of_the_contract() -> None:
    assert {skip.value for skip in Skip} == SKIP_REASONS
