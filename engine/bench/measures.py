"""What a GPU can do at most, and how much a training step has to do."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from engine.config import TrainingConfig
from engine.diffusion import Diffusion
from engine.lora_layers import TrainableLora

MATMUL_SIDE = 8192


def told(part: str, figures: dict[str, Any]) -> dict[str, Any]:
    """The figures, which also go to stderr at once: a run that is cut short has still shown what it measured."""
    sys.stderr.write(json.dumps({part: figures}) + "\n")
    sys.stderr.flush()
    return figures


def device_name(device: str) -> str:
    return "cpu" if device == "cpu" else torch.cuda.get_device_name()


def gpu_peak_gib(device: str) -> float | None:
    """GiB that torch has held of the GPU at most since the last call; None on a CPU."""
    if device == "cpu":
        return None
    peak = torch.cuda.max_memory_reserved() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return round(peak, 2)


def matmul_tflops(device: str) -> float | None:
    """TFLOP/s of one large bfloat16 matrix product: the ceiling that MFU is measured against. None on a CPU."""
    if device == "cpu":
        return None
    a = torch.randn(MATMUL_SIDE, MATMUL_SIDE, device=device, dtype=torch.bfloat16)
    b = torch.randn_like(a)
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    begin, times = time.perf_counter(), 20
    for _ in range(times):
        a @ b
    torch.cuda.synchronize()
    return float(2 * MATMUL_SIDE**3 * times / (time.perf_counter() - begin) / 1e12)


def training_tflop(diffusion: Diffusion, config: TrainingConfig) -> float:
    """TFLOP (a multiplication and its addition are two) of one picture's way through the UNet and back to the LoRA,
    counted on networks without weights. Nothing that a better program need not do is in it: no autoencoder, no text
    encoder, no recomputation.
    """
    unet = type(diffusion.unet)
    with torch.device("meta"):
        hollow = unet.from_config(diffusion.unet.config).requires_grad_(False)
        side = config.resolution // diffusion.grid
        latents = torch.empty(1, hollow.config.in_channels, side, side)
        text = torch.empty(1, diffusion.tokenizer.model_max_length, hollow.config.cross_attention_dim)
        with (
            TrainableLora.of_unet(hollow, config.rank, config.alpha).in_model(),
            FlopCounterMode(display=False) as count,
        ):
            hollow(latents, torch.ones(1), text).sample.sum().backward()
    return float(count.get_total_flops() / 1e12)
