"""Turns a training folder into the package's weights: fp16 safetensors, each file below 16 MiB, diffusers' layout.

python -m engine.mini.train.export TRAINED engine/mini/weights
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextModel

from engine.mini.architecture import CONTROLS, SCHEDULER
from engine.mini.train.vocabulary import write_tokenizer

PARTS = {
    "vae": AutoencoderKL,
    "unet": UNet2DConditionModel,
    "text_encoder": CLIPTextModel,
    **{f"controlnet_{name}": ControlNetModel for name in CONTROLS},
}
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def export(trained: Path, weights: Path) -> None:
    """Writes every part that `trained` has; parts that it lacks stay as they are."""
    for name, kind in PARTS.items():
        if not (trained / name).is_dir():
            continue
        shutil.rmtree(weights / name, ignore_errors=True)
        model = kind.from_pretrained(trained / name, dtype=torch.float16)
        model.save_pretrained(weights / name, max_shard_size="14MB")
        config = json.loads((weights / name / "config.json").read_text())
        config.pop("_name_or_path", None)  # the trainer's folder says nothing to anybody else
        (weights / name / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_tokenizer(weights / "tokenizer")
    (weights / "scheduler").mkdir(exist_ok=True)
    (weights / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2) + "\n")
    (weights / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")


def main() -> None:
    """Command line, see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path)
    parser.add_argument("weights", type=Path)
    args = parser.parse_args()
    export(args.trained, args.weights)


if __name__ == "__main__":
    main()
