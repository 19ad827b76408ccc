"""Stable Diffusion 1.5 in its published architecture with random weights: as fast and as large as the real one.

Speed does not depend on the weights' values, only on shapes and types, so nothing is downloaded to measure it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from engine import mini
from engine.diffusion import Diffusion
from engine.models.sd15 import CONFIG, CONTEXT, Sd15Components, settle

if TYPE_CHECKING:
    from torch import nn

NARROW: Mapping[str, Mapping[str, Any]] = {  # the same blocks, for rehearsals on a CPU
    "unet": {"block_out_channels": [32, 64, 64, 64], "cross_attention_dim": 32, "attention_head_dim": 4},
    "controlnet": {"block_out_channels": [32, 64, 64, 64], "cross_attention_dim": 32, "attention_head_dim": 4},
    "vae": {"block_out_channels": [32, 32, 32, 64]},
    "text_encoder": {
        "hidden_size": 32,
        "projection_dim": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
}


def random_diffusion(
    device: str, *, tiny: bool = False, controlnets: Sequence[str] = ("canny", "pose", "tile", "color"), seed: int = 0
) -> Diffusion:
    """The profile sd15's networks on `device`, in the types that the profile gives them there."""
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        dtype = torch.float32 if device == "cpu" else torch.float16
        unet = _network(UNet2DConditionModel, "unet", tiny, dtype)
        vae = _network(AutoencoderKL, "vae", tiny, dtype)
        text_encoder = CLIPTextModel(CLIPTextConfig(**_numbers("text_encoder", tiny))).to(dtype)
        hints = {name: _network(ControlNetModel, "controlnet", tiny, dtype) for name in controlnets}
        for network in hints.values():
            _wake(network)
    # The vocabulary is a download too: the small model's stands in, its ids are among CLIP's.
    folder = Path(mini.__file__).parent / "weights" / "tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=CONTEXT, local_files_only=True)
    parts = Sd15Components(unet, vae, text_encoder, tokenizer, hints, _numbers("scheduler", tiny))
    for each in (unet, vae, text_encoder, *hints.values()):
        each.eval().requires_grad_(False)
    settle(parts, device)
    return Diffusion(unet, vae, text_encoder, tokenizer, hints, parts.scheduler_config)


def _network(kind: Any, part: str, tiny: bool, dtype: torch.dtype) -> Any:
    return kind.from_config(_numbers(part, tiny)).to(dtype)


def _wake(controlnet: nn.Module) -> None:
    """A fresh ControlNet's outputs are zeros, which a GPU computes faster than others."""
    with torch.no_grad():
        for name, weight in controlnet.named_parameters():
            if "controlnet_" in name:
                weight.normal_(0, 0.02)


def _numbers(part: str, tiny: bool) -> dict[str, Any]:
    file = CONFIG / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    numbers: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return {**numbers, **(NARROW.get(part, {}) if tiny else {})}
