"""Averages a group of portraits into one head-and-shoulders picture that is nobody's.

Plain averages blur. Here every portrait is first warped to the group's mean shape (face landmarks, head silhouette and
shoulder line, piecewise affine), then pulled onto the current average by dense optical flow, round after round
("congealing"), and averaged in linear light with weights that play down what differs from the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import Delaunay

from engine.make_templates.portraits import SIZE_WH, Array, Portrait, mirror_points

WORK_SCALE = 2  # alignment runs at 450x550
ROUNDS = 4
MARGIN = 0.35  # of the picture's width, of border points outside it


@dataclass(frozen=True)
class Bust:
    """An average head and shoulders. `rgb` is linear light 0..1, `alpha` 0..1, both at `scale` times 225x275."""

    rgb: Array
    alpha: Array
    landmarks: Array  # (68, 2) in pixels of `rgb`
    sources: int


def average(group: Sequence[Portrait], unlike: Sequence[Portrait] = (), push: float = 0.0, scale: int = 4) -> Bust:
    """The congealed mean of `group` at `scale` times the portraits' size.

    A small group's mean can come close to one of its members: the shape of the face is then pushed
    away from that of `unlike`, by `push` times the difference.
    """
    shapes = [np.vstack([p.landmarks, p.outline]) for p in group]
    mean_shape = _mean_shape(shapes)
    if unlike:
        sides = [side for p in unlike for side in (p.landmarks, mirror_points(p.landmarks, SIZE_WH[0]))]
        near = np.mean([_laid(side, side, mean_shape) for side in sides], 0)
        mean_shape[:68] += push * (mean_shape[:68] - near)
    maps = [_warp_map(mean_shape, shape, WORK_SCALE) for shape in shapes]
    maps = _congeal(group, maps)
    size_wh = (SIZE_WH[0] * scale, SIZE_WH[1] * scale)
    colours, mattes = [], []
    for portrait, here in zip(group, maps, strict=True):
        fine = cv2.resize(here, size_wh, interpolation=cv2.INTER_CUBIC)
        colours.append(_sample(_linear(portrait.rgb), fine).astype(np.float16))
        mattes.append(_sample(portrait.matte, fine).astype(np.float16))
    rgb = _robust_mean(colours, mattes)
    alpha = np.mean(np.stack(mattes), 0, dtype=np.float32)
    alpha = np.clip((cv2.GaussianBlur(alpha, (0, 0), scale * 0.5) - 0.42) / 0.40, 0, 1)
    alpha = alpha * alpha * (3 - 2 * alpha)
    return Bust(rgb, alpha, (mean_shape[:68] * scale).astype(np.float32), len(group))


def _linear(rgb: np.ndarray) -> Array:
    return ((rgb.astype(np.float32) / 255) ** 2.2).astype(np.float32)


def _mean_shape(shapes: Sequence[Array]) -> Array:
    """Mean of the shapes after each face is laid on the first by a similarity; kept in the portraits' own frame."""
    mean = np.mean(shapes, 0)
    for _ in range(3):
        mean = np.mean([_laid(shape, shape[:68], mean) for shape in shapes], 0)
    mean[:, 0] += SIZE_WH[0] / 2 - mean[27, 0]
    return mean.astype(np.float32)


def _laid(points: Array, landmarks: Array, mean: Array) -> Array:
    """`points` after the similarity that lays `landmarks` on those of `mean`."""
    matrix, _ = cv2.estimateAffinePartial2D(landmarks, mean[:68], method=cv2.LMEDS)
    return points @ matrix[:, :2].T + matrix[:, 2]


