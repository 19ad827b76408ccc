"""The InsightFace wrappers on stand-in packs, through the library's own FaceAnalysis and model zoo."""

from __future__ import annotations

import socket
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("insightface", reason="needs the production extra")

import onnxruntime

from engine.diffusion import Painting
from engine.errors import MissingWeights
from engine.models.insightface_faces import InsightFaceFaces
from engine.models.lanczos import LanczosEnhancer
from engine.portraits import make_portraits
from engine.sd15_profile import Sd15Profile
from engine.stages.reference import Reference
from engine.subject import Subject
from engine.types import Photo
from tests.stand_ins import insightface_packs as packs

SIDE = 640


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a test reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> InsightFaceFaces:
    return InsightFaceFaces(packs.write_pack(tmp_path_factory.mktemp("pack"), yaw=25, pitch=10, roll=-5))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each network ran, told by the size of its input."""
    counted: Counter[str] = Counter()
    run = onnxruntime.InferenceSession.run

    def counting(self: Any, names: Any, inputs: dict[str, np.ndarray], *more: Any) -> Any:
        (picture,) = inputs.values()
        counted[{112: "face id", 192: "landmarks"}.get(picture.shape[2], "detector")] += 1
        return run(self, names, inputs, *more)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", counting)
    return counted


def scene(*patches: tuple[tuple[int, int, int], int, int, int]) -> np.ndarray:
    """A grey picture with square patches: colour, left, top, side."""
    rgb = np.full((SIDE, SIDE, 3), 90, np.uint8)
    for colour, left, top, side in patches:
        rgb[top : top + side, left : left + side] = colour
    return rgb


def test_faces_come_largest_first_with_boxes_and_points_where_they_are(faces: InsightFaceFaces) -> None:
    found = faces.detector(scene((packs.CYAN, 64, 64, 16), (packs.MAGENTA, 320, 256, 32)))
    assert len(found) == 2
    large, small = found
    assert large.box_xyxy == pytest.approx((336 - 64, 272 - 64, 336 + 64, 272 + 64), abs=1)
    assert small.box_xyxy == pytest.approx((72 - 32, 72 - 32, 72 + 32, 72 + 32), abs=1)
    assert large.points[0] == pytest.approx(
        [336 - 32, 272 - 0.6 * 32], abs=1
    )  # the eye left in the picture comes first
    assert large.points[0, 0] < large.points[1, 0]
    assert large.landmarks.shape == (68, 2)
    assert 0.9 < large.score <= 1


def test_a_face_of_swapped_colours_is_not_found(faces: InsightFaceFaces) -> None:
    """The detector must be given RGB as RGB: with red and blue swapped, cyan turns to yellow."""
    assert faces.detector(scene(((255, 255, 0), 64, 64, 16))) == []
    assert len(faces.detector(scene((packs.CYAN, 64, 64, 16)))) == 1


def test_a_face_that_fills_the_frame_is_found_by_the_small_size(faces: InsightFaceFaces) -> None:
    rgb = scene((packs.MAGENTA, 160, 160, 160))  # one cell of the 128-pixel view
    widest = max(face.width for face in faces.detector(rgb))
    assert widest == pytest.approx(SIDE, abs=2)


def test_no_face_gives_an_empty_list(faces: InsightFaceFaces) -> None:
    assert faces.detector(np.zeros((300, 200, 3), np.uint8)) == []


@pytest.mark.parametrize(("yaw", "pitch", "roll"), [(25, 0, 0), (-40, 0, 0), (0, 20, 0), (0, -15, 0), (0, 0, 30)])
def test_head_pose_follows_the_signs_of_the_engine(tmp_path: Path, yaw: float, pitch: float, roll: float) -> None:
    pack = packs.write_pack(tmp_path, yaw, pitch, roll)
    face = InsightFaceFaces(pack).detector(scene((packs.MAGENTA, 320, 256, 32)))[0]
    assert (face.pose.yaw, face.pose.pitch, face.pose.roll) == pytest.approx((yaw, pitch, roll), abs=1)
    if yaw > 0:  # the nose is further right than the middle of the eyes
        assert face.landmarks[30, 0] > face.landmarks[36:48, 0].mean()


def test_landmarks_are_those_of_the_picture_not_of_the_crop(faces: InsightFaceFaces) -> None:
    face = faces.detector(scene((packs.MAGENTA, 320, 256, 32)))[0]
    centre = np.array([336, 272])
    expected = centre + packs.turned_head(25, 10, -5)[:, :2] * packs.HEAD_SCALE * 0.75 * face.width
    assert face.landmarks == pytest.approx(expected, abs=1.5)


def test_embeddings_are_unit_vectors_and_tell_faces_apart(faces: InsightFaceFaces) -> None:
    rng = np.random.default_rng(1)
    one, other = (rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(2))
    face = faces.detector(scene((packs.MAGENTA, 320, 256, 32)))[0]
    a, b = faces.recogniser.embed(one, face), faces.recogniser.embed(other, face)
    assert a.shape == (512,)
    assert np.linalg.norm(a) == pytest.approx(1, abs=1e-5)
    assert faces.recogniser.likeness(a, a) == pytest.approx(1, abs=1e-5)
    assert faces.recogniser.likeness(a, b) < 0.9
    assert faces.recogniser.name == "insightface-w600k_r50"


def test_a_face_id_file_for_one_face_at_a_time_says_the_same(tmp_path: Path, faces: InsightFaceFaces) -> None:
    one = InsightFaceFaces(
        packs.write_pack(tmp_path / "pack"), recognition=packs.write_face_id(tmp_path / "one.onnx", batch=1)
    )
    rgb = np.random.default_rng(1).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    seen = faces.detector(scene((packs.CYAN, 64, 64, 16), (packs.MAGENTA, 320, 256, 32)))
    assert len(seen) == 2
    for face in seen:
        assert one.recogniser.embed(rgb, face) == pytest.approx(faces.recogniser.embed(rgb, face))


def test_a_known_face_is_found_in_one_run_of_the_detector(faces: InsightFaceFaces, runs: Counter[str]) -> None:
    rgb = scene((packs.MAGENTA, 64, 64, 32), (packs.CYAN, 560, 560, 16))
    (whole,) = (face for face in faces.detector(rgb) if face.width > 100)
    assert runs == {"detector": 2, "landmarks": 2}
    runs.clear()
    (near,) = faces.detector.near(rgb, whole)
    assert runs == {"detector": 1, "landmarks": 1}
    middle, known = near.landmarks.mean(0), whole.landmarks.mean(0)
    assert np.linalg.norm(middle - known) < 0.1 * whole.width  # the stand-in knows one size only: not all points agree


def test_providers_may_carry_options(tmp_path: Path) -> None:
    """As the CUDA provider does, which no test machine has."""
    pack = packs.write_pack(tmp_path)
    providers = [("CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"})]
    assert len(InsightFaceFaces(pack, providers).detector(scene((packs.MAGENTA, 320, 256, 32)))) == 1


class _Portraits(Sd15Profile):
    """The profile's numbers and stages; fusion and diffusion change a corner, so that the face is still seen."""

    def __init__(self, folder: Path, faces: InsightFaceFaces) -> None:
        super().__init__(folder, device="cpu")
        self._found = faces

    detector = property(lambda self: self._found.detector)  # type: ignore[assignment]
    recogniser = property(lambda self: self._found.recogniser)  # type: ignore[assignment]
    fuser = property(lambda _: lambda template, *_: template.copy())  # type: ignore[assignment]
    enhancer = LanczosEnhancer()  # type: ignore[assignment]
    content_check = None  # type: ignore[assignment]
    diffusion = SimpleNamespace(  # type: ignore[assignment]
        painting=lambda request, on_step: Painting(request.image, lambda: [request.image.copy()] * request.count)
    )


