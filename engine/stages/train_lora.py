"""Figure 1, box "LoRA training": noise prediction on cached latents, with checkpoints that resume exactly.

All randomness of a step comes from (seed, step), so a checkpoint holds the weights and the optimizer and nothing else.
While a checkpoint is yielded, the model carries its weights.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from engine import lora
from engine.config import TrainingConfig
from engine.images import write_whole
from engine.types import Rgb

if TYPE_CHECKING:
    from engine.diffusion import Diffusion

logger = logging.getLogger(__name__)

ENCODED_AT_ONCE = 8
TRAIN_TIMESTEPS = 1000
RESUME = "resume.pt"  # the step and the optimizer's state of the last checkpoint

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class TrainingSet:
    """`latents` (photos, variants, channels, height, width) float32 on the CPU, the caption of them all, and a digest
    of the pictures that they were made of."""

    latents: Tensor
    caption: str
    digest: str


@dataclass(frozen=True)
class Checkpoint:
    step: int
    lora: lora.State


def training_set(crops: Sequence[Rgb], caption: str, diffusion: Diffusion, config: TrainingConfig) -> TrainingSet:
    """Encodes each crop once per variant; the autoencoder is not needed again until validation."""
    rng = np.random.default_rng(config.seed)
    pictures = [varied(crop, k, rng, config.mirror) for crop in crops for k in range(config.variants)]
    batches = [pictures[at : at + ENCODED_AT_ONCE] for at in range(0, len(pictures), ENCODED_AT_ONCE)]
    latents = torch.cat([diffusion.encode_image(batch).float().cpu() for batch in batches])
    digest = hashlib.sha256(b"".join(crop.tobytes() for crop in crops)).hexdigest()
    return TrainingSet(latents.reshape(len(crops), config.variants, *latents.shape[1:]), caption, digest)


def varied(crop: Rgb, variant: int, rng: np.random.Generator, mirror: bool) -> Rgb:
    """The crop itself (variant 0), or a copy moved, turned, scaled and relit as another shot might be."""
    if variant == 0:
        return crop
    height, width = crop.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-5, 5), rng.uniform(0.94, 1.1))
    matrix[:, 2] += rng.uniform(-0.03, 0.03, 2) * (width, height)
    moved = cv2.warpAffine(crop, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    if mirror and variant % 2:
        moved = moved[:, ::-1]
    lit = moved * rng.uniform(0.9, 1.1) * rng.uniform(0.97, 1.03, 3) + rng.uniform(-8, 8)
    return np.rint(lit).clip(0, 255).astype(np.uint8)


def checkpoints(
    data: TrainingSet, steps: int, diffusion: Diffusion, config: TrainingConfig, folder: Path, on_step: OnStep
) -> Generator[Checkpoint]:
    """Trains up to `steps` and yields every checkpoint in order, those of an earlier run of the same training too.

    `folder` belongs to this training alone; what another set of photos or numbers left in it is thrown away. Whatever
    `on_step` raises ends the training; the folder then holds all up to the last checkpoint.
    """
    handle = lora.inject(diffusion, config.rank, config.alpha, config.text_encoder_rate > 0, config.seed)
    try:
        optimizer = _optimizer(handle, config)
        done = 0
        for saved in _resumed(folder, _fingerprint(data, steps, config), optimizer):
            handle.load(saved.lora)
            done = saved.step
            yield saved
        trainer = _Trainer(data, diffusion, config, handle, optimizer)
        while done < steps:
            trainer.step(done)
            done += 1
            if done % config.validation_steps == 0 or done == steps:
                saved = Checkpoint(done, lora.state(handle))
                _save(folder, saved, optimizer)
                yield saved
            on_step(done, steps)
    finally:
        handle.remove()


class _Trainer:
    """One optimizer step after the other."""

    def __init__(
        self,
        data: TrainingSet,
        diffusion: Diffusion,
        config: TrainingConfig,
        handle: lora.LoraHandle,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self._data, self._diffusion, self._config = data, diffusion, config
        self._parameters = handle.parameters("")
        self._optimizer = optimizer
        self._kept_variance = diffusion.alphas_cumprod.float()
        self._at_once = config.batch * config.accumulation  # one true batch, as long as it fits into memory

    def step(self, number: int) -> None:
        latents, noise, timesteps = self._batch(number)
        while True:
            try:
                self._gradients(latents, noise, timesteps)
                break
            except torch.cuda.OutOfMemoryError:
                if self._at_once <= 1:
                    raise
                self._at_once = (self._at_once + 1) // 2
                logger.warning("out of GPU memory: going on with %d pictures at once", self._at_once)
        torch.nn.utils.clip_grad_norm_(self._parameters, self._config.clip_grad)
        self._optimizer.step()

    def _batch(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, noise and timesteps of a step. Every photo comes equally often, every timestep range too."""
        count, seed = self._config.batch * self._config.accumulation, self._config.seed
        draw = torch.Generator().manual_seed(seed * 1_000_003 + number)
        photos = torch.tensor([_photo_at(number * count + k, len(self._data.latents), seed) for k in range(count)])
        variants = torch.randint(self._data.latents.shape[1], (count,), generator=draw)
        latents = self._data.latents[photos, variants]
        noise = torch.randn(latents.shape, generator=draw)
        strata = (torch.arange(count) + torch.rand(count, generator=draw)) / count
        return latents, noise, (strata * TRAIN_TIMESTEPS).long()

    def _gradients(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        for at in range(0, len(latents), self._at_once):
            part = slice(at, at + self._at_once)
            loss = self._loss(latents[part], noise[part], timesteps[part])
            (loss * len(latents[part]) / len(latents)).backward()

    def _loss(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        device, dtype = self._diffusion.device, self._diffusion.dtype
        latents, noise, timesteps = latents.to(device), noise.to(device), timesteps.to(device)
        kept = self._kept_variance[timesteps].view(-1, 1, 1, 1)
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            text = self._diffusion.encode_text([self._data.caption]).expand(len(latents), -1, -1)
            predicted = self._diffusion.unet(noisy.to(dtype), timesteps, text, return_dict=False)[0]
        return torch.nn.functional.mse_loss(predicted.float(), noise)


def _photo_at(place: int, photos: int, seed: int) -> int:
    """Which photo stands at `place` of the endless row of shuffled epochs."""
    epoch, position = divmod(place, photos)
    shuffled = torch.randperm(photos, generator=torch.Generator().manual_seed(seed * 7919 + epoch))
    return int(shuffled[position])


def _optimizer(handle: lora.LoraHandle, config: TrainingConfig) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [{"params": handle.parameters(lora.UNET), "lr": config.learning_rate}]
    if text := handle.parameters(lora.TEXT):
        groups.append({"params": text, "lr": config.learning_rate * config.text_encoder_rate})
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay)


def _fingerprint(data: TrainingSet, steps: int, config: TrainingConfig) -> str:
    """Of everything that decides the weights."""
    return json.dumps([config.model_dump(mode="json"), steps, data.caption, data.digest])


def _lora_file(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06}.safetensors"


def _save(folder: Path, saved: Checkpoint, optimizer: torch.optim.Optimizer) -> None:
    """The LoRA first: whoever finds the optimizer's state finds the LoRA of that step too."""
    write_whole(_lora_file(folder, saved.step), save(saved.lora))
    buffer = io.BytesIO()
    torch.save({"step": saved.step, "optimizer": optimizer.state_dict()}, buffer)
    write_whole(folder / RESUME, buffer.getvalue())


def _resumed(folder: Path, fingerprint: str, optimizer: torch.optim.Optimizer) -> list[Checkpoint]:
    """The checkpoints of an earlier run, the optimizer set to the last of them; a foreign folder is emptied."""
    described = folder / "training.json"
    if not described.is_file() or described.read_text(encoding="utf-8") != fingerprint:
        shutil.rmtree(folder, ignore_errors=True)
        write_whole(described, fingerprint.encode())
        return []
    if not (folder / RESUME).is_file():
        return []
    last = torch.load(folder / RESUME, weights_only=True)
    optimizer.load_state_dict(last["optimizer"])
    found = [(int(path.stem.removeprefix("step-")), path) for path in sorted(folder.glob("step-*.safetensors"))]
    return [Checkpoint(step, load_file(path)) for step, path in found if step <= last["step"]]
