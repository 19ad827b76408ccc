"""Canvases and the way back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from engine.crop import Crop, blend, box_crop, chip_crop, clipped_box_crop
from engine.mini.chip import canonical_points
from engine.types import Face, HeadPose


def face_at(x1: float, y1: float, x2: float, y2: float) -> Face:
    """A face whose 68 points lie on the canonical five, as far as crops look at them."""
    points = canonical_points(112) / 112 * [x2 - x1, y2 - y1] + [x1, y1]
    landmarks = np.zeros((68, 2), np.float32)
    landmarks[36:42], landmarks[42:48], landmarks[30], landmarks[48], landmarks[54] = points
    return Face((x1, y1, x2, y2), points.astype(np.float32), landmarks, 1.0, HeadPose(0, 0, 0))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_crop_at_full_scale_holds_the_pictures_own_pixels_and_goes_back_exactly() -> None:
    picture = noise(200, 300)
    crop = clipped_box_crop(face_at(100, 50, 160, 110), 2.0, picture.shape, 1000)
    piece = crop.cut(picture)
    assert np.array_equal(piece, picture[20:140, 70:190])
    assert np.array_equal(crop.paste(picture, piece, np.ones(piece.shape[:2], np.float32)), picture)


def test_a_rectangle_of_the_picture_is_cut_and_lifted_without_a_warp_to_the_same_bits() -> None:
    picture, values = noise(200, 300), noise(120, 130).astype(np.float32) / 7
    crop = Crop(np.array([[1, 0, -70.0], [0, 1, -20.0]]), (130, 120))
    warped = cv2.warpAffine(picture, crop.matrix, crop.size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    assert np.array_equal(crop.cut(picture), warped)
    lifted = cv2.warpAffine(values, crop.matrix, (300, 200), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
    assert np.array_equal(crop.lift(values, picture.shape), lifted)
    mask = values[..., 0] / values.max()
    assert np.array_equal(crop.cut_mask(crop.lift(mask, picture.shape)), mask)
    pasted = blend(picture, lifted, crop.lift(mask, picture.shape))
    assert np.array_equal(crop.paste(picture, values, mask), pasted)  # type: ignore[arg-type]


def test_a_rectangle_that_reaches_beyond_the_picture_repeats_its_border() -> None:
    picture = noise(40, 50)
    piece = Crop(np.array([[1, 0, 3.0], [0, 1, -5.0]]), (50, 35)).cut(picture)
    assert np.array_equal(piece[:, 3:], picture[5:, :47])
    assert np.array_equal(piece[:, :3], np.repeat(picture[5:, :1], 3, axis=1))


def test_blending_keeps_the_bits_where_the_mask_is_zero_and_rounds_where_it_is_not() -> None:
    below, above = noise(40, 50), noise(50, 40).swapaxes(0, 1)
    mask = np.zeros((40, 50), np.float32)
    assert np.array_equal(blend(below, above, mask), below)
    mask[10:20, 5:30], mask[15, 15] = 0.3, 7
    expected = below + (above.astype(np.float32) - below) * np.clip(mask, 0, 1)[..., None]
    assert np.array_equal(blend(below, above, mask), np.rint(expected).astype(np.uint8))


def test_a_piece_that_would_be_too_large_is_shrunk_to_the_bound() -> None:
    crop = clipped_box_crop(face_at(500, 500, 1500, 1500), 3.0, (3000, 2500), 1000)
    assert crop.size == (1000, 1000)
    assert crop.scale == pytest.approx(0.4, rel=1e-3)


def test_pasting_leaves_every_bit_where_the_mask_is_zero() -> None:
    picture = noise(150, 150)
    crop = chip_crop(face_at(40, 40, 100, 100), 64)
    mask = np.zeros((64, 64), np.float32)
    mask[20:44, 20:44] = 1
    pasted = crop.paste(picture, np.zeros((64, 64, 3), np.uint8), mask)
    untouched = crop.lift(mask, picture.shape) == 0
    assert np.array_equal(pasted[untouched], picture[untouched])
    assert (pasted[70, 70] == 0).all()


@pytest.mark.parametrize("degrees", [0.0, 25.0])
@pytest.mark.parametrize("scale", [0.4, 1.0, 1.7])
def test_what_goes_back_is_worked_out_only_where_the_canvas_lies(degrees: float, scale: float) -> None:
    """As if the whole picture had been drawn, also where the canvas reaches beyond it."""
    values = cv2.GaussianBlur(noise(64, 80).astype(np.float32), (0, 0), 2)
    matrix = cv2.getRotationMatrix2D((70.0, 40.0), degrees, scale)
    crop = Crop(matrix, (80, 64))
    soft = cv2.GaussianBlur(values, (0, 0), 0.5 * scale) if scale > 1 else values
    whole = cv2.warpAffine(soft, matrix, (300, 200), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
    away = np.abs(crop.lift(values, (200, 300, 3)) - whole)
    assert away.mean() < 0.1
    assert away.max() < 5  # of 255, at the canvas's edge: OpenCV places points to 1/32 pixel


def test_points_find_their_way_to_the_canvas_and_back() -> None:
    crop = chip_crop(face_at(40, 60, 140, 160), 128)
    points = np.array([[50, 70], [100, 120]], np.float32)
    assert np.allclose(crop.to_picture(crop.to_canvas(points)), points, atol=1e-3)
    assert np.allclose(crop.to_canvas(face_at(40, 60, 140, 160).points), canonical_points(128), atol=1e-3)


def test_shrinking_averages_instead_of_aliasing() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    canvas = box_crop(face_at(128, 128, 384, 384), 2.0, (64, 64)).cut(stripes)
    assert canvas[8:-8, 8:-8].std() < 3
    assert abs(float(canvas[8:-8, 8:-8].mean()) - 127.5) < 3


def test_a_mask_beyond_the_picture_is_empty() -> None:
    crop = box_crop(face_at(0, 0, 40, 40), 3.0, (64, 64))
    mask = crop.cut_mask(np.ones((100, 100), np.float32))
    assert mask[:8].max() == 0
    assert mask[40:, 40:].min() == 1


def test_a_moved_face_lies_on_the_canvas_where_its_pixels_do() -> None:
    face = face_at(40, 60, 140, 160)
    moved = box_crop(face, 2.0, (200, 200)).moved_face(face)
    assert moved.box_xyxy == pytest.approx((49.5, 49.5, 149.5, 149.5))
    assert moved.width == pytest.approx(face.width)


def test_blending_by_half_rounds_to_the_nearest_level() -> None:
    below, above = np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 255, np.uint8)
    assert blend(below, above, np.full((1, 1), 0.5, np.float32))[0, 0, 0] == 128


def test_a_crop_of_a_turned_face_is_upright() -> None:
    face = face_at(40, 40, 140, 140)
    turn = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 200.0]])
    turned = Crop(turn, (200, 200)).moved_face(face)
    assert np.allclose(chip_crop(turned, 128).to_canvas(turned.points), canonical_points(128), atol=1e-2)