def _border(shape: Array, mean: Array) -> Array:
    """Points around the picture that follow the shape's similarity, so that the warp is defined everywhere."""
    width, height = SIZE_WH
    matrix, _ = cv2.estimateAffinePartial2D(mean[:68], shape[:68], method=cv2.LMEDS)
    xs, ys = np.linspace(-MARGIN * width, width * (1 + MARGIN), 6), np.linspace(-MARGIN * width, height * 1.35, 6)
    ring = [(x, y) for x in xs for y in ys if x in (xs[0], xs[-1]) or y in (ys[0], ys[-1])]
    return (np.array(ring) @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def _warp_map(mean: Array, shape: Array, scale: int) -> Array:
    """(H, W, 2) map: for each pixel of the mean frame, where to read in the portrait (225x275 pixels)."""
    target = np.vstack([mean, _border(mean, mean)])
    source = np.vstack([shape, _border(shape, mean)])
    mesh = Delaunay(target)
    width, height = SIZE_WH
    ys, xs = np.mgrid[0 : height * scale, 0 : width * scale].astype(np.float32)
    pixels = np.stack([(xs + 0.5) / scale - 0.5, (ys + 0.5) / scale - 0.5], -1).reshape(-1, 2)
    triangle = mesh.find_simplex(pixels)
    transform = mesh.transform[triangle]
    two = np.einsum("nij,nj->ni", transform[:, :2], pixels - transform[:, 2])
    weights = np.column_stack([two, 1 - two.sum(1)])
    read = np.einsum("nk,nkd->nd", weights, source[mesh.simplices[triangle]])
    field = read.reshape(height * scale, width * scale, 2).astype(np.float32)
    return cv2.GaussianBlur(field, (0, 0), scale * 1.5)


def _sample(picture: Array, field: Array) -> Array:
    return cv2.remap(picture, field, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _congeal(group: Sequence[Portrait], maps: list[Array]) -> list[Array]:
    """Adds to every map the flow from the group's average to its portrait, less the group's mean flow."""
    flow_of = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    for round_ in range(ROUNDS):
        greys = [_grey(portrait, field) for portrait, field in zip(group, maps, strict=True)]
        mean = np.mean(greys, 0).astype(np.uint8)
        mean = np.clip(mean + 1.5 * (mean.astype(np.float32) - cv2.GaussianBlur(mean, (0, 0), 3)), 0, 255)
        flows = [flow_of.calc(mean.astype(np.uint8), grey, None) for grey in greys]
        smooth = (12, 9, 6, 5)[min(round_, 3)]
        flows = [cv2.GaussianBlur(np.clip(flow, -14, 14), (0, 0), smooth) for flow in flows]
        drift = np.mean(flows, 0)
        height, width = mean.shape
        ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
        grid = np.dstack([xs, ys])
        maps = [_sample(field, grid + flow - drift) for field, flow in zip(maps, flows, strict=True)]
    return maps


def _grey(portrait: Portrait, field: Array) -> np.ndarray:
    """The warped portrait on mid grey, its light evened, so that flow follows features and silhouette, not exposure."""
    grey = cv2.cvtColor(portrait.rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    warped = np.clip(_sample(grey, field), 0, 255)
    matte = np.clip(_sample(portrait.matte, field), 0, 1)
    face = warped[matte > 0.5]
    warped = np.clip((warped - face.mean()) / (face.std() + 1) * 55 + 110, 0, 255)
    return (warped * matte + 190 * (1 - matte)).astype(np.uint8)


def _robust_mean(colours: list[np.ndarray], mattes: list[np.ndarray]) -> Array:
    """Mean colour of what lies inside the mattes; pixels far from the mean count less (two reweighted rounds)."""
    inside = [cv2.erode(m.astype(np.float32), np.ones((5, 5))) ** 2 + 1e-3 for m in mattes]
    weights = inside
    mean = np.zeros(colours[0].shape, np.float32)
    for round_ in range(3):
        total = np.zeros(colours[0].shape[:2], np.float32)
        mean = np.zeros(colours[0].shape, np.float32)
        for colour, weight in zip(colours, weights, strict=True):
            mean += colour * weight[..., None]
            total += weight
        mean /= total[..., None]
        if round_ < 2:
            weights = [
                m
                / (
                    0.004
                    + cv2.GaussianBlur(
                        ((np.sqrt(np.clip(c, 0, 1)) - np.sqrt(np.clip(mean, 0, 1))) ** 2).sum(2).astype(np.float32),
                        (0, 0),
                        3,
                    )
                )
                for c, m in zip(colours, inside, strict=True)
            ]
    return np.clip(mean, 0, 1)
