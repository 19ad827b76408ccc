"""The recorded step on a GPU: a CPU has no graphs, so these run where there is one (docs/performance.md has their last
run)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from engine import lora
from engine.config import TrainingConfig
from engine.errors import Stopped
from engine.stages import train_lora

if TYPE_CHECKING:
    from engine.diffusion import Diffusion

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CONFIG = TrainingConfig(resolution=64, rank=8, alpha=4, variants=2, validation_steps=2, learning_rate=1e-3)
STEPS = 8
ROUNDING = 2e-3  # of the weights' norm: sums of a GPU have no fixed order


@pytest.fixture(scope="module")
def diffusion() -> Diffusion:
    from engine.bench.random_weights import random_diffusion

    return random_diffusion("cuda", tiny=True, controlnets=())


def data(seed: int) -> train_lora.TrainingSet:
    draw = torch.Generator().manual_seed(seed)
    latents = torch.randn(5, 2, 4, 8, 8, generator=draw)
    return train_lora.TrainingSet(latents, torch.ones(5, 1, 8, 8), "easyphoto_face, easyphoto, 1person", str(seed))


def trained(diffusion: Diffusion, folder: Path, seed: int = 1, stop: int | None = None) -> lora.State:
    def on_step(done: int, _: int) -> None:
        if done == stop:
            raise Stopped

    last: lora.State = {}
    for checkpoint in train_lora.checkpoints(data(seed), STEPS, diffusion, CONFIG, folder, on_step):
        last = checkpoint.weights
    return last


def distance(one: lora.State, other: lora.State) -> float:
    squares = sum(float((one[key] - other[key]).square().sum()) for key in one)
    return float((squares / sum(float(one[key].square().sum()) for key in one)) ** 0.5)


def test_a_killed_training_ends_with_the_same_weights_within_rounding(diffusion: Diffusion, tmp_path: Path) -> None:
    unbroken = trained(diffusion, tmp_path / "unbroken")
    with pytest.raises(Stopped):
        trained(diffusion, tmp_path / "broken", stop=5)
    assert distance(unbroken, trained(diffusion, tmp_path / "broken")) < ROUNDING


def test_another_persons_training_replays_the_same_recording(diffusion: Diffusion, tmp_path: Path) -> None:
    first = trained(diffusion, tmp_path / "first")
    recorded = diffusion.kept[train_lora.KEPT]
    assert distance(first, trained(diffusion, tmp_path / "second", seed=2)) > 10 * ROUNDING
    assert diffusion.kept[train_lora.KEPT] is recorded
    assert distance(first, trained(diffusion, tmp_path / "third")) < ROUNDING
    assert all(not tensor.any() for tensor in recorded.lora.masters)


def test_the_recorded_step_learns_as_plain_float32_does(diffusion: Diffusion, tmp_path: Path) -> None:
    import copy

    plain = replace(
        diffusion,
        unet=copy.deepcopy(diffusion.unet).float(),
        text_encoder=copy.deepcopy(diffusion.text_encoder).float(),
        kept={},
    )
    assert distance(trained(plain, tmp_path / "plain"), trained(diffusion, tmp_path / "recorded")) < 0.05
