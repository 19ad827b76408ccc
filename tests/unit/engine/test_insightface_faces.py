"""The InsightFace wrappers on stand-in packs, through the library's own FaceAnalysis and model zoo."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("insightface", reason="needs the production extra")

from engine.errors import MissingWeights
from engine.models.insightface_faces import InsightFaceFaces
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
