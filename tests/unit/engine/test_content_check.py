"""The content check on a stand-in folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ViTForImageClassification

from engine.errors import MissingWeights
from engine.models.content_check import ContentCheck
from tests.stand_ins.content_check import write_content_check


def test_pictures_are_prepared_as_the_library_does(tmp_path: Path) -> None:
    from transformers import ViTImageProcessorPil

    folder = write_content_check(tmp_path / "nsfw")
    rgb = np.random.default_rng(0).integers(0, 255, (300, 200, 3), dtype=np.uint8)
    pixels = ViTImageProcessorPil.from_pretrained(folder)(images=rgb, return_tensors="pt").pixel_values
    with torch.no_grad():
        logits = ViTForImageClassification.from_pretrained(folder)(pixel_values=pixels).logits
    assert ContentCheck(folder).unsafe(rgb) == pytest.approx(float(logits.softmax(-1)[0, 1]), abs=1e-4)


def test_the_threshold_decides(tmp_path: Path) -> None:
    folder = write_content_check(tmp_path / "nsfw")
    rgb = np.full((64, 64, 3), 128, np.uint8)
    share = ContentCheck(folder).unsafe(rgb)
    assert ContentCheck(folder, threshold=share + 0.01).is_safe(rgb)
    assert not ContentCheck(folder, threshold=share - 0.01).is_safe(rgb)


def test_absent_weights_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="models fetch nsfw"):
        ContentCheck(tmp_path)
