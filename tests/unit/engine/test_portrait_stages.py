"""The small stages of figure 2: masks, colours, controls, what the seam measures, the file that is delivered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from engine import metrics
from engine.bending import bent_to
from engine.looks import Look, Rim
from engine.models.dlib_faces import DlibFaceId
from engine.models.lanczos import LanczosEnhancer
from engine.models.mini_controls import MiniControls
from engine.parsing import closed, grown, hidden, parse_by_landmarks, skin_of
from engine.provenance import SOURCE_TYPE, write_portrait
from engine.stages import control, enhance, fuse, guard, harmonise, inpaint, makeup, paste_back
from engine.stages.reference import Reference, mirrored, ranked_references
from engine.types import Embedding, Face, HeadPose, Mask, Rgb
from tests.unit.engine.test_landmark_fusion import face_of, seen_head

SKIN, HAIR, LIPS = (200, 160, 140), (40, 30, 25), (170, 60, 60)


@pytest.fixture
def drawn() -> tuple[Rgb, Face]:
    """A face of flat colours: skin, dark eyes, red lips, dark hair above."""
    face = face_of(seen_head(0))
    rgb = np.full((600, 600, 3), (90, 110, 130), np.uint8)
    hull = cv2.convexHull(np.round(face.landmarks).astype(np.int32))
    cv2.fillConvexPoly(rgb, hull, SKIN)
    for part, colour in ((slice(36, 42), HAIR), (slice(42, 48), HAIR), (slice(48, 60), LIPS)):
        cv2.fillConvexPoly(rgb, cv2.convexHull(np.round(face.landmarks[part]).astype(np.int32)), colour)
    return rgb, face


def test_a_mask_grown_and_shrunk_by_the_same_is_itself_and_gaps_close() -> None:
    mask = np.zeros((60, 60), np.float32)
    mask[20:40, 20:28] = mask[20:40, 31:40] = 1
    assert closed(mask, 5)[30, 29] == 1
    square = np.zeros((60, 60), np.float32)
    square[20:40, 20:40] = 1
    assert grown(square, 4)[30, 16] == 1
    assert grown(square, 4)[30, 15] == 0
    assert np.array_equal(grown(grown(square, -4), 4)[24:36, 20:40], square[24:36, 20:40])


def test_a_face_cut_by_the_frame_is_not_shrunk_from_there() -> None:
    mask = np.zeros((40, 40), np.float32)
    mask[:, :20] = 1
    assert grown(mask, -5)[:, 0].all()


def test_skin_holds_neither_eyes_nor_lips_nor_beard(drawn: tuple[Rgb, Face]) -> None:
    rgb, face = drawn
    bearded = rgb.copy()
    chin = np.round(face.landmarks[8] - [0, 25]).astype(int)
    bearded[chin[1] - 10 : chin[1] + 10, chin[0] - 20 : chin[0] + 20] = HAIR
    parts = parse_by_landmarks(bearded, face)
    assert (bearded[parts.skin > 0] == SKIN).all()
    assert parts.skin.sum() > 0.3 * parts.face.sum()


def test_the_colour_shift_reaches_the_targets_skin_and_leaves_lips_and_hair(drawn: tuple[Rgb, Face]) -> None:
    rgb, face = drawn
    parts = parse_by_landmarks(rgb, face)
    target = np.clip(rgb.astype(int) + np.array([10, -20, -30]), 0, 255).astype(np.uint8)
    shifted = harmonise.colour_shifted(rgb, parts.skin, target, parts.skin, parts.face)
    nose = tuple(np.round(face.landmarks[29]).astype(int)[::-1])
    assert np.abs(shifted[nose].astype(int) - target[nose]).max() <= 2  # flat skin: its spread of 0 divides nothing
    assert np.array_equal(shifted[parts.lips > 0], rgb[parts.lips > 0])
    assert np.array_equal(shifted[parts.face == 0][:100], rgb[parts.face == 0][:100])


def test_a_highlight_goes_along_with_the_skin_around_it(drawn: tuple[Rgb, Face]) -> None:
    """It is too light to count as skin; left as it was it would be a white speck."""
    rgb, face = drawn
    nose = np.round(face.landmarks[29]).astype(int)
    spot = np.s_[nose[1] - 2 : nose[1] + 3, nose[0] - 2 : nose[0] + 3]
    lit = rgb.copy()
    lit[spot] = (250, 240, 232)
    parts = parse_by_landmarks(lit, face)
    assert parts.skin[spot].max() == 0
    target = np.clip(rgb.astype(int) - 30, 0, 255).astype(np.uint8)
    shifted = harmonise.colour_shifted(lit, parts.skin, target, parts.skin, parts.face)
    assert (lit[spot].astype(int) - shifted[spot]).mean() > 15


def test_without_skin_the_colour_shift_changes_nothing(drawn: tuple[Rgb, Face]) -> None:
    rgb, face = drawn
    parts = parse_by_landmarks(rgb, face)
    nothing = np.zeros_like(parts.skin)
    assert np.array_equal(harmonise.colour_shifted(rgb, nothing, 255 - rgb, parts.skin, parts.face), rgb)
    assert np.array_equal(harmonise.colour_shifted(rgb, parts.skin, 255 - rgb, nothing, parts.face), rgb)
    assert np.array_equal(harmonise.colour_shifted(rgb, parts.skin, 255 - rgb, parts.skin, nothing), rgb)


def test_makeup_brings_the_lips_colour_and_not_the_complexion(drawn: tuple[Rgb, Face]) -> None:
    rgb, face = drawn
    parts = parse_by_landmarks(rgb, face)
    painted = np.clip(rgb.astype(int) - 25, 0, 255).astype(np.uint8)  # a darker person
    painted[parts.lips > 0] = (190, 10, 40)
    made_up = makeup.made_up(rgb, parts, painted, parts, face.width, 1.0)
    mouth = tuple(np.round(face.landmarks[48:60].mean(0)).astype(int)[::-1])
    nose = tuple(np.round(face.landmarks[29]).astype(int)[::-1])
    assert int(made_up[mouth][0]) - int(made_up[mouth][1]) > int(LIPS[0]) - LIPS[1] + 40
    assert np.abs(made_up[nose].astype(int) - rgb[nose]).max() <= 1
    assert np.array_equal(made_up[parts.face == 0], rgb[parts.face == 0])
    assert np.array_equal(makeup.made_up(rgb, parts, painted, parts, face.width, 0.0), rgb)


def test_the_blend_takes_eyes_from_the_fusion_and_keeps_the_pictures_lips(drawn: tuple[Rgb, Face]) -> None:
    rgb, face = drawn
    parts = parse_by_landmarks(rgb, face)
    mask = fuse.blend_mask(parts, parts, 0.6, 600 / 512)
    eye, mouth = (
        np.round(face.landmarks[36:42].mean(0)).astype(int),
        np.round(face.landmarks[48:60].mean(0)).astype(int),
    )
    nose = np.round(face.landmarks[29]).astype(int)
    assert mask[eye[1], eye[0]] == pytest.approx(1)
    assert mask[mouth[1], mouth[0]] == pytest.approx(0)
    assert mask[nose[1], nose[0]] == pytest.approx(0.6)
    assert mask[5, 5] == 0


class Seeing:
    """Finds these faces near any."""

    def __init__(self, faces: list[Face]) -> None:
        self.faces = faces

    def __call__(self, rgb: Rgb) -> list[Face]:
        raise AssertionError("the whole picture was searched")

    def near(self, rgb: Rgb, expected: Face) -> list[Face]:
        return self.faces


def test_an_unseen_face_is_where_it_is_expected_and_a_neighbour_is_not_taken_for_it() -> None:
    face = face_of(seen_head(0))
    neighbour = replace(face, landmarks=face.landmarks + np.array([300, 0]))
    picture = np.zeros((600, 600, 3), np.uint8)
    assert fuse.nearest_face(picture, face, Seeing([neighbour])) is face
    near = replace(face, landmarks=face.landmarks + 3)
    assert fuse.nearest_face(picture, face, Seeing([neighbour, near])) is near


def test_the_second_mask_is_the_rim_the_eyes_and_the_lips(drawn: tuple[Rgb, Face]) -> None:
    rgb, face = drawn
    parts = parse_by_landmarks(rgb, face)
    mask = inpaint.second_mask(parts, face)
    nose, jaw = np.round(face.landmarks[29]).astype(int), np.round(face.landmarks[4]).astype(int)
    assert mask[nose[1], nose[0]] == 0
    assert mask[jaw[1], jaw[0]] == 1
    assert mask[parts.eyes > 0].min() == mask[parts.lips > 0].min() == 1
    assert inpaint.first_mask(parts, face)[parts.face > 0].min() == 1


def test_the_edit_mask_holds_both_faces_and_both_painted_masks(drawn: tuple[Rgb, Face]) -> None:
    rgb, face = drawn
    before = parse_by_landmarks(rgb, face)
    after = parse_by_landmarks(rgb, replace(face, landmarks=(face.landmarks - 260) * 1.1 + 260))
    mask = paste_back.edit_mask(before, after, face)
    for inside in (before.face, after.face, inpaint.first_mask(after, face), inpaint.second_mask(after, face)):
        assert mask[inside > 0].min() == 1
    assert mask[0, 0] == 0


def test_control_pictures_have_the_canvas_size_and_show_what_they_are_named_for(drawn: tuple[Rgb, Face]) -> None:
    rgb, face = drawn
    pictures = MiniControls()
    canny, pose, color = pictures.canny(rgb), pictures.pose(rgb, face), pictures.color(rgb)
    assert set(np.unique(canny)) == {0, 255}
    assert 0.01 < (pose > 0).any(-1).mean() < 0.2
    assert len(np.unique(color.reshape(-1, 3), axis=0)) <= 64
    assert {p.dtype for p in (canny, pose, color)} == {np.dtype(np.uint8)}


def test_the_digital_id_poses_where_the_face_is_unless_the_heads_are_turned_apart() -> None:
    def seen(yaw: float, scale: float = 120) -> Face:
        face = face_of(seen_head(yaw, scale=scale))
        return replace(face, points=face.landmarks[[36, 45, 30, 48, 54]])

    face, id_face = seen(0), seen(6, scale=50)
    posed = control.posed(face, id_face, (600, 600))
    assert posed.points == pytest.approx(face.points, abs=0.04 * float(face.width))
    assert np.linalg.norm(posed.landmarks - face.landmarks, axis=1).max() > 2  # px: it is the other head
    assert posed.pose is id_face.pose
    assert control.posed(face, seen(30), (600, 600)) is face


class CountingFaceId:
    """Embeddings are numbers on a line."""

    name, same_person = "line", 0.4

    def embed(self, rgb: Rgb, face: Face) -> Embedding:
        raise AssertionError

    def likeness(self, a: Embedding, b: Embedding) -> float:
        return 1 - abs(float(a[0] - b[0]))


def reference(yaw: float, place: float, brightness: int = 180) -> Reference:
    face = replace(face_of(seen_head(yaw)), pose=HeadPose(yaw, 0, 0))
    return Reference.of(np.full((600, 600, 3), brightness, np.uint8), face, np.array([place], np.float32))


def best_of(references: list[Reference], template: Reference) -> Reference:
    return ranked_references(references, template.rgb, template.face, CountingFaceId(), 1)[0][1]


def with_mouth(shown: Reference, opening: float) -> Reference:
    """`opening` in eye distances."""
    landmarks = shown.face.landmarks.copy()
    landmarks[66] = landmarks[62] + [0, opening * np.linalg.norm(landmarks[45] - landmarks[36])]
    return replace(shown, face=replace(shown.face, landmarks=landmarks))


def test_a_speaking_mouth_is_chosen_only_where_there_is_no_other() -> None:
    template = reference(0, 0.0)
    loud = with_mouth(reference(0, 0.0), 0.2)
    turned = [with_mouth(reference(25, 0.3), opening) for opening in (0.01, 0.2)]
    assert best_of([loud, turned[0]], template) is turned[0]
    assert best_of([loud, turned[1]], template) is loud


def test_a_mirrored_photo_stands_in_for_the_side_that_no_photo_shows() -> None:
    right = reference(28, 0.0)
    chosen = best_of([right, reference(24, 0.0)], reference(-30, 0.0))
    assert chosen.face.pose.yaw == -28
    assert np.array_equal(chosen.rgb, right.rgb[:, ::-1])
    assert np.allclose(mirrored(chosen).face.landmarks, right.face.landmarks, atol=0.01)
    assert chosen.face.landmarks[36, 0] < chosen.face.landmarks[45, 0]


def test_the_guard_keeps_the_largest_change_that_costs_no_likeness() -> None:
    asked: list[float] = []

    def falling(share: float) -> float:
        asked.append(share)
        return 0.6 - 0.2 * share

    assert guard.share_that_keeps(falling, 0.39) == 1.0
    assert asked == [1.0]
    assert guard.share_that_keeps(falling, 0.49) == 0.5
    assert guard.share_that_keeps(falling, 0.7) == 0.0


def test_the_reference_with_the_templates_pose_is_chosen_among_equals() -> None:
    left, frontal, right = reference(-30, 0.0), reference(0, 0.0), reference(30, 0.0)
    for wanted in (left, frontal, right):
        template = reference(wanted.face.pose.yaw, 0.0)
        assert best_of([left, frontal, right], template) is wanted


def test_a_photo_unlike_the_others_is_not_the_reference_in_spite_of_its_pose() -> None:
    template = reference(0, 0.0)
    typical = [reference(5, 0.0), reference(6, 0.05)]
    assert best_of([*typical, reference(0, 0.5)], template) in typical


def test_the_seam_is_what_steps_at_the_edge_and_neither_what_changes_inside_nor_what_the_template_has() -> None:
    template = np.full((200, 200, 3), 150, np.uint8)
    mask = np.zeros((200, 200), np.float32)
    mask[50:150, 50:150] = 1
    skin = np.ones_like(mask)
    inner, hard = template.copy(), template.copy()
    inner[90:110, 90:110] = 30
    hard[50:150, 50:150] = 170
    assert metrics.seam(inner, template, mask, skin) == pytest.approx(0, abs=0.01)
    assert 5 < metrics.seam(hard, template, mask, skin) < 10
    assert metrics.seam(hard, hard, mask, skin) == 0
    assert metrics.natural_step(hard, mask, skin) == pytest.approx(metrics.seam(hard, template, mask, skin))
    assert metrics.changed_pixels(hard, template, mask == 0) == 0


def _rim_matched(picture: Rgb, template: Rgb, face: Mask, skin: Mask, own_skin: Mask, width: float) -> Rgb:
    ring = metrics.Ring.of(face)
    return harmonise.rim_matched(picture, ring, ring.steps(template), skin, own_skin, width)


def test_matching_the_rim_takes_the_seam_off_and_keeps_the_middle_and_what_is_not_skin(
    drawn: tuple[Rgb, Face],
) -> None:
    rgb, face = drawn
    template = np.where(rgb == (90, 110, 130), SKIN, rgb).astype(np.uint8)  # skin runs across the rim: no step
    parts = parse_by_landmarks(rgb, face)
    skin = np.ones_like(parts.face)
    pale = np.where(parts.face[..., None] > 0, np.minimum(template.astype(int) + 25, 255), template).astype(np.uint8)
    bare = np.ones_like(skin)
    bare[int(face.landmarks[8, 1]) - 40 :] = 0  # a beard
    matched = _rim_matched(pale, template, parts.face, skin, bare, face.width)
    before = metrics.seam(pale, template, parts.face, bare)
    assert metrics.seam(matched, template, parts.face, bare) < 0.5 * before
    nose = tuple(np.round(face.landmarks[29]).astype(int)[::-1])
    assert np.array_equal(matched[nose], pale[nose])
    beyond = grown(parts.face, 1 + harmonise.OUTWARDS * face.width) == 0
    assert np.array_equal(matched[beyond], pale[beyond])
    chin = tuple(np.round(face.landmarks[8]).astype(int)[::-1])
    assert np.abs(matched[chin[0] - 8, chin[1]].astype(int) - pale[chin[0] - 8, chin[1]]).max() <= 2


def test_parts_and_rim_are_the_same_in_a_larger_picture(drawn: tuple[Rgb, Face]) -> None:
    """Both are worked out around the face only."""
    rgb, face = drawn
    rgb = np.clip(rgb.astype(int) + np.random.default_rng(0).integers(-9, 10, rgb.shape), 0, 255).astype(np.uint8)
    room = 150
    large = cv2.copyMakeBorder(rgb, room, room, room, room, cv2.BORDER_CONSTANT, value=(0, 255, 0))
    moved = replace(face, landmarks=face.landmarks + np.float32(room))
    parts, others = parse_by_landmarks(rgb, face), parse_by_landmarks(large, moved)
    for name in ("face", "eyes", "lips", "nose", "skin"):
        padded = np.pad(getattr(parts, name), room)
        assert np.array_equal(padded, getattr(others, name)), name
    pale = rgb.copy()
    pale[parts.face > 0] = np.minimum(pale[parts.face > 0], 215) + 40
    rim = Rim(rgb, parts.face, np.ones(rgb.shape[:2], np.float32))
    arguments = (rgb, rim.face, rim.skin)
    assert rim.seam(pale) == pytest.approx(metrics.seam(pale, *arguments), abs=0.01) != 0
    whole = _rim_matched(pale, *arguments, skin_of(pale, face), face.width)
    assert np.abs(rim.matched(pale, face).astype(int) - whole).max() <= 1
    assert not np.array_equal(whole, pale)


def test_matching_the_rim_draws_no_line_where_landmarks_miss_the_edge(drawn: tuple[Rgb, Face]) -> None:
    """The new face ends a few pixels inside the outline that landmarks give it."""
    rgb, face = drawn
    template = np.full_like(rgb, SKIN)
    outline = parse_by_landmarks(rgb, face).face
    pale = np.where(grown(outline, -0.02 * face.width)[..., None] > 0, template + 30, template).astype(np.uint8)
    skin = np.ones_like(outline)
    change = _rim_matched(pale, template, outline, skin, skin, face.width).astype(int) - pale
    largest = np.abs(change).max()
    assert largest > 8
    assert max(np.abs(np.diff(change, axis=axis)).max() for axis in (0, 1)) < 0.6 * largest


@pytest.mark.parametrize("by", [0, 0.5, 3.3, 9, -0.5, -3.3, -9])
def test_masks_grow_and_shrink_as_by_distances_over_the_whole_picture(by: float) -> None:
    rng = np.random.default_rng(0)
    for place in ((40, 60), (0, 0), (79, 30), (200, 200)):  # inside, in a corner, at a border, nowhere
        mask = np.zeros((80, 120), np.float32)
        cv2.circle(mask, (place[1], place[0]), 15, 1.0, -1)
        mask *= rng.random(mask.shape) > 0.02
        away = cv2.distanceTransform(((mask > 0) if by < 0 else (mask == 0)).astype(np.uint8), cv2.DIST_L2, 5)
        assert np.array_equal(grown(mask, by), away > -by if by < 0 else away <= by)


def test_a_wider_jaw_with_its_own_edge_is_no_seam(drawn: tuple[Rgb, Face]) -> None:
    rgb, face = drawn
    wider = face.landmarks.copy()
    wider[:17] = face.landmarks[30] + 1.08 * (wider[:17] - face.landmarks[30])
    other = replace(face, landmarks=wider)
    shaded = np.where(rgb == (90, 110, 130), (185, 145, 125), rgb).astype(np.uint8)  # a neck in the jaw's shadow
    recogniser = DlibFaceId()
    before = Look(shaded, face, parse_by_landmarks(shaded, face), recogniser)
    bent = bent_to(shaded, face.landmarks, wider)
    fused = Look(bent, other, parse_by_landmarks(bent, other), recogniser)
    rim = Rim.of(before, fused)
    assert rim.natural_step() > 3
    assert rim.seam(bent) < 0.1 * rim.natural_step()


def test_what_lies_in_front_of_a_face_is_not_painted(drawn: tuple[Rgb, Face]) -> None:
    rgb, face = drawn
    brow = face.landmarks[19].astype(int)
    strand = np.s_[brow[1] - 30 : brow[1] - 8, brow[0] - 4 : brow[0] + 4]
    beard = np.s_[face.landmarks[57, 1].astype(int) + 5 : face.landmarks[8, 1].astype(int), 250:270]
    rgb = rgb.copy()
    rgb[: brow[1] + 4] = SKIN
    rgb[strand], rgb[beard] = HAIR, HAIR
    in_front = hidden(rgb, face, np.ones(rgb.shape[:2], np.float32))
    assert in_front[strand].min() == 1
    assert in_front[beard].max() == 0  # the face's own
    assert max(in_front[p[1], p[0]] for p in np.round(face.landmarks[17:68]).astype(int)) == 0
    forehead = parse_by_landmarks(rgb, face).face[: brow[1]] * (1 - in_front[: brow[1]])
    assert forehead.sum() > 0.5 * parse_by_landmarks(rgb, face).face[: brow[1]].sum()
    there = np.zeros(rgb.shape[:2], np.float32)
    there[strand] = 1
    assert np.array_equal(hidden(rgb, face, there) * there, in_front * there)


def test_enhancing_doubles_pictures_and_leaves_very_large_ones() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    assert enhance.enhanced(rgb, LanczosEnhancer(), 0.5).shape == (80, 60, 3)
    large = np.zeros((10, 3000, 3), np.uint8)
    assert enhance.enhanced(large, LanczosEnhancer(), 0.5) is large
    flat = np.full((20, 20, 3), 99, np.uint8)
    assert (enhance.enhanced(flat, LanczosEnhancer(), 0.5) == 99).all()


def test_the_delivered_file_says_that_a_model_made_it_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "portrait.jpg"
    write_portrait(file, np.zeros((16, 16, 3), np.uint8))
    with Image.open(file) as picture:
        assert SOURCE_TYPE in picture.info["xmp"].decode()
        assert not picture.getexif()
        assert picture.format == "JPEG"


def test_a_diffusions_tint_is_taken_off_and_its_detail_stays() -> None:
    rng = np.random.default_rng(0)
    before = np.full((160, 160, 3), (190, 150, 130), np.uint8)
    before[70:90, 40:120] = (170, 90, 90)  # lips, which are no skin
    painted = before.copy()
    tint_and_detail = np.array([-20, 0, 25]) + rng.integers(-6, 7, (100, 100, 1))
    painted[30:130, 30:130] = np.clip(before[30:130, 30:130] + tint_and_detail, 0, 255)
    held = harmonise.colours_held(painted, before, width=100)
    inside = np.s_[55:105, 55:105]
    away = np.abs(held[inside].astype(float) - before[inside]).mean((0, 1))
    assert away.max() < 6, "the tint was up to 25 levels"
    assert held[inside].astype(float).std((0, 1)).min() > 2, "the detail is there"
    assert (held[:30] == before[:30]).all(), "what was not painted stays"
