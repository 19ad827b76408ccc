"""Backgrounds, drawn by program in linear light: what is behind the person."""

from __future__ import annotations

import cv2
import numpy as np

from engine.make_templates.portraits import Array

Colour = tuple[int, int, int]  # sRGB, 0..255


def linear(colour: Colour) -> Array:
    return ((np.array(colour, np.float32) / 255) ** 2.2).astype(np.float32)


def grid(size_wh: tuple[int, int]) -> tuple[Array, Array]:
    """x and y of every pixel, 0..1."""
    ys, xs = np.mgrid[0 : size_wh[1], 0 : size_wh[0]].astype(np.float32)
    return xs / size_wh[0], ys / size_wh[1]


def plain(size_wh: tuple[int, int], top: Colour, bottom: Colour) -> Array:
    """An even ID-photo ground with a slight gradient."""
    _, y = grid(size_wh)
    return (linear(top) * (1 - y[..., None]) + linear(bottom) * y[..., None]).astype(np.float32)


def studio(size_wh: tuple[int, int], dark: Colour, bright: Colour, spot: tuple[float, float], seed: int) -> Array:
    """A hand-painted canvas backdrop with a pool of light at `spot` (0..1)."""
    rng = np.random.default_rng(seed)
    x, y = grid(size_wh)
    pool = np.exp(-(((x - spot[0]) / 0.48) ** 2) - ((y - spot[1]) / 0.42) ** 2)
    mottle = np.zeros_like(x)
    for size, strength in ((0.16, 0.6), (0.07, 0.4), (0.03, 0.2)):
        noise = cv2.GaussianBlur(rng.normal(0, 1, x.shape).astype(np.float32), (0, 0), size * size_wh[0])
        mottle += strength * noise / (noise.std() + 1e-6)
    share = np.clip(pool * (1 + 0.10 * mottle) + 0.03 * mottle, 0, 1)[..., None]
    return (linear(dark) * (1 - share) + linear(bright) * share).astype(np.float32)


