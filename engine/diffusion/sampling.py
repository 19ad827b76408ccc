"""Samplers: which noise levels a pass visits and how it gets from one to the next. They are diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, LCMScheduler, TCDScheduler
from torch import Tensor

TEACHER_STEPS = 50  # of the schedule on which few-step LoRAs were distilled
TCD_ETA = 1.0  # wholly stochastic, as its makers run the LoRA that serves every number of steps


class Sampler(StrEnum):
    """`DPM` is the reference's, "DPM++ 2M SDE Karras". The others want the LoRA that was distilled for them."""

    DPM = "dpm"
    LCM = "lcm"
    TCD = "tcd"

    def executed(self, steps: int, strength: float) -> int:
        """Of `steps` the share that `strength` says; few-step samplers execute all, spread over that much noise."""
        if self is Sampler.DPM:
            return int(min(strength, 0.999) * steps)
        return min(steps, int(TEACHER_STEPS * strength))


class Trajectory:
    """One pass from a noisy original to pictures, one per seed, in float32.

    All noise is drawn on the CPU, one generator per seed: the same seed gives the same noise on every device and
    whatever the number of candidates.
    """

    def __init__(
        self, sampler: Sampler, config: Mapping[str, Any], steps: int, strength: float, seeds: Sequence[int]
    ) -> None:
        self.total = sampler.executed(steps, strength)
        self._scheduler = dpm_scheduler(config) if sampler is Sampler.DPM else _few_step_scheduler(sampler, config)
        if sampler is Sampler.DPM:
            self._scheduler.set_timesteps(steps)
        else:
            self._scheduler.set_timesteps(self.total, original_inference_steps=TEACHER_STEPS, strength=strength)
        skipped = len(self._scheduler.timesteps) - self.total
        self._scheduler.set_begin_index(skipped)
        self.timesteps: Tensor = self._scheduler.timesteps[skipped:]  # (total,) on the CPU
        self._sampler = sampler
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._done = 0

    def begin(self, original: Tensor) -> Tensor:
        """(seeds, 4, h, w): the original (1, 4, h, w) under each seed's noise of the first level."""
        # All at once: a copy in every step would make the GPU wait for the CPU. Few-step schedulers draw by themselves.
        draws = self.total + 1 if self._sampler is Sampler.DPM else 1
        drawn = torch.stack([self._drawn(original) for _ in range(draws)]).to(original.device)
        self._original, self._noise, self._fresh = original.expand_as(drawn[0]), drawn[0], drawn[1:]
        return self.kept()

    def kept(self) -> Tensor:
        """The original at the level that is reached: what lies outside the mask."""
        if self._done == self.total:
            return self._original
        at = self.timesteps[self._done : self._done + 1]
        noisy: Tensor = self._scheduler.add_noise(self._original, self._noise, at)
        return noisy

    def advanced(self, latents: Tensor, noise: Tensor) -> Tensor:
        """The latents at the next level, given the noise that is thought to be in them."""
        own: dict[str, Any] = {"generator": self._generators}
        if self._sampler is Sampler.DPM:
            own = {"variance_noise": self._fresh[self._done]}
        elif self._sampler is Sampler.TCD:
            own["eta"] = TCD_ETA
        at = self.timesteps[self._done]
        self._done += 1
        result: Tensor = self._scheduler.step(noise, at, latents, **own).prev_sample
        return result

    def _drawn(self, like: Tensor) -> Tensor:
        return torch.stack([torch.randn(like.shape[1:], generator=generator) for generator in self._generators])


def dpm_scheduler(config: Mapping[str, Any]) -> DPMSolverMultistepScheduler:
    """A fresh "DPM++ 2M SDE Karras" on a model's own noise schedule (schedulers carry state)."""
    scheduler: DPMSolverMultistepScheduler = DPMSolverMultistepScheduler.from_config(
        dict(config), algorithm_type="sde-dpmsolver++", use_karras_sigmas=True
    )
    return scheduler


def _few_step_scheduler(sampler: Sampler, config: Mapping[str, Any]) -> LCMScheduler | TCDScheduler:
    kind = {Sampler.LCM: LCMScheduler, Sampler.TCD: TCDScheduler}[sampler]
    scheduler: LCMScheduler | TCDScheduler = kind.from_config(dict(config))
    return scheduler
