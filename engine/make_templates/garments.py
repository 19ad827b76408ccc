"""Draws the body below an average head: neck, and clothes as layers of lit cloth.

Everything is laid out in face widths from the chin (u to the right, v down), so that it fits any head at any size. A
layer is a smooth outline with a height: its edges are rounded, it is lit like the rest, and it casts a soft shadow on
what lies under it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.interpolate import splev, splprep

from engine.make_templates.portraits import Array

Outline = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Layer:
    """One piece of cloth: closed outline in (u, v), linear-light colour, and how it looks."""

    outline: Outline
    colour: tuple[float, float, float]
    thick: float = 0.03  # rounding of its edge, in face widths
    shadow: float = 0.35  # darkness of the shadow that it casts
    weave: str = "cloth"  # cloth, knit, rib, satin
    smooth: bool = True
    folds: float = 0.5
    stripes: float = 0.0
    round: float = 0.012  # of its corners, in face widths


@dataclass(frozen=True)
class Light:
    """Key light direction in the picture (x right, y down, z to the viewer) and how dark its far side is."""

    x: float = -0.5
    y: float = -0.6
    z: float = 0.8
    contrast: float = 0.55


@dataclass(frozen=True)
class Place:
    """Where the chin is and how wide the face is, in pixels of the canvas."""

    chin_x: float
    chin_y: float
    face: float

    def pixels(self, outline: Outline) -> Array:
        return np.array(outline, np.float32) * self.face + (self.chin_x, self.chin_y)


def mirrored(right: Outline) -> Outline:
    """The closed outline whose right half (from top middle down to bottom middle) is given."""
    return right + tuple((-u, v) for u, v in reversed(right) if u != 0)


def body(half: float, slope: float, neck: float, collar_v: float) -> Outline:
    """Torso outline: `half` shoulder width, `slope` of the shoulders, `neck` half width, collar's side height."""
    return mirrored(
        (
            (0.0, collar_v + 0.16),
            (neck * 0.62, collar_v + 0.10),
            (neck, collar_v),
            (neck + 0.22, collar_v + 0.07),
            (half * 0.72, collar_v + 0.12 + slope * 0.55),
            (half * 0.93, collar_v + 0.2 + slope),
            (half * 1.04, collar_v + 0.5 + slope),
            (half * 1.12, collar_v + 1.2),
            (half * 1.16, collar_v + 2.6),
            (0.0, collar_v + 2.7),
        )
    )


def draw(
    layers: tuple[Layer, ...], size_wh: tuple[int, int], place: Place, light: Light, seed: int
) -> tuple[Array, Array]:
    """(linear rgb, alpha) of the layers from bottom to top on a canvas of `size_wh`."""
    rng = np.random.default_rng(seed)
    width, height = size_wh
    colour, alpha = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    half = max(u for u, _ in layers[0].outline)
    trunk = _trunk_light(size_wh, place, light, half)
    for layer in layers:
        mask = _filled(layer, size_wh, place)
        cast = cv2.GaussianBlur(_moved(mask, light, place.face * 0.035), (0, 0), place.face * 0.035)
        colour *= (1 - layer.shadow * cast * (1 - mask))[..., None]
        lit = _lit(mask, layer, place, light, rng) * trunk
        colour = colour * (1 - mask[..., None]) + lit * mask[..., None]
        alpha = alpha + mask * (1 - alpha)
    return colour, alpha


def _curve(points: Array, smooth: bool) -> Array:
    if not smooth:
        return points
    closed = np.vstack([points, points[:1]])
    spline, _ = splprep(closed.T, s=0, per=True, k=3)
    return np.stack(splev(np.linspace(0, 1, 400), spline), 1).astype(np.float32)


def _filled(layer: Layer, size_wh: tuple[int, int], place: Place) -> Array:
    big = np.zeros((size_wh[1] * 2, size_wh[0] * 2), np.uint8)
    cv2.fillPoly(big, [np.int32(np.round(_curve(place.pixels(layer.outline), layer.smooth) * 2))], 255)
    # Cloth has no sharp corners: blurred and cut again, they are round.
    soft = cv2.GaussianBlur(big, (0, 0), max(layer.round * place.face * 2, 0.5)).astype(np.float32) / 255
    big = np.clip((soft - 0.5) * 8 + 0.5, 0, 1)
    small = cv2.resize(big, size_wh, interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small, (0, 0), 0.7)


def _moved(mask: Array, light: Light, far: float) -> Array:
    shift = np.array([[1, 0, -light.x * far], [0, 1, max(-light.y, 0.3) * far]], np.float32)
    return cv2.warpAffine(mask, shift, mask.shape[::-1], borderMode=cv2.BORDER_REPLICATE)