def evening_lights(size_wh: tuple[int, int], seed: int, tints: tuple[Colour, ...], sky: tuple[Colour, Colour]) -> Array:
    """A street at dusk far out of focus: large overlapping discs of light."""
    rng = np.random.default_rng(seed)
    width, height = size_wh
    scene = plain(size_wh, *sky)
    x, y = grid(size_wh)
    for _ in range(10):  # houses
        left, wide = rng.uniform(-0.1, 1), rng.uniform(0.08, 0.25)
        shade = rng.uniform(0.45, 1.0)
        inside = ((x > left) & (x < left + wide) & (y > rng.uniform(0.0, 0.45)))[..., None]
        scene = np.where(inside, scene * shade, scene)
    scene = cv2.GaussianBlur(scene.astype(np.float32), (0, 0), width * 0.045)
    glow = np.zeros_like(scene)
    for _ in range(46):
        place = (int(rng.uniform(0, width)), int(rng.uniform(0.05, 0.85) * height))
        radius = int(rng.uniform(0.012, 0.055) * width)
        tint = linear(tints[int(rng.integers(len(tints)))]) * rng.uniform(0.05, 0.5)
        disc = np.zeros((height, width), np.float32)
        cv2.circle(disc, place, radius, 0.8, -1, cv2.LINE_AA)
        cv2.circle(disc, place, radius, 1.0, max(radius // 8, 1), cv2.LINE_AA)
        glow += disc[..., None] * tint
    return np.clip(scene + cv2.GaussianBlur(glow, (0, 0), width * 0.003), 0, 1).astype(np.float32)


def garden(size_wh: tuple[int, int], seed: int) -> Array:
    """Leaves with sun behind them, out of focus."""
    rng = np.random.default_rng(seed)
    width, height = size_wh
    scene = plain(size_wh, (206, 214, 150), (62, 96, 52))
    for count, radius, blur in ((90, 0.11, 0.035), (120, 0.05, 0.018)):
        layer = scene.copy()
        for _ in range(count):
            place = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
            green = linear((int(rng.uniform(40, 150)), int(rng.uniform(95, 180)), int(rng.uniform(35, 85))))
            axes = (int(rng.uniform(0.4, 1) * radius * width), int(rng.uniform(0.3, 0.8) * radius * width))
            cv2.ellipse(layer, place, axes, rng.uniform(0, 180), 0, 360, (green * rng.uniform(0.35, 1.3)).tolist(), -1)
        scene = cv2.GaussianBlur(layer * 0.7 + scene * 0.3, (0, 0), width * blur)
    glow = np.zeros_like(scene)
    for _ in range(34):
        place = (int(rng.uniform(0, width)), int(rng.triangular(0, 0.1, 0.8) * height))
        disc = np.zeros((height, width), np.float32)
        cv2.circle(disc, place, int(rng.uniform(0.015, 0.05) * width), 1.0, -1, cv2.LINE_AA)
        glow += disc[..., None] * linear((255, 246, 196)) * rng.uniform(0.05, 0.4)
    scene = scene + cv2.GaussianBlur(glow, (0, 0), width * 0.004)
    return np.clip(scene, 0, 1).astype(np.float32)


def library(size_wh: tuple[int, int], seed: int) -> Array:
    """Shelves of books, a warm lamp, out of focus."""
    rng = np.random.default_rng(seed)
    width, height = size_wh
    scene = plain(size_wh, (58, 38, 26), (40, 27, 20))
    shelf = int(height * 0.21)
    for top in range(-shelf // 3, height, shelf):
        x = 0
        while x < width:
            wide, tall = int(rng.uniform(0.018, 0.045) * width), int(shelf * rng.uniform(0.62, 0.86))
            hue = ((132, 52, 40), (44, 70, 84), (150, 118, 72), (62, 80, 52), (104, 76, 58), (178, 160, 128))
            spine = linear(hue[int(rng.integers(len(hue)))]) * rng.uniform(0.5, 1.2)
            cv2.rectangle(scene, (x, top + shelf - tall), (x + wide - 1, top + shelf - 8), spine.tolist(), -1)
            x += wide + int(rng.integers(0, 3))
        cv2.rectangle(scene, (0, top + shelf - 8), (width, top + shelf), linear((92, 62, 40)).tolist(), -1)
    scene = cv2.GaussianBlur(scene, (0, 0), width * 0.014)
    x01, y01 = grid(size_wh)
    lamp = np.exp(-(((x01 - 0.12) / 0.36) ** 2) - ((y01 - 0.25) / 0.34) ** 2)[..., None]
    return np.clip(scene * (0.45 + 1.5 * lamp) + lamp * linear((120, 82, 40)) * 0.6, 0, 1).astype(np.float32)


def window_light(size_wh: tuple[int, int], wall: Colour, slant: float) -> Array:
    """A plain wall with the soft light of a window's panes on it."""
    x, y = grid(size_wh)
    wide = x * size_wh[0] / size_wh[1]
    a, b = wide + slant * y, y + 0.18 * wide
    panes = ((a % 0.42) > 0.05) & ((b % 0.36) > 0.04) & (a > 0.16) & (a < 1.0) & (b > 0.08) & (b < 0.80)
    bright = cv2.GaussianBlur(panes.astype(np.float32), (0, 0), size_wh[0] * 0.012)
    falloff = (0.55 + 0.35 * (1 - x))[..., None]
    return (linear(wall) * falloff * (1 + 0.85 * bright[..., None] * np.array([1.06, 1.0, 0.86]))).astype(np.float32)


def sunset(size_wh: tuple[int, int], seed: int) -> Array:
    """Evening sky over a calm sea."""
    rng = np.random.default_rng(seed)
    width, height = size_wh
    x, y = grid(size_wh)
    stops = np.array([0.0, 0.3, 0.52, 0.62, 0.63, 0.8, 1.0])
    colours = np.array(
        [
            linear(c)
            for c in (
                (86, 104, 152),
                (190, 142, 150),
                (246, 178, 120),
                (255, 214, 150),
                (170, 118, 104),
                (92, 84, 110),
                (52, 52, 76),
            )
        ]
    )
    scene = np.stack([np.interp(y, stops, colours[:, k]) for k in range(3)], -1).astype(np.float32)
    cloud = cv2.GaussianBlur(
        rng.normal(0, 1, (height, width)).astype(np.float32), (0, 0), sigmaX=width * 0.10, sigmaY=height * 0.012
    )
    cloud = np.clip(cloud / cloud.std(), 0, 2) * np.clip(1 - y / 0.6, 0, 1)
    scene += (0.13 * cloud)[..., None] * linear((255, 190, 160))
    sun = np.exp(-(((x - 0.22) * width / height / 0.06) ** 2 + ((y - 0.52) / 0.06) ** 2))
    halo = np.exp(-(((x - 0.22) * width / height / 0.35) ** 2 + ((y - 0.52) / 0.3) ** 2))
    scene += (0.9 * sun + 0.22 * halo)[..., None] * linear((255, 214, 150))
    glitter = cv2.GaussianBlur(
        rng.normal(0, 1, (height, width)).astype(np.float32), (0, 0), sigmaX=width * 0.012, sigmaY=1.6
    )
    way = np.exp(-(((x - 0.22) / 0.14) ** 2)) * (y > 0.625)
    scene += (np.clip(glitter / glitter.std() - 0.4, 0, 2) * way * 0.16)[..., None] * linear((255, 208, 140))
    return np.clip(cv2.GaussianBlur(scene, (0, 0), width * 0.006), 0, 1)
