"""The reference's way to paint, for comparison: diffusers' own inpainting pipeline with ControlNets, eager, in half
precision, everything moved to the GPU before each call and away after it, the LoRA loaded each time.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionControlNetInpaintPipeline
from PIL import Image

from engine.diffusion import Diffusion, InpaintRequest, Painting
from engine.diffusion.core import OnStep
from engine.diffusion.sampling import dpm_scheduler

REST = "cpu"
SUBJECT = "subject"


@dataclass
class PlainDiffusion(Diffusion):
    """Networks of its own, which rest in the CPU's memory; `works_on` is the device of a call. What it
    paints is thrown away."""

    works_on: str = "cpu"
    lora: Path = field(default_factory=Path)
    lora_weight: float = 1.0

    @staticmethod
    def copied(diffusion: Diffusion, lora: Path, lora_weight: float) -> PlainDiffusion:
        device = diffusion.device.type
        dtype = torch.float32 if device == "cpu" else torch.float16

        return PlainDiffusion(
            plain_copy(diffusion.unet, dtype).to(REST),
            plain_copy(diffusion.vae, dtype).to(REST),
            copy.deepcopy(diffusion.text_encoder).to(REST, dtype),
            diffusion.tokenizer,
            {name: plain_copy(network, dtype).to(REST) for name, network in diffusion.controlnets.items()},
            diffusion.scheduler_config,
            works_on=device,
            lora=lora,
            lora_weight=lora_weight,
        )

    def painting(self, request: InpaintRequest, on_step: OnStep = lambda done, total: None) -> Painting:
        pipeline = StableDiffusionControlNetInpaintPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            controlnet=[self.controlnets[control.name] for control in request.controls],
            scheduler=dpm_scheduler(self.scheduler_config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        pipeline.to(self.works_on)
        pipeline.load_lora_weights(self.lora, adapter_name=SUBJECT)
        pipeline.set_adapters(SUBJECT, self.lora_weight)
        mask = np.ones(request.image.shape[:2]) if request.mask is None else request.mask
        pictures = pipeline(
            prompt=request.prompt,
            negative_prompt=request.negative,
            image=Image.fromarray(request.image),
            mask_image=Image.fromarray((mask * 255).astype(np.uint8)),
            control_image=[Image.fromarray(control.picture) for control in request.controls],
            controlnet_conditioning_scale=[control.weight for control in request.controls],
            strength=request.strength,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            num_images_per_prompt=request.count,
            generator=torch.Generator().manual_seed(request.seed),
        ).images
        pipeline.unload_lora_weights()
        pipeline.to(REST)
        assert len(pictures) == request.count
        return pretended(request)


def plain_copy(network: Any, dtype: torch.dtype) -> Any:
    """The same weights in diffusers' own layers and layout, on the same device."""
    with network.device:
        plain = type(network).from_config(network.config)
    plain.load_state_dict(network.state_dict())
    return plain.to(dtype).eval().requires_grad_(False)


def pretended(request: InpaintRequest) -> Painting:
    """Pictures that show the face that was there, each a little lighter: noise, which random weights paint, shows none
    and would be searched for long, and what did not change at all would not be searched again."""
    levels = range(1, request.count + 1)
    return Painting(request.image, lambda: [np.minimum(request.image, 255 - k) + np.uint8(k) for k in levels])
