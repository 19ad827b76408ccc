"""Loads the small model: six networks, the tokenizer and the schedule, all from files in the package."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from engine.mini.architecture import CONTROLS
from engine.mini.chip import CANVAS

WEIGHTS = Path(__file__).parent / "weights"
"""The diffusers folder: each part loads with its class' `from_pretrained(WEIGHTS / part)`."""


@dataclass(frozen=True)
class MiniComponents:
    """Everything a diffusers pipeline takes. Networks are in evaluation mode on one device, in one dtype.

    `vae` RGB -1..1 <-> latents (its config has the scaling factor); `controlnets` has "canny", "pose" and "color",
    whose pictures `controls.py` draws; `size` is the canvas' side in pixels.
    """

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    controlnets: Mapping[str, ControlNetModel]
    scheduler: DDIMScheduler
    size: int = CANVAS


def load_mini(dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> MiniComponents:
    """The shipped model. Reads files of the package only; nothing is asked of the network."""

    def read(kind: Any, part: str) -> Any:
        model = kind.from_pretrained(WEIGHTS / part, dtype=dtype, local_files_only=True)
        return model.to(device).eval().requires_grad_(False)

    return MiniComponents(
        vae=read(AutoencoderKL, "vae"),
        unet=read(UNet2DConditionModel, "unet"),
        text_encoder=read(CLIPTextModel, "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer", local_files_only=True),
        controlnets={name: read(ControlNetModel, f"controlnet_{name}") for name in CONTROLS},
        scheduler=DDIMScheduler.from_pretrained(WEIGHTS / "scheduler", local_files_only=True),
    )
