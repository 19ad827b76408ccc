"""How fast a LoRA is trained: the real trainer (`train_lora.checkpoints`) from crops to the last checkpoint."""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from engine.bench.measures import device_name, gpu_peak_gib, matmul_tflops, told, training_tflop
from engine.bench.random_weights import random_diffusion
from engine.bench.reference_way import seconds_per_step
from engine.config import TrainingConfig
from engine.diffusion import Diffusion, chosen_device
from engine.stages import train_lora
from engine.types import Rgb

PHOTOS = 8  # ten usable photos, of which two are held out
TINY = {"resolution": 64, "rank": 4, "alpha": 2, "max_steps": 6, "validation_steps": 3, "variants": 2}

Json = dict[str, Any]


def run(options: argparse.Namespace) -> Json:
    """What `python -m engine bench train` prints. Seconds are wall clock, the GPU waited for."""
    device = chosen_device(options.device)
    diffusion, config = _subject_of_measuring(options, device)
    steps = config.steps_for(PHOTOS + 2)
    begin = time.perf_counter()
    data = train_lora.training_set(_crops(config.resolution), config.trigger, diffusion, config)
    encoded = time.perf_counter() - begin
    with train_lora.rehearsed(data, diffusion, config):
        _wait(device)
    prepared = time.perf_counter() - begin - encoded
    runs = [_timed(data, steps, diffusion, config, device) for _ in range(options.repeats + 1)]
    warm = [one["seconds"] for one in runs[1:]]
    samples = steps * config.batch * config.accumulation
    result: Json = {
        "device": device_name(device),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "config": config.model_dump(mode="json", include={"resolution", "rank", "batch", "accumulation"}),
        "samples": samples,
        "encode_crops_s": round(encoded, 2),
        "prepare_s": round(prepared, 2),  # as a worker does at its start, a step included
        "first": runs[0],
        "warm": runs[1:],
        "warm_median_s": round(median(warm), 2),
    }
    work = training_tflop(diffusion, config) * samples
    result["tflop"] = round(work, 1)
    result["tflops_per_s"] = round(work / median(warm), 1)
    if peak := matmul_tflops(device):
        result["matmul_tflops"] = round(peak, 1)
        result["mfu"] = round(work / median(warm) / peak, 3)
    if options.reference_steps:
        theirs = seconds_per_step(diffusion, config, options.reference_steps)
        whole = theirs.step_s * steps  # extrapolated from the measured steps: every step does the same work
        figures = {**theirs.as_json(), "steps": options.reference_steps, "extrapolated_s": whole}
        result["reference_way"] = told("reference way", figures)
        result["times_faster"] = round(whole / median(warm), 1)
    return result


def _subject_of_measuring(options: argparse.Namespace, device: str) -> tuple[Diffusion, TrainingConfig]:
    config = TrainingConfig()
    if options.tiny:
        config = config.with_changes(**TINY)
    if options.config is not None:
        config = config.with_changes(**json.loads(options.config.read()))
    if options.random_weights:
        return random_diffusion(device, tiny=options.tiny, controlnets=("canny", "pose", "tile")), config
    from engine.profiles import load_profile

    return load_profile(options.profile, options.device).diffusion, config


def _timed(data: train_lora.TrainingSet, steps: int, diffusion: Diffusion, config: TrainingConfig, device: str) -> Json:
    """One training. `first_step_s`: until the first step was over, with all that was not made ready before."""
    ends: list[float] = []
    gpu_peak_gib(device)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        course = train_lora.checkpoints(
            data, steps, diffusion, config, Path(folder), lambda done, total: ends.append(time.perf_counter())
        )
        checkpoints = sum(1 for _ in course)
    _wait(device)
    seconds = time.perf_counter() - begin
    between = np.diff(ends)
    figures = {
        "seconds": round(seconds, 2),
        "first_step_s": round(ends[0] - begin, 2),
        "step_ms": round(float(np.median(between)) * 1000, 2),
        "checkpoints": checkpoints,
        "peak_gib": gpu_peak_gib(device),
    }
    return told("training", figures)


def _crops(side: int) -> list[Rgb]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(PHOTOS)]


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
