"""The control pictures for the published ControlNets."""

from __future__ import annotations

import numpy as np
import pytest

from engine.models import sd15_controls
from engine.models.sd15_controls import Sd15Controls
from engine.types import Face, HeadPose


def head(yaw: float = 0) -> Face:
    """Landmarks on a grid of their own, far enough apart to be told in the drawing."""
    points = np.array([[60 + 55 * (k % 8), 60 + 45 * (k // 8)] for k in range(68)], np.float32)
    return Face((40, 40, 480, 480), points[:5], points, 1.0, HeadPose(yaw, 0, 0))


def colours(drawing: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(int(value) for value in colour) for colour in np.unique(drawing.reshape(-1, 3), axis=0)}


@pytest.mark.parametrize("size", [(512, 512), (512, 768), (1024, 1024)])
def test_edges_are_white_on_black_at_the_canvas_size(size: tuple[int, int]) -> None:
    canvas = np.full((*size, 3), 40, np.uint8)
    canvas[:, size[1] // 2 :] = 200
    edges = Sd15Controls().canny(canvas)
    assert edges.shape == canvas.shape
    assert colours(edges) == {(0, 0, 0), (255, 255, 255)}
    assert np.abs(np.argwhere(edges[..., 0] > 0)[:, 1] - size[1] / 2).max() <= 3


def test_the_pose_shows_every_landmark_in_white_and_the_head_in_openposes_colours() -> None:
    face = head()
    drawing = Sd15Controls().pose(np.zeros((512, 512, 3), np.uint8), face)
    for x, y in face.landmarks.astype(int):
        assert tuple(drawing[y, x]) == (255, 255, 255)
    assert {sd15_controls.NOSE, sd15_controls.RIGHT_EYE, sd15_controls.LEFT_EYE} <= colours(drawing)


@pytest.mark.parametrize(("yaw", "hidden"), [(30, sd15_controls.LEFT_EAR), (-30, sd15_controls.RIGHT_EAR)])
def test_the_far_ear_of_a_turned_head_is_not_drawn(yaw: float, hidden: tuple[int, int, int]) -> None:
    canvas = np.zeros((512, 512, 3), np.uint8)
    assert hidden in colours(Sd15Controls().pose(canvas, head()))
    assert hidden not in colours(Sd15Controls().pose(canvas, head(yaw)))


def test_tile_and_colour_are_the_picture_itself() -> None:
    canvas = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    assert (Sd15Controls().detail(canvas) == canvas).all()
    assert (Sd15Controls().color(canvas) == canvas).all()
