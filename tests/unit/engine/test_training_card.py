"""The picture that tells a person how their training went."""

from __future__ import annotations

import numpy as np
import pytest

from engine.training_card import ACCENT, INK, TILE, WIDTH, training_card
from engine.types import CheckpointScore, Rgb

RED, BLUE = (200, 0, 0), (0, 0, 200)


def plain(colour: tuple[int, int, int], height: int, width: int) -> Rgb:
    return np.full((height, width, 3), colour, np.uint8)


def rows_of(card: Rgb, colour: tuple[int, int, int], left: int, right: int) -> np.ndarray:
    """Rows of the plot in which the colour stands between two columns."""
    plot = card[TILE + 1 :, left:right].astype(int)
    return np.flatnonzero((np.abs(plot - colour).max(-1) < 12).any(-1))


def test_photo_left_renders_right() -> None:
    card = training_card(plain(RED, 800, 500), [plain(BLUE, 96, 96)] * 2, [], {}, None, 0.6)
    assert card.shape[1] == WIDTH
    assert (card[:TILE, :TILE] == RED).all()
    assert (card[:TILE, WIDTH - TILE :] == BLUE).all(-1).mean() == pytest.approx(0.46, abs=0.03)  # two of four places


def test_the_line_rises_with_the_likeness_and_kept_checkpoints_stand_out() -> None:
    scores = [CheckpointScore(50, 0.1), CheckpointScore(100, None), CheckpointScore(200, 0.4)]
    card = training_card(plain(RED, 64, 64), [], scores, {200: 1.0}, 0.4, 0.6)
    first = rows_of(card, INK, 90 + 230, 90 + 240).mean()
    kept = rows_of(card, ACCENT, WIDTH - 50, WIDTH - 30)
    assert kept.size
    assert kept.max() < first, "the last checkpoint is more alike than the first, so it stands higher"


def test_more_alike_than_real_photos_stays_on_the_card() -> None:
    card = training_card(plain(RED, 64, 64), [], [CheckpointScore(10, 0.9)], {10: 1.0}, 0.9, 0.3)
    assert rows_of(card, ACCENT, WIDTH - 50, WIDTH - 30).min() > 5
