"""Whether a picture may be shown to everybody: a vision transformer that tells "normal" from "nsfw"."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import ViTForImageClassification

from engine.errors import MissingWeights
from engine.types import Rgb

UNSAFE = "nsfw"  # the label of the network's configuration
THRESHOLD = 0.5


class ContentCheck:
    """A `ContentChecker` from a folder as the hub has it: `config.json`, `preprocessor_config.json` and weights."""

    name = "vit-nsfw"

    def __init__(self, folder: Path, device: str = "cpu", threshold: float = THRESHOLD) -> None:
        if not (folder / "preprocessor_config.json").is_file():
            raise MissingWeights(f"{folder} holds no content check: run `python -m engine models fetch nsfw`")
        self._network = ViTForImageClassification.from_pretrained(folder, local_files_only=True).to(device).eval()
        numbers = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        self._size = (numbers["size"]["width"], numbers["size"]["height"])
        self._mean, self._std = np.array(numbers["image_mean"]), np.array(numbers["image_std"])
        self._label = int(self._network.config.label2id[UNSAFE])
        self._threshold = threshold

    def is_safe(self, rgb: Rgb) -> bool:
        return self.unsafe(rgb) < self._threshold

    @torch.inference_mode()
    def unsafe(self, rgb: Rgb) -> float:
        """The network's share for "nsfw", 0..1."""
        small = np.asarray(Image.fromarray(rgb).resize(self._size, Image.Resampling.BILINEAR)) / 255
        pixels = torch.from_numpy((small - self._mean) / self._std).permute(2, 0, 1)[None].float()
        logits = self._network(pixel_values=pixels.to(self._network.device)).logits
        return float(logits.softmax(-1)[0, self._label])
