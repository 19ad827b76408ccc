"""Face fusion by landmarks: geometry on the mean head, likeness and untouched surroundings on real photos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.errors import FusionFailed
from engine.focus import edge_blur
from engine.images import read_photo
from engine.inspection import PhotoFindings
from engine.models.dlib_faces import DlibDetector, DlibFaceId
from engine.models.landmark_fusion import LandmarkFuser
from engine.models.mean_head import MEAN_HEAD, HeadView
from engine.types import Face, HeadPose, Points, Rgb


def seen_head(yaw: float, pitch: float = 0.0, scale: float = 100.0) -> Points:
    """The mean head's 68 points, turned by degrees, in the middle of a picture of 600 x 600."""
    y, p = np.radians([yaw, pitch])
    turn = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    nod = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    points: Points = (scale * (MEAN_HEAD @ (nod @ turn).T)[:, :2] + 260).astype(np.float32)
    return points


def face_of(landmarks: Points) -> Face:
    (x1, y1), (x2, y2) = landmarks.min(0), landmarks.max(0)
    return Face((x1, y1, x2, y2), landmarks[:5], landmarks, 1.0, HeadPose(0, 0, 0))


@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (25, 0), (-40, 10), (10, -15)])
def test_a_head_is_seen_from_where_it_was_projected(yaw: float, pitch: float) -> None:
    view = HeadView.of(seen_head(yaw, pitch))
    looks = view.rotation[:, 2]
    assert np.degrees(np.arctan2(looks[0], looks[2])) == pytest.approx(yaw, abs=1.0)
    assert view.scale == pytest.approx(100, rel=0.01)
    assert view.angle_to(HeadView.of(seen_head(0))) == pytest.approx(np.hypot(yaw, pitch), abs=1.5)


def test_a_persons_head_projects_on_their_own_landmarks() -> None:
    landmarks = seen_head(20) + np.random.default_rng(0).normal(0, 3, (68, 2)).astype(np.float32)
    view = HeadView.of(landmarks)
    assert np.allclose(view.project(view.head(landmarks)), landmarks, atol=1e-2)


def test_opposite_profiles_are_refused() -> None:
    picture = np.full((600, 600, 3), 128, np.uint8)
    with pytest.raises(FusionFailed):
        LandmarkFuser()(picture, face_of(seen_head(-40)), picture, face_of(seen_head(40)))


def test_a_face_outside_its_picture_is_refused() -> None:
    picture = np.full((600, 600, 3), 128, np.uint8)
    face = face_of(seen_head(0))
    away = replace(face, landmarks=face.landmarks + 5000)
    with pytest.raises(FusionFailed):
        LandmarkFuser()(picture, away, picture, face)


@pytest.fixture(scope="module")
def template(shared_data: Path) -> Rgb:
    return read_photo(shared_data / "templates" / "8.jpg").rgb


@pytest.mark.parametrize(
    ("reference", "held_out"), [("a/img61", "a/img62"), ("b/img31", "b/img30"), ("c/img13", "c/img14")]
)
def test_the_fused_face_is_the_references_and_the_rest_is_the_template(
    template: Rgb,
    detector: DlibDetector,
    recogniser: DlibFaceId,
    examined: Callable[[str], PhotoFindings],
    reference: str,
    held_out: str,
) -> None:
    face = detector(template)[0]
    person, other = examined(reference), examined(held_out)
    fused = LandmarkFuser()(template, face, person.photo.rgb, person.faces[0].face)
    fused_face = detector(fused)[0]
    likeness = recogniser.likeness(
        recogniser.embed(fused, fused_face), recogniser.embed(other.photo.rgb, other.faces[0].face)
    )
    assert likeness > recogniser.same_person + 0.05
    far = np.ones(template.shape[:2], bool)
    x1, y1, x2, y2 = (int(v) for v in face.box_xyxy)
    reach = int(face.width)
    far[max(0, y1 - reach) : y2 + reach, max(0, x1 - reach) : x2 + reach] = False
    assert np.array_equal(fused[far], template[far])
    assert np.abs(fused_face.landmarks - face.landmarks).mean() < 0.12 * face.width  # the pose is the template's


def marked_face(marks: str, colour: tuple[int, int, int]) -> tuple[Rgb, Face]:
    """A plain skin-coloured picture with a head in it; `marks` colours its "fringe" or its "beard"."""
    picture = np.full((600, 600, 3), (205, 160, 140), np.uint8)
    landmarks = seen_head(0)
    brows, chin, mouth = landmarks[17:27, 1].min(), landmarks[8, 1], landmarks[57, 1]
    rows = slice(0, int(brows - 8)) if marks == "fringe" else slice(int(mouth + 10), int(chin + 60))
    if marks:
        picture[rows] = colour
    return picture, face_of(landmarks)


