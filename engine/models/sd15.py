"""Stable Diffusion 1.5 from the files that people have: a single-file checkpoint or a diffusers folder, an own
autoencoder, ControlNets of version 1.1 (their `.pth`, a `.safetensors`, or a diffusers folder).

Nothing is asked of a hub: the architecture's numbers lie in `engine/sd15_config`, CLIP's vocabulary is a file of the
catalogue like the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import SingleFileComponentError
from transformers import CLIPTextModel, CLIPTokenizer

from engine.catalogue import load_catalogue
from engine.errors import EngineError, MissingWeights

CONFIG = Path(__file__).parents[1] / "sd15_config"
CONTEXT = 77  # tokens
# Names in the control stage and in the catalogue.
CONTROLNETS = {
    "canny": "controlnet-canny",
    "pose": "controlnet-openpose",
    "tile": "controlnet-tile",
    "color": "controlnet-color",
}

Loaded = TypeVar("Loaded")


class UnfitWeights(EngineError):
    """A file is there, but its networks are not those of Stable Diffusion 1.5."""


@dataclass(frozen=True)
class Sd15Files:
    """Where the parts lie. `vae` None: the checkpoint's own. `controlnets`: any names of the caller's choice.

    `tokenizer` is a folder with `vocab.json` and `merges.txt`, for single files; folders bring their own.
    """

    checkpoint: Path
    tokenizer: Path
    vae: Path | None = None
    controlnets: Mapping[str, Path] = field(default_factory=dict)
    config: Path = CONFIG  # of single files; folders bring their own


@dataclass(frozen=True)
class Sd15Components:
    """The networks, in one type on one device, ready for inference."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    controlnets: Mapping[str, ControlNetModel]
    scheduler_config: Mapping[str, Any]


def sd15_files(models_dir: Path, checkpoint: Path | None = None) -> Sd15Files:
    """The files of the catalogue, under the names that the control stage uses; `checkpoint` replaces the base.

    The colour ControlNet is left out when its file is not there: no client can fetch it. Raises MissingWeights.
    """
    catalogue = load_catalogue()
    controlnets = {
        name: catalogue.locate_file(model_id, models_dir)
        for name, model_id in CONTROLNETS.items()
        if name != "color" or not catalogue.model(model_id).missing(models_dir)
    }
    base = checkpoint or catalogue.locate_file("sd15", models_dir)
    tokenizer = catalogue.locate_file("clip-tokenizer", models_dir).parent
    return Sd15Files(base, tokenizer, catalogue.locate_file("vae-ft-mse", models_dir), controlnets)


def load_sd15_components(files: Sd15Files, dtype: torch.dtype, device: str) -> Sd15Components:
    """Reads everything that `files` names.

    Raises MissingWeights when a file is not there, UnfitWeights when it holds other networks.
    """
    for path in (files.checkpoint, files.tokenizer, files.vae, *files.controlnets.values()):
        if path is not None and not path.exists():
            raise MissingWeights(f"{path} is not there: run `python -m engine models fetch` or name another file")
    pipeline = _reading(files.checkpoint, lambda: _pipeline(files, dtype))
    vae = pipeline.vae if files.vae is None else _part(AutoencoderKL, files.vae, files.config / "vae", dtype)
    controlnets = {
        name: _part(ControlNetModel, path, files.config / "controlnet", dtype)
        for name, path in files.controlnets.items()
    }
    return Sd15Components(
        pipeline.unet.to(device),
        vae.to(device),
        pipeline.text_encoder.to(device),
        pipeline.tokenizer,
        {name: network.to(device) for name, network in controlnets.items()},
        dict(pipeline.scheduler.config),
    )


def settle(parts: Sd15Components, device: str) -> None:
    """Gives the networks the types and the memory layout that suit the device. Call it once, before anything records
    where their weights lie.

    On a CPU they stay in single precision. On a GPU bfloat16 (float16 where a card has none, whose losses training
    scales), the layout that tensor cores read (channels last) and fused kernels between the products. The autoencoder
    stays in float16: eight bits of mantissa band skin.
    """
    if device == "cpu":
        return
    for network in (parts.unet, parts.vae, *parts.controlnets.values()):
        network.to(memory_format=torch.channels_last)
    from engine.diffusion.fused import fuse  # Triton comes with the CUDA build of torch alone

    for network in (parts.unet, parts.vae, *parts.controlnets.values()):
        fuse(network.requires_grad_(False))
    if torch.cuda.is_bf16_supported(including_emulation=False):
        for network in (parts.unet, parts.text_encoder, *parts.controlnets.values()):
            network.to(torch.bfloat16)


def _pipeline(files: Sd15Files, dtype: torch.dtype) -> StableDiffusionPipeline:
    # Without these two the loader looks for the files of a content check that single files never have.
    plain = {"safety_checker": None, "feature_extractor": None}
    if files.checkpoint.is_dir():
        return StableDiffusionPipeline.from_pretrained(
            files.checkpoint, variant=_variant(files.checkpoint / "unet"), dtype=dtype, local_files_only=True, **plain
        )
    return StableDiffusionPipeline.from_single_file(
        str(files.checkpoint),
        config=str(files.config),
        # The vocabulary's files do not say how many tokens the text encoder takes at once.
        tokenizer=CLIPTokenizer.from_pretrained(files.tokenizer, model_max_length=CONTEXT),
        dtype=dtype,
        local_files_only=True,
        **plain,
    )


def _part(kind: Any, path: Path, config: Path, dtype: torch.dtype) -> Any:
    if path.is_dir():
        return _reading(path, lambda: kind.from_pretrained(path, variant=_variant(path), dtype=dtype))
    return _reading(path, lambda: kind.from_single_file(str(path), config=str(config), dtype=dtype))


def _variant(folder: Path) -> str | None:
    """ "fp16" when a network's folder holds nothing else."""
    names = {file.name for file in folder.glob("diffusion_pytorch_model.*")}
    return "fp16" if names and all(".fp16." in name for name in names) else None


def _reading(path: Path, read: Callable[[], Loaded]) -> Loaded:
    try:
        return read()
    # What the loaders raise for weights of other shapes or names, and for files that hold none (OSError).
    except (SingleFileComponentError, ValueError, KeyError, RuntimeError, TypeError, OSError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UnfitWeights(f"{path} is not of Stable Diffusion 1.5: {reason[:200]}") from error
