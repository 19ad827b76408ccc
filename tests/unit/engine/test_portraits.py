"""Figure 2 from end to end on real photos, with the small diffusion at few steps."""

from __future__ import annotations

import json
import shutil
import threading
import time
from concurrent.futures import Executor, Future
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from engine.config import PortraitConfig, Style, portrait_style
from engine.diffusion import InpaintRequest, Painting
from engine.errors import FusionFailed, NoFaceInTemplate, Stopped, UnreadablePicture
from engine.images import read_photo
from engine.lora import UnknownLora
from engine.models.dlib_faces import DlibDetector, DlibFaceId
from engine.portraits import make_portrait_file, make_portraits
from engine.profiles import MiniProfile
from engine.progress import Progress, Stage
from engine.sample import write_selfies
from engine.stages import guard
from engine.types import Embedding, Face, Photo, Rgb, SubjectFiles
from tests.unit.engine.subjects import write_subject

FAST = {"first_steps": 4, "second_steps": 5}
NO_DIFFUSION = {"first_diffusion": False, "second_diffusion": False}


@pytest.fixture(scope="module")
def profile() -> MiniProfile:
    return MiniProfile("cpu")


@pytest.fixture(scope="module")
def subject(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory, detector: DlibDetector, recogniser: DlibFaceId
) -> Path:
    """Person b as training leaves them, without a LoRA; img30 is held out."""
    folder = tmp_path_factory.mktemp("subject")
    (folder / "references").mkdir()
    for name in ("img29", "img31", "img32"):
        shutil.copy(shared_data / "selfies" / "b" / f"{name}.jpg", folder / "references")
    shutil.copy(shared_data / "selfies" / "b" / "img31.jpg", folder / "reference.jpg")
    held_out = read_photo(shared_data / "selfies" / "b" / "img30.jpg").rgb
    embedding = recogniser.embed(held_out, detector(held_out)[0])
    info = {"held_out": [{"file": "img30.jpg", "embedding": embedding.tolist()}]}
    (folder / "subject.json").write_text(json.dumps(info), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def template(shared_data: Path) -> Photo:
    return read_photo(shared_data / "templates" / "8.jpg", 600)  # px: small is quick


def config(profile: MiniProfile, **changes: object) -> PortraitConfig:
    result: PortraitConfig = profile.portrait.with_changes(**changes)
    return result


def test_a_portrait_is_the_subject_in_the_template(
    profile: MiniProfile, subject: Path, shared_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "portrait.jpg"
    seen: list[Progress] = []
    file = shared_data / "templates" / "8.jpg"
    result = make_portrait_file(subject, file, out, profile, config(profile, **FAST), seen.append)
    likeness = result["likeness"]
    assert likeness["final"] > profile.recogniser.same_person + 0.05
    assert likeness["final"] > likeness["template"] + 0.2
    assert (likeness["encoder"], likeness["to"]) == ("dlib-resnet-v1", ["img30.jpg"])
    assert result["changed_outside_mask"] == 0
    assert result["seam"] < result["seam_fused"]
    assert 0 <= result["diffusion_share"] <= 1
    assert result["faces"] == 1
    assert any("LoRA" in note for note in result["notes"])
    assert json.loads(json.dumps(result)) == result
    with Image.open(out) as picture:
        assert list(picture.size) == result["size"] == [2 * 699, 2 * 1000]
    assert {p.stage for p in seen} >= {Stage.TEMPLATE, Stage.FUSE, Stage.FIRST_DIFFUSION, Stage.SECOND_DIFFUSION}
    assert set(result["seconds"]) >= {Stage.FUSE, Stage.FIRST_DIFFUSION, Stage.SECOND_FUSION, Stage.SECOND_DIFFUSION}


def test_a_switched_off_diffusion_is_said_and_the_best_of_one_is_that_one(
    profile: MiniProfile, subject: Path, template: Photo
) -> None:
    numbers = config(profile, **NO_DIFFUSION, super_resolution=False)
    report = make_portraits(SubjectFiles(subject), template, profile, numbers)
    assert "first diffusion switched off" in report.notes
    assert "second diffusion switched off" in report.notes
    assert report.portrait.shape == template.rgb.shape
    assert report.others == ()
    assert np.array_equal(report.portrait[:20], template.rgb[:20])


def test_candidates_come_best_first_with_their_scores_and_none_twice(
    profile: MiniProfile, subject: Path, template: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Helpful:
        """Leaves the face alone; the further the seed, the stronger the grain."""

        def painting(self, request: InpaintRequest, on_step: object = None) -> Painting:
            grain = np.random.default_rng(0).normal(0, 1, request.image.shape)
            pictures = [np.clip(request.image + grain * k, 0, 255).astype(np.uint8) for k in (4, 1, 1)]
            return Painting(request.image, lambda: pictures[: request.count])

    class Grainy(MiniProfile):
        diffusion = Helpful()  # type: ignore[assignment]

    monkeypatch.setattr(guard, "MARGIN", -1.0)  # everything may stay
    numbers = config(profile, second_diffusion=False, fusion_after=False, candidates=3, super_resolution=False)
    report = make_portraits(SubjectFiles(subject), template, Grainy("cpu"), numbers)
    assert len(report.others) == 1  # two of the three were the same picture
    assert (report.portrait != report.others[0]).any()
    assert any("same picture" in note for note in report.notes)
    scores = [report.scores(k) for k in (0, 1)]
    assert scores[0].worth >= scores[1].worth
    assert {report.seed(0), report.seed(1)} <= {12345, 12346, 12347}
    candidates = report.as_json(Path("p.jpg"))["candidates"]
    assert [c["worth"] for c in candidates] == [s.worth for s in scores]
    assert set(candidates[0]) == {"seed", "likeness", "quality", "seam", "worth"}


def test_what_is_done_side_by_side_is_what_is_done_in_turn_and_no_face_is_asked_for_beside_a_pass(
    subject: Path, template: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass on the GPU is being recorded, and so would be what another thread runs there."""

    class InTurn(Executor):
        """Threads that are none."""

        def __init__(self, *_: object) -> None: ...

        def submit(self, do, /, *of, **by_name):  # type: ignore[no-untyped-def,override]
            done: Future[object] = Future()
            done.set_result(do(*of, **by_name))
            return done

    painting = threading.Event()

    class Slow:
        """The further the seed, the stronger the grain; long enough for others to get on meanwhile."""

        def painting(self, request: InpaintRequest, on_step: object = None) -> Painting:
            painting.set()
            time.sleep(0.2)
            grain = np.random.default_rng(request.seed).normal(0, 3, request.image.shape)
            pictures = [np.clip(request.image + grain * k, 0, 255).astype(np.uint8) for k in range(request.count)]
            painting.clear()
            return Painting(request.image, lambda: pictures)

    class Alone(DlibFaceId):
        def embed(self, rgb: Rgb, face: Face) -> Embedding:
            assert not painting.is_set()
            return super().embed(rgb, face)

    class Watched(MiniProfile):
        diffusion = Slow()  # type: ignore[assignment]
        recogniser = Alone()

    monkeypatch.setattr(guard, "MARGIN", -1.0)  # everything may stay
    numbers = config(Watched("cpu"), candidates=3, super_resolution=False)
    beside = make_portraits(SubjectFiles(subject), template, Watched("cpu"), numbers)
    monkeypatch.setattr("engine.portraits.ThreadPoolExecutor", InTurn)
    in_turn = make_portraits(SubjectFiles(subject), template, Watched("cpu"), numbers)
    assert len(beside.others) == 2
    for one, other in zip((beside.portrait, *beside.others), (in_turn.portrait, *in_turn.others), strict=True):
        assert np.array_equal(one, other)
    assert beside.people == in_turn.people
    assert beside.notes == in_turn.notes


def test_no_pass_paints_the_forehead_of_who_has_a_fringe(
    subject: Path, template: Photo, tmp_path: Path, detector: DlibDetector, recogniser: DlibFaceId
) -> None:
    """Their LoRA has learned the fringe and would paint what of it fits into the mask: a dark band."""
    selfies = write_selfies(tmp_path / "selfies")
    fringed = write_subject(tmp_path / "fringed", selfies[:3], selfies[3], detector, recogniser)
    asked: list[InpaintRequest] = []

    class Idle:
        def painting(self, request: InpaintRequest, on_step: object = None) -> Painting:
            asked.append(request)
            return Painting(request.image, lambda: [request.image])

    class Watched(MiniProfile):
        diffusion = Idle()  # type: ignore[assignment]

    profile = Watched("cpu")
    for files in (SubjectFiles(subject), fringed):
        make_portraits(files, template, profile, config(profile, super_resolution=False))
    tops = [int(np.flatnonzero(request.mask.any(1))[0]) for request in asked if request.mask is not None]
    assert len(tops) == 4  # two passes each
    height = asked[0].image.shape[0]
    assert min(tops[2:]) > max(tops[:2]) + height / 20


def test_a_lora_that_cannot_be_read_is_said_although_it_was_read_beside(
    profile: MiniProfile, subject: Path, template: Photo, tmp_path: Path
) -> None:
    broken = SubjectFiles(shutil.copytree(subject, tmp_path / "subject"))
    broken.lora.write_bytes(b"no LoRA")
    with pytest.raises(UnknownLora, match="no safetensors file"):
        make_portraits(broken, template, profile, config(profile, **FAST))


def test_a_diffusion_that_costs_likeness_is_taken_back_and_said(subject: Path, template: Photo) -> None:
    class Smearing:
        def painting(self, request: InpaintRequest, on_step: object = None) -> Painting:
            return Painting(request.image, lambda: [cv2.blur(request.image, (25, 25))])

    class Harmful(MiniProfile):
        diffusion = Smearing()  # type: ignore[assignment]

    profile = Harmful("cpu")
    numbers = config(profile, fusion_after=False, super_resolution=False)
    report = make_portraits(SubjectFiles(subject), template, profile, numbers)
    assert report.diffusion_share < 0.5
    assert report.likeness["final"] > report.likeness["fused"] - 0.02
    assert any("cost likeness" in note for note in report.notes)


def test_a_fusion_that_fails_is_skipped_and_said(subject: Path, template: Photo) -> None:
    class Failing(MiniProfile):
        @property
        def fuser(self):  # type: ignore[no-untyped-def,override]
            def fail(*_: object) -> Rgb:
                raise FusionFailed("no network")

            return fail

    profile = Failing("cpu")
    numbers = config(profile, **NO_DIFFUSION, super_resolution=False)
    report = make_portraits(SubjectFiles(subject), template, profile, numbers)
    assert [note for note in report.notes if note.startswith("face fusion skipped")]
    assert report.likeness["final"] < 0.4


def test_a_template_without_a_face_is_refused(profile: MiniProfile, subject: Path) -> None:
    empty = Photo("wall", np.full((400, 400, 3), 128, np.uint8))
    with pytest.raises(NoFaceInTemplate):
        make_portraits(SubjectFiles(subject), empty, profile, profile.portrait)


def test_a_subject_without_a_face_is_refused(profile: MiniProfile, tmp_path: Path, template: Photo) -> None:
    Image.new("RGB", (200, 200)).save(tmp_path / "reference.jpg")
    with pytest.raises(UnreadablePicture):
        make_portraits(SubjectFiles(tmp_path), template, profile, profile.portrait)


def test_stopping_in_the_middle_of_a_pass_stops(profile: MiniProfile, subject: Path, template: Photo) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage is Stage.FIRST_DIFFUSION:
            raise Stopped

    with pytest.raises(Stopped):
        make_portraits(SubjectFiles(subject), template, profile, config(profile, **FAST), stop)


def test_of_several_faces_the_largest_is_replaced_and_the_others_keep_every_bit(
    profile: MiniProfile, subject: Path, shared_data: Path
) -> None:
    group = read_photo(shared_data / "selfies" / "family" / "detection5.jpg")
    faces = profile.detector(group.rgb)
    numbers = config(profile, **NO_DIFFUSION, super_resolution=False)
    report = make_portraits(SubjectFiles(subject), group, profile, numbers)
    assert report.faces == len(faces) > 1

    changed = (report.portrait != group.rgb).any(-1)
    assert changed[profile.parse(group.rgb, faces[0]).face > 0].any()
    for other in faces[1:]:
        assert not changed[profile.parse(group.rgb, other).face > 0].any()


def test_strict_likeness_never_weakens_what_a_profile_asks_for(profile: MiniProfile) -> None:
    strict = portrait_style(Style.STRICT, profile.portrait)
    assert strict.fusion_before_ratio >= profile.portrait.fusion_before_ratio
    assert strict.fusion_after_ratio >= profile.portrait.fusion_after_ratio
    assert strict.first_strength <= profile.portrait.first_strength