def changed_rows(reference: Rgb, face: Face) -> np.ndarray:
    """How much each row of a plain template changes in the middle of the face when `reference` is fused into it."""
    plain, _ = marked_face("", (0, 0, 0))
    middle = int(face.landmarks[30, 0])
    fused = LandmarkFuser()(plain, face, reference, face)
    return np.abs(fused.astype(int) - plain)[:, middle - 20 : middle + 20].mean((1, 2))


def test_a_fringe_stays_with_its_owner() -> None:
    """Half a fringe on another forehead looks like a smear."""
    reference, face = marked_face("fringe", (70, 45, 30))
    brows = int(face.landmarks[17:27, 1].min())
    assert changed_rows(reference, face)[brows - 80 : brows - 25].max() < 8


def test_no_line_runs_across_the_brows_of_who_has_a_fringe() -> None:
    """The light under a fringe ends where the fringe begins; the template's forehead is bare there."""
    reference, face = marked_face("fringe", (70, 45, 30))
    brows, middle = int(face.landmarks[17:27, 1].min()), int(face.landmarks[27, 0])
    reference[brows - 8 : brows + 20] += 16
    plain, _ = marked_face("", (0, 0, 0))
    fused = LandmarkFuser()(plain, face, reference, face)
    light = fused[brows - 120 : brows + 5, middle - 15 : middle + 15].mean((1, 2))
    assert np.abs(light[8:] - light[:-8]).max() < 4, "within 8 rows, of a face 166 wide"
    assert light.max() - light.min() < 12
    assert np.array_equal(fused[: brows - 120], plain[: brows - 120])


def test_a_beard_hangs_over_the_jaw() -> None:
    """Cut off along the jaw line it would end in a rim of the template's pale chin."""
    reference, face = marked_face("beard", (50, 35, 25))
    chin = int(face.landmarks[8, 1])
    changed = changed_rows(reference, face)
    assert changed[chin - 4 : chin + 4].min() > 30
    assert changed[chin + 90 :].max() == 0


def drawn_features(picture: Rgb, face: Face) -> Rgb:
    """`picture` with eyes, brows and lips on it."""
    result = picture.copy()
    for part in (slice(17, 22), slice(22, 27), slice(36, 42), slice(42, 48), slice(48, 60)):
        points = cv2.convexHull(np.round(face.landmarks[part]).astype(np.int32))
        cv2.fillConvexPoly(result, points, (60, 40, 35), cv2.LINE_AA)
    return result


def test_a_face_over_one_out_of_focus_is_out_of_focus() -> None:
    sigma = 4.0
    plain, face = marked_face("", (0, 0, 0))
    sharp = drawn_features(plain, face)
    template = cv2.GaussianBlur(sharp, (0, 0), sigma).astype(np.uint8)
    fused = LandmarkFuser()(template, face, sharp, face)
    blurs = [edge_blur(rgb.astype(np.float32) / np.float32(255), face.landmarks) for rgb in (sharp, template, fused)]
    assert blurs[0] < 1
    assert blurs[1] == pytest.approx(sigma, rel=0.35)
    assert blurs[2] > 1.8 * blurs[0]
    assert blurs[2] > 0.5 * blurs[1]  # darkest and lightest places gain a little contrast in the template's light


def test_a_face_in_focus_stays_sharp() -> None:
    plain, face = marked_face("", (0, 0, 0))
    sharp = drawn_features(plain, face)
    fused = LandmarkFuser()(sharp, face, sharp, face)
    assert edge_blur(fused.astype(np.float32) / np.float32(255), face.landmarks) < 1


def test_rough_skin_becomes_smoother_on_a_smooth_template_but_not_smooth() -> None:
    plain, face = marked_face("", (0, 0, 0))
    noise = np.random.default_rng(0).normal(0, 5, plain.shape[:2])[..., None]
    rough = np.clip(plain + noise, 0, 255).astype(np.uint8)
    cheek = np.s_[310:340, 190:210]
    on_rough, on_smooth = (LandmarkFuser()(t, face, rough, face)[cheek].std(axis=(0, 1)).mean() for t in (rough, plain))
    assert 0.45 * on_rough < on_smooth < 0.8 * on_rough


def test_no_brow_of_the_template_stays_over_the_new_ones() -> None:
    plain, face = marked_face("", (0, 0, 0))
    template = plain.copy()
    brow = np.round(face.landmarks[19]).astype(int)
    thick = np.s_[brow[1] - 4 : brow[1] + 6, brow[0] - 12 : brow[0] + 12]
    template[thick] = (60, 40, 35)
    fused = LandmarkFuser()(template, face, plain, face)
    assert np.abs(fused[thick].astype(int) - plain[thick]).mean() < 25
