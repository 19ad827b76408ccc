"""What a worker makes ready at its start: nothing where nothing is recorded, and words where memory is short."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from contextlib import closing
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import warm_up
from engine.config import TrainingConfig
from engine.diffusion import Diffusion, InpaintRequest, Painting
from engine.diffusion.core import OnStep
from engine.errors import OutOfGpuMemory
from engine.lora_layers import LoraLayer
from engine.profiles import MiniProfile
from engine.stages import train_lora
from engine.types import Photo
from engine.warm_up import prepare
from tests.stand_ins.recorder import CountingGraphs

QUICK = {"rank": 4, "alpha": 4, "variants": 1, "batch": 1, "validation_denoise_steps": 2}
TOO_MUCH = "CUDA out of memory. Tried to allocate 2.00 GiB."


class Prepared(MiniProfile):
    """The small profile on networks that know nothing, which paint as long as `paints` says nothing else."""

    def __init__(self, diffusion: Diffusion, paints: Callable[[InpaintRequest], None] = lambda request: None) -> None:
        super().__init__("cpu")
        self.painter = _Painter(diffusion, paints)
        self.training = self.training.with_changes(**QUICK)
        self.portrait = self.portrait.with_changes(
            **{"first_steps": 3, "second_steps": 4, "super_resolution": False},
            **{"canny_weight": 0, "pose_weight": 0, "color_weight": 0},
            **{"second_canny_weight": 0, "second_tile_weight": 0},
        )
        self.first_look = self.first_look.with_changes(fusion_after=False)

    @cached_property
    def diffusion(self) -> Diffusion:
        return self.painter

    def id_templates(self) -> list[Photo]:
        return super().id_templates()[:2]


class _Painter(Diffusion):
    def __init__(self, diffusion: Diffusion, paints: Callable[[InpaintRequest], None]) -> None:
        networks = (diffusion.unet, diffusion.vae, diffusion.text_encoder, diffusion.tokenizer)
        super().__init__(*networks, scheduler_config=diffusion.scheduler_config, graphs=CountingGraphs())
        self._paints = paints

    def painting(self, request: InpaintRequest, on_step: OnStep = lambda done, total: None) -> Painting:
        self._paints(request)
        return super().painting(request, on_step)


@pytest.fixture(autouse=True)
def _roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_up, "_free_gib", lambda device: 40.0)


def test_where_nothing_is_recorded_nothing_is_done(
    random_diffusion: Diffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = MiniProfile("cpu")
    profile.__dict__["diffusion"] = random_diffusion
    monkeypatch.setattr(profile, "id_templates", lambda: pytest.fail("a CPU has nothing to prepare"))
    prepare(profile, True, (1, 4))
    assert not random_diffusion.kept


def test_a_training_whose_memory_is_limited_leaves_nothing_and_is_not_prepared(random_diffusion: Diffusion) -> None:
    profile = Prepared(random_diffusion)
    profile.training = profile.training.with_changes(memory_gib=8)
    prepare(profile, True, ())
    assert train_lora.KEPT not in profile.painter.kept
    assert not len(profile.painter.graphs)


def test_recordings_keep_nothing_of_a_training_alive_that_was_thrown_away(
    random_diffusion: Diffusion, tmp_path: Path
) -> None:
    """Such as of one whose memory is limited: the renders of its checkpoints were recorded with its LoRA in them."""
    painter = _Painter(random_diffusion, lambda request: None)
    config = TrainingConfig(resolution=128, memory_gib=8, validation_steps=1, **QUICK)
    picture = np.zeros((128, 128, 3), np.uint8)
    data = train_lora.training_set([picture], config.trigger, painter, config)
    with closing(train_lora.checkpoints(data, 1, painter, config, tmp_path, lambda done, total: None)) as course:
        next(course)
        painter.inpaint(InpaintRequest(picture, None, "a face", "", steps=2, strength=0.6, guidance=1))
        layer = weakref.ref(next(module for module in painter.unet.modules() if isinstance(module, LoraLayer)))
        assert len(painter.graphs) == 4
    gc.collect()
    assert layer() is None


def test_a_rehearsal_leaves_no_weights_behind(random_diffusion: Diffusion) -> None:
    profile = Prepared(random_diffusion)
    prepare(profile, True, ())
    step = profile.painter.kept[train_lora.KEPT]
    assert step.numbers.caption == TrainingConfig().trigger
    assert all(not tensor.any() for tensor in (*step.lora.masters, *step.lora.worn))
    assert all(not tensor.any() for name, tensor in step.saved()[1].items() if name != "scale")


@pytest.mark.parametrize(("trainings", "candidates", "what"), [(True, (), "training"), (False, (1, 4), "portrait")])
def test_what_does_not_fit_into_the_gpu_at_all_is_said_as_a_job_would(
    random_diffusion: Diffusion, trainings: bool, candidates: tuple[int, ...], what: str
) -> None:
    def paints(request: InpaintRequest) -> None:
        raise torch.OutOfMemoryError(TOO_MUCH)

    with pytest.raises(OutOfGpuMemory, match=rf"too little for a {what}.*CUDA out of memory.*PORTRAIT_SMALL_GPU"):
        prepare(Prepared(random_diffusion, paints), trainings, candidates)


@pytest.mark.parametrize("free_gib", [4.0, 40.0])
def test_more_candidates_than_usual_are_left_out_where_memory_is_short(
    random_diffusion: Diffusion, free_gib: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[int] = []

    def paints(request: InpaintRequest) -> None:
        tried.append(request.count)
        if request.count > 1:
            raise OutOfGpuMemory(TOO_MUCH)

    monkeypatch.setattr(warm_up, "_free_gib", lambda device: free_gib)
    with caplog.at_level(logging.INFO):
        prepare(Prepared(random_diffusion, paints), False, (1, 4))
    assert max(tried) == (4 if free_gib > warm_up.SPARE_GIB else 1)
    (said,) = (line for line in caplog.messages if "not prepared" in line)
    assert "portrait with 4 candidates" in said


def test_a_fault_in_it_costs_the_worker_nothing(random_diffusion: Diffusion, caplog: pytest.LogCaptureFixture) -> None:
    def paints(request: InpaintRequest) -> None:
        raise RuntimeError("a driver's mood")

    prepare(Prepared(random_diffusion, paints), True, (1,))
    said = [record.message for record in caplog.records if "not prepared" in record.message and record.exc_info]
    assert said == ["not prepared: a training", "not prepared: a portrait"]
