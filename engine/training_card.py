"""One picture that tells a person how their training went: their best photo, what the LoRA paints, and how the likeness
grew. Without words, so that it needs no translation; what the marks mean stands in the message around it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engine.images import fitted, resized
from engine.types import CheckpointScore, Rgb

WIDTH, TILE, GAP, PLOT_HEIGHT = 1080, 520, 20, 340
PAPER, INK, PALE, ACCENT = (250, 249, 246), (52, 54, 60), (214, 212, 206), (196, 84, 58)
SMOOTH = 2  # drawn so many times larger: Pillow's lines are not antialiased

Point = tuple[float, float]


def training_card(
    reference: Rgb,
    renders: Sequence[Rgb],
    checkpoints: Sequence[CheckpointScore],
    merged_weights: Mapping[int, float],
    merged_likeness: float | None,
    real_likeness: float,
) -> Rgb:
    """(H, 1080, 3). Left the reference photo, right up to four renders, below them the likeness to the held-out photos
    over the steps in per cent of `real_likeness` (dashed); discs are the checkpoints that were kept, by their share,
    the ring is what they give together."""
    side_by_side = np.full((TILE, WIDTH, 3), PAPER, np.uint8)
    side_by_side[:, :TILE] = _filling(reference, TILE)
    small = (TILE - GAP) // 2
    for place, render in enumerate(renders[:4]):
        row, column = divmod(place, 2)
        top, left = row * (small + GAP), WIDTH - TILE + column * (small + GAP)
        side_by_side[top : top + small, left : left + small] = _filling(render, small)
    plot = _plot([c for c in checkpoints if c.likeness is not None], merged_weights, merged_likeness, real_likeness)
    margin = np.full((GAP, WIDTH, 3), PAPER, np.uint8)
    return np.vstack([side_by_side, margin, plot])


def _filling(rgb: Rgb, side: int) -> Rgb:
    """The middle of `rgb` as a square; of an upright photo the upper part, where the face is."""
    height, width = rgb.shape[:2]
    short = min(height, width)
    left, top = (width - short) // 2, (height - short) // 4
    square = rgb[top : top + short, left : left + short]
    return fitted(square, side)[0] if short > side else resized(square, (side, side))


def _plot(
    checkpoints: Sequence[CheckpointScore], shares: Mapping[int, float], merged: float | None, real: float
) -> Rgb:
    canvas = Image.new("RGB", (WIDTH * SMOOTH, PLOT_HEIGHT * SMOOTH), PAPER)
    if checkpoints:
        _Plot(ImageDraw.Draw(canvas), checkpoints, shares, merged, real).draw()
    return cv2.resize(np.asarray(canvas), (WIDTH, PLOT_HEIGHT), interpolation=cv2.INTER_AREA)


class _Plot:
    LEFT, RIGHT, TOP, BOTTOM = 90, 40, 30, 50

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        checkpoints: Sequence[CheckpointScore],
        shares: Mapping[int, float],
        merged: float | None,
        real: float,
    ) -> None:
        self._draw, self._shares, self._merged = draw, shares, merged
        self._real = max(real, 1e-6)
        self._points = [(c.step, (c.likeness or 0.0) / self._real) for c in checkpoints]
        self._last = max(step for step, _ in self._points)
        self._highest = max(1.1, 1.05 * max(value for _, value in self._points))
        self._font = ImageFont.load_default(22 * SMOOTH)

    def draw(self) -> None:
        for value in (0.0, 0.25, 0.5, 0.75, 1.0):
            self._level(value)
        line = [self._at(step, value) for step, value in self._points]
        self._draw.line(line, fill=INK, width=4 * SMOOTH, joint="curve")
        for (step, _), centre in zip(self._points, line, strict=True):
            share = self._shares.get(step, 0.0)
            self._disc(centre, 6 + 10 * share, ACCENT if share else INK)
            self._draw.text(self._moved(centre, to_y=PLOT_HEIGHT - 30), str(step), INK, self._font, anchor="mm")
        if self._merged is not None and len(self._shares) > 1:
            self._disc(self._at(self._last, self._merged / self._real), 12, None)

    def _at(self, step: float, value: float) -> Point:
        across = step / self._last
        up = max(value, 0.0) / self._highest
        x = self.LEFT + across * (WIDTH - self.LEFT - self.RIGHT)
        y = PLOT_HEIGHT - self.BOTTOM - up * (PLOT_HEIGHT - self.TOP - self.BOTTOM)
        return x * SMOOTH, y * SMOOTH

    @staticmethod
    def _moved(point: Point, to_y: float) -> Point:
        return point[0], to_y * SMOOTH

    def _level(self, value: float) -> None:
        (left, y), (right, _) = self._at(0, value), self._at(self._last, value)
        dash = 14 * SMOOTH if value == 1.0 else 0
        if dash:
            for x in np.arange(left, right, 2 * dash):
                self._draw.line([(x, y), (min(x + dash, right), y)], fill=ACCENT, width=3 * SMOOTH)
        else:
            self._draw.line([(left, y), (right, y)], fill=PALE, width=SMOOTH)
        self._draw.text((left - 14 * SMOOTH, y), f"{value:.0%}", INK, self._font, anchor="rm")

    def _disc(self, centre: Point, radius: float, fill: tuple[int, int, int] | None) -> None:
        (x, y), r = centre, radius * SMOOTH
        self._draw.ellipse(
            [x - r, y - r, x + r, y + r], fill=fill, outline=ACCENT if fill is None else None, width=3 * SMOOTH
        )
