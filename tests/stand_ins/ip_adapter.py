"""An IP-Adapter for whole faces in the hub's format: random weights for a UNet, and a tiny CLIP image encoder."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

WIDTH = 32  # of the image encoder


def write_ip_adapter(folder: Path, unet: UNet2DConditionModel) -> tuple[Path, Path]:
    """The adapter's file and the image encoder's folder, laid out as in the hub's repository."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=16,
    )
    encoder = folder / "models" / "image_encoder"
    CLIPVisionModelWithProjection(config).save_pretrained(encoder)
    cross = unet.config.cross_attention_dim
    state = {
        "image_proj.proj.0.weight": torch.randn(WIDTH, WIDTH) / WIDTH**0.5,
        "image_proj.proj.0.bias": torch.randn(WIDTH),
        "image_proj.proj.2.weight": torch.randn(cross, WIDTH) / WIDTH**0.5,
        "image_proj.proj.2.bias": torch.randn(cross),
        "image_proj.proj.3.weight": torch.ones(cross),
        "image_proj.proj.3.bias": torch.zeros(cross),
    }
    crossings = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for k, name in enumerate(crossings):
        attention = unet.get_submodule(name.removesuffix(".processor"))
        for which in "kv":
            weight = torch.randn(attention.inner_dim, cross) / cross**0.5
            state[f"ip_adapter.{2 * k + 1}.to_{which}_ip.weight"] = weight
    weights = folder / "models" / "ip-adapter-full-face_sd15.safetensors"
    save_file(state, weights)
    return weights, encoder
