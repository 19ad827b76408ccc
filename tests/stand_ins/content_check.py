"""A content check in the hub's format: a tiny vision transformer with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import ViTConfig, ViTForImageClassification


def write_content_check(folder: Path) -> Path:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.5,
        id2label={0: "normal", 1: "nsfw"},
        label2id={"normal": 0, "nsfw": 1},
    )
    ViTForImageClassification(config).save_pretrained(folder)
    numbers = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "ViTImageProcessor",
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": 224, "width": 224},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(numbers))
    return folder