def test_a_portrait_costs_so_many_runs_of_the_face_networks(
    tmp_path: Path, faces: InsightFaceFaces, runs: Counter[str]
) -> None:
    """A search of the whole template at two sizes, then one in the face's surroundings wherever it may have moved:
    the piece, three fusions tried, the one taken, the first pass, the second fusion twice, the second pass. Embedded
    are the three tried fusions, the fusion, four shares of the passes' change (as many as the guard can try), the
    matched rim and the template; the portrait shows the same face as the last of them. The landmarks run once for each
    face there."""
    template = Photo("template", scene((packs.MAGENTA, 64, 64, 32)))
    face = faces.detector(template.rgb)[0]
    embedding = faces.recogniser.embed(template.rgb, face)
    references = tuple(Reference.of(template.rgb, face, embedding + np.float32(k)) for k in (0, 1e-3, 2e-3, 3e-3))
    subject = Subject(references, face, None, "", (embedding,), ("held-out.jpg",))
    profile = _Portraits(tmp_path, faces)
    runs.clear()
    report = make_portraits(subject, template, profile, profile.portrait)
    assert report.likeness["final"] > 0.5
    assert (runs["detector"], runs["face id"]) == (2 + 9, 3 + 1 + 4 + 1 + 1)


def test_another_face_id_file_replaces_the_packs(tmp_path: Path, faces: InsightFaceFaces) -> None:
    pack = packs.write_pack(tmp_path / "pack")
    own = packs.write_face_id(tmp_path / "auraface" / "glintr100.onnx", seed=7)
    mixed = InsightFaceFaces(pack, recognition=own, same_person=0.3)
    rgb = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    face = faces.detector(scene((packs.MAGENTA, 320, 256, 32)))[0]
    assert mixed.recogniser.name == "insightface-glintr100"
    assert mixed.recogniser.same_person == 0.3
    assert mixed.recogniser.likeness(mixed.recogniser.embed(rgb, face), faces.recogniser.embed(rgb, face)) < 0.5


def test_a_pack_one_folder_too_deep_is_found(tmp_path: Path) -> None:
    packs.write_pack(tmp_path / "antelopev2" / "antelopev2")
    assert InsightFaceFaces(tmp_path / "antelopev2").detector(scene()) == []


def test_what_is_missing_is_one_sentence_that_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="python -m engine models fetch"):
        InsightFaceFaces(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingWeights, match="holds no ONNX files"):
        InsightFaceFaces(tmp_path / "empty")
    packs.write_face_id(tmp_path / "half" / "w600k_r50.onnx")
    with pytest.raises(MissingWeights, match="detection, landmark_3d_68"):
        InsightFaceFaces(tmp_path / "half")


def test_a_file_of_another_kind_is_not_taken_as_face_id(tmp_path: Path) -> None:
    pack = packs.write_pack(tmp_path)
    with pytest.raises(MissingWeights, match="is no FaceID network"):
        InsightFaceFaces(pack, recognition=pack / "genderage.onnx")
