"""The reference system's training step, to compare with: EasyPhoto's loop as it was published, on the same networks.

Half precision by autocast, peft's layers, one picture at a time and four of them to a step, and for every one of them
the autoencoder and the text encoder again.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from engine.config import TrainingConfig
from engine.diffusion import Diffusion
from engine.lora import modules

WARM_UP = 3


@dataclass(frozen=True)
class ReferenceTiming:
    step_s: float
    warm_up_s: float
    peak_gib: float | None

    def as_json(self) -> dict[str, Any]:
        return {"step_s": round(self.step_s, 4), "warm_up_s": round(self.warm_up_s, 2), "peak_gib": self.peak_gib}


def seconds_per_step(diffusion: Diffusion, config: TrainingConfig, steps: int) -> ReferenceTiming:
    """Of an optimizer step, on copies of the networks."""
    on_gpu = diffusion.device.type == "cuda"
    step = _reference_step(diffusion, config)
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    warm_up = _timed(step, WARM_UP, on_gpu)
    seconds = _timed(step, steps, on_gpu) / steps
    peak = round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None
    return ReferenceTiming(seconds, warm_up, peak)


def _timed(step: Callable[[], None], times: int, on_gpu: bool) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        step()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _reference_step(diffusion: Diffusion, config: TrainingConfig) -> Callable[[], None]:
    device = diffusion.device.type
    dtype = torch.float16 if device == "cuda" else torch.float32
    unet, vae = (_as_published(network).to(device, dtype) for network in (diffusion.unet, diffusion.vae))
    text_encoder = copy.deepcopy(diffusion.text_encoder).to(dtype)
    parameters = _with_peft(unet, text_encoder, diffusion, config)
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate)
    scaler = torch.amp.GradScaler(device, enabled=device == "cuda")
    kept_variance = diffusion.alphas_cumprod.float()
    ids = torch.full((1, diffusion.tokenizer.model_max_length), diffusion.tokenizer.eos_token_id, device=device)
    pixels = torch.rand(1, 3, config.resolution, config.resolution, device=device, dtype=dtype) * 2 - 1

    def loss_of_a_picture() -> Tensor:
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
        noise, timestep = torch.randn_like(latents), torch.randint(0, 1000, (1,), device=device)
        kept = kept_variance[timestep].view(-1, 1, 1, 1)
        noisy = (kept.sqrt() * latents + (1 - kept).sqrt() * noise).to(dtype)
        with torch.autocast(device, dtype, enabled=device == "cuda"):
            predicted = unet(noisy, timestep, text_encoder(ids)[0]).sample
        return nn.functional.mse_loss(predicted.float(), noise.float())

    def step() -> None:
        pictures = config.batch * config.accumulation
        for _ in range(pictures):
            loss = loss_of_a_picture() / pictures
            scaler.scale(loss).backward()
            loss.item()  # the reference's progress bar shows it
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, config.clip_grad)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step


def _as_published(network: Any) -> Any:
    """A copy without what is made faster here."""
    plain = type(network).from_config(network.config).eval().requires_grad_(False)
    plain.load_state_dict(network.state_dict())
    return plain


def _with_peft(
    unet: nn.Module, text_encoder: nn.Module, diffusion: Diffusion, config: TrainingConfig
) -> list[nn.Parameter]:
    places = modules(diffusion)
    for network, original in ((unet, diffusion.unet), (text_encoder, diffusion.text_encoder)):
        targets = [path for model, path in places.values() if model is original]
        inject_adapter_in_model(
            LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets), network, "reference"
        )
    found = []
    for name, parameter in [*unet.named_parameters(), *text_encoder.named_parameters()]:
        if "lora_" in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
            found.append(parameter)
    return found