def _trunk_light(size_wh: tuple[int, int], place: Place, light: Light, half: float) -> Array:
    """Gain of the light over a chest that is round from side to side and falls back at the shoulders."""
    ys, xs = np.mgrid[0 : size_wh[1], 0 : size_wh[0]].astype(np.float32)
    u, v = (xs - place.chin_x) / place.face, (ys - place.chin_y) / place.face
    nx, ny = np.clip(u / 1.9, -0.95, 0.95), -0.75 + 0.42 * np.clip(v, 0, 2) - 0.12 * np.abs(u)
    nz = np.sqrt(np.clip(1.3 - nx * nx - 0.4 * ny * ny, 0.1, None))
    towards = (nx * light.x + ny * light.y + nz * light.z) / np.linalg.norm([light.x, light.y, light.z]) / 1.14
    under = 1 - 0.28 * np.exp(-((u / 0.55) ** 2) - ((v - 0.12) / 0.30) ** 2)  # the head keeps light from the collar
    inner = half * 0.70 + 0.05 * np.clip(v, 0, 3)  # where the sleeves begin
    lower = np.clip((v - 0.75) / 0.5, 0, 1)
    crease = 1 - 0.30 * lower * np.exp(-(((np.abs(u) - inner) / 0.045) ** 2))
    crease = crease * (1 + 0.10 * lower * np.exp(-(((np.abs(u) - inner - 0.13) / 0.08) ** 2)))
    under = under * crease
    return ((1 - light.contrast) + light.contrast * 1.25 * np.clip(towards, 0, 1.2))[..., None] * under[..., None]


def _lit(mask: Array, layer: Layer, place: Place, light: Light, rng: np.random.Generator) -> Array:
    relief = _folds(mask.shape, place, rng) * layer.folds * place.face * 0.085
    deep = cv2.distanceTransform((mask > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    edge = layer.thick * place.face
    relief = relief + edge * np.sqrt(np.clip(1 - (1 - np.clip(deep / edge, 0, 1)) ** 2, 0, 1))
    relief = cv2.GaussianBlur(relief.astype(np.float32), (0, 0), 1.2)
    gx, gy = cv2.Sobel(relief, cv2.CV_32F, 1, 0) / 8, cv2.Sobel(relief, cv2.CV_32F, 0, 1) / 8
    gain = 1 + 0.75 * np.tanh(-gx * light.x - gy * light.y)
    gain = gain * (1 + _weave(mask.shape, layer.weave, place, rng))
    colour = np.array(layer.colour, np.float32) * np.ones((*mask.shape, 3), np.float32)
    if layer.stripes:
        ys, xs = np.mgrid[0 : mask.shape[0], 0 : mask.shape[1]].astype(np.float32)
        wave = np.sin((xs + ys) / (layer.stripes * place.face) * 2 * np.pi)
        colour = colour * (1 + 0.8 * np.clip(wave * 4 - 3, 0, 1))[..., None]
    sheen = 0.02 if layer.weave == "satin" else 0.006
    return np.clip(colour * gain[..., None] + sheen * np.clip(gain[..., None] - 1, 0, 1), 0, 1).astype(np.float32)


def _folds(shape: tuple[int, ...], place: Place, rng: np.random.Generator) -> Array:
    """Soft creases that hang from the shoulders and lean inwards."""
    height, width = shape[:2]
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    field = np.zeros((height, width), np.float32)
    for size, strength, lean in ((0.40, 1.0, 0.35), (0.16, 0.32, 0.55)):
        noise = rng.normal(0, 1, (height, width)).astype(np.float32)
        soft = cv2.GaussianBlur(noise, (0, 0), sigmaX=place.face * size * 0.35, sigmaY=place.face * size * 1.0)
        away = np.abs(xs - place.chin_x) + lean * (ys - place.chin_y)
        leant = np.where(xs < place.chin_x, width * 0.5 - away, width * 0.5 + away).astype(np.float32)
        leant = cv2.remap(soft, leant, ys, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        field += strength * leant / (soft.std() + 1e-6)
    middle = 1 - np.exp(-(((xs - place.chin_x) / (0.16 * place.face)) ** 2))
    return field * middle


def _weave(shape: tuple[int, ...], kind: str, place: Place, rng: np.random.Generator) -> Array:
    height, width = shape[:2]
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    fine = cv2.GaussianBlur(rng.normal(0, 1, (height, width)).astype(np.float32), (0, 0), 0.9)
    u, v = (xs - place.chin_x) / place.face, (ys - place.chin_y) / place.face
    if kind == "knit":
        column = np.abs(((u * 26) % 1) - 0.5) * 2
        stitch = 0.5 + 0.5 * np.sin((v * 30 + column * 0.9) * 2 * np.pi)
        return 0.16 * (stitch - 0.5) + 0.16 * (column - 0.5) + 0.05 * fine
    if kind == "rib":
        return 0.22 * np.sin(u * 22 * 2 * np.pi) + 0.05 * fine
    if kind == "satin":
        return 0.02 * fine
    twill = 0.035 * np.sin((xs * 0.9 + ys * 1.1) * 0.9)
    return twill + 0.06 * fine
