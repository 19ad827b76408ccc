"""Stable Diffusion 1.5 in its published formats, with random weights: LDM single file, diffusers folder, ControlNet 1.1
files, kohya LoRAs. Tiny networks have the same blocks as the true ones, only narrower.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from engine.models.sd15 import CONFIG

MINI_TOKENIZER = CONFIG.parent / "mini" / "weights" / "tokenizer"
TINY: dict[str, dict[str, Any]] = {
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
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
FEW_STEP_TARGETS = (
    *LORA_TARGETS,
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv"),
)
TEXT_LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@dataclass(frozen=True)
class Networks:
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    controlnet: ControlNetModel


def write_config(folder: Path, true_size: bool = False) -> Path:
    """A configuration like the engine's own, narrower unless `true_size`, with a small vocabulary in `tokenizer/`."""
    shutil.copytree(CONFIG, folder)
    tokenizer = CLIPTokenizer.from_pretrained(MINI_TOKENIZER)
    tokenizer.model_max_length = 77
    tokenizer.save_pretrained(folder / "tokenizer")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(MINI_TOKENIZER / name, folder / "tokenizer" / name)
    if not true_size:
        for part, changes in TINY.items():
            file = folder / part / "config.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


def random_networks(config: Path, dtype: torch.dtype = torch.float32, seed: int = 0) -> Networks:
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        networks = Networks(
            UNet2DConditionModel.from_config(_numbers(config, "unet")),
            AutoencoderKL.from_config(_numbers(config, "vae")),
            CLIPTextModel(CLIPTextConfig(**_numbers(config, "text_encoder"))),
            ControlNetModel.from_config(_numbers(config, "controlnet")),
        )
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():  # a fresh ControlNet's outputs are zeros: useless for comparing
        for name, weight in networks.controlnet.named_parameters():
            if "controlnet_" in name:
                weight.normal_(0, 0.02)
    return networks


def write_single_file(path: Path, networks: Networks) -> Path:
    """All three networks under the names of the original (LDM) code; `.ckpt` as a pickle, else safetensors."""
    state = {
        **_prefixed("model.diffusion_model.", _ldm_unet(networks.unet)),
        **_prefixed("first_stage_model.", ldm_vae(networks.vae)),
        **{
            "cond_stage_model.transformer.text_model." + name.removeprefix("text_model."): tensor
            for name, tensor in networks.text_encoder.state_dict().items()
        },
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
    }
    return _save(path, state, wrapped="state_dict")


def write_vae(path: Path, vae: AutoencoderKL) -> Path:
    """An autoencoder alone, as vae-ft-mse-840000 is published: LDM names without a prefix."""
    return _save(path, ldm_vae(vae), wrapped="state_dict")


def write_folder(folder: Path, config: Path, networks: Networks, variant: str | None = None) -> Path:
    scheduler = PNDMScheduler.from_pretrained(config / "scheduler")
    StableDiffusionPipeline(
        vae=networks.vae,
        text_encoder=networks.text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(config / "tokenizer"),
        unet=networks.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, variant=variant)
    return folder


def write_controlnet(path: Path, network: ControlNetModel) -> Path:
    """As `control_v11p_sd15_canny.pth`: LDM names under `control_model.`."""
    return _save(path, _prefixed("control_model.", _ldm_controlnet(network)), wrapped=None)


def write_kohya_lora(
    path: Path, networks: Networks, rank: int = 4, alpha: float = 2, dtype: torch.dtype = torch.float32
) -> Path:
    """A LoRA of UNet and text encoder as the web UI and its trainers know it: `lora_unet_…`, `lora_te_…`, `.alpha`.

    At true size, rank 128 and float16 it has the size of published ones: 151.1 MB.
    """
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    targets = [
        *(("lora_unet_" + name, module) for name, module in _targets(networks.unet, LORA_TARGETS, "attentions")),
        *(
            ("lora_te_text_model_" + name.removeprefix("text_model."), module)
            for name, module in _targets(networks.text_encoder, TEXT_LORA_TARGETS, "layers")
        ),
    ]
    for name, module in targets:
        key = name.replace(".", "_")
        out, into = module.weight.shape[:2]
        kernel = tuple(module.weight.shape[2:])
        state[f"{key}.lora_down.weight"] = torch.randn(rank, into, *kernel, generator=generator) / rank
        state[f"{key}.lora_up.weight"] = torch.randn(out, rank, *kernel, generator=generator) * 0.05
        state[f"{key}.alpha"] = torch.tensor(float(alpha))
    return _save(path, {name: tensor.to(dtype) for name, tensor in state.items()}, wrapped=None)


def write_few_step_lora(path: Path, networks: Networks, rank: int = 4) -> Path:
    """As `latent-consistency/lcm-lora-sdv1-5`: kohya's names, the UNet alone, convolutions and time projections too.

    At true size, rank 64 and float16 it has the size of the published one: 134.6 MB.
    """
    generator = torch.Generator().manual_seed(1)
    state: dict[str, torch.Tensor] = {}
    for name, module in _targets(networks.unet, FEW_STEP_TARGETS, ""):
        key = "lora_unet_" + name.replace(".", "_")
        out, into, *kernel = module.weight.shape
        state[f"{key}.lora_down.weight"] = torch.randn(rank, into, *kernel, generator=generator) / rank
        state[f"{key}.lora_up.weight"] = torch.randn(out, rank, *(1 for _ in kernel), generator=generator) * 0.02
        state[f"{key}.alpha"] = torch.tensor(1.0)
    return _save(path, state, wrapped=None)


def ldm_vae(vae: AutoencoderKL) -> dict[str, torch.Tensor]:
    """An autoencoder's weights under LDM names."""
    levels = len(vae.config.block_out_channels)
    named = {}
    for name, tensor in vae.state_dict().items():
        new = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        new = new.replace("mid_block.attentions.0.", "mid.attn_1.")
        for k in (0, 1):
            new = new.replace(f"mid_block.resnets.{k}.", f"mid.block_{k + 1}.")
        for i in range(levels):
            new = new.replace(f"down_blocks.{i}.downsamplers.0.", f"down.{i}.downsample.")
            new = new.replace(f"up_blocks.{i}.upsamplers.0.", f"up.{levels - 1 - i}.upsample.")
            for j in range(vae.config.layers_per_block + 1):
                new = new.replace(f"encoder.down_blocks.{i}.resnets.{j}.", f"encoder.down.{i}.block.{j}.")
                new = new.replace(f"decoder.up_blocks.{i}.resnets.{j}.", f"decoder.up.{levels - 1 - i}.block.{j}.")
        if "attn_1" in new:
            for ours, theirs in (
                ("group_norm.", "norm."),
                ("to_q.", "q."),
                ("to_k.", "k."),
                ("to_v.", "v."),
                ("to_out.0.", "proj_out."),
            ):
                new = new.replace(ours, theirs)
            tensor = tensor[..., None, None] if tensor.ndim == 2 else tensor
        named[new] = tensor
    return named


def _ldm_unet(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    return {_ldm_name(name, _blocks(unet)): tensor for name, tensor in unet.state_dict().items()}


def _ldm_controlnet(network: ControlNetModel) -> dict[str, torch.Tensor]:
    convolutions = len(network.controlnet_cond_embedding.blocks)
    renamed = [
        ("controlnet_mid_block.", "middle_block_out.0."),
        ("controlnet_cond_embedding.conv_in.", "input_hint_block.0."),
        ("controlnet_cond_embedding.conv_out.", f"input_hint_block.{2 * convolutions + 2}."),
        *((f"controlnet_cond_embedding.blocks.{k}.", f"input_hint_block.{2 * k + 2}.") for k in range(convolutions)),
        *((f"controlnet_down_blocks.{k}.", f"zero_convs.{k}.0.") for k in range(len(network.controlnet_down_blocks))),
    ]
    return {_ldm_name(name, [*renamed, *_blocks(network)]): tensor for name, tensor in network.state_dict().items()}


def _blocks(network: Any) -> list[tuple[str, str]]:
    """Beginnings of names: diffusers' and the original code's."""
    layers, types = network.config.layers_per_block, network.config.down_block_types
    last = len(types) - 1
    pairs = [
        ("time_embedding.linear_1.", "time_embed.0."),
        ("time_embedding.linear_2.", "time_embed.2."),
        ("conv_in.", "input_blocks.0.0."),
        ("conv_norm_out.", "out.0."),
        ("conv_out.", "out.2."),
        ("mid_block.resnets.0.", "middle_block.0."),
        ("mid_block.attentions.0.", "middle_block.1."),
        ("mid_block.resnets.1.", "middle_block.2."),
    ]
    for i in range(last + 1):
        for j in range(layers):
            at = i * (layers + 1) + j + 1
            pairs.append((f"down_blocks.{i}.resnets.{j}.", f"input_blocks.{at}.0."))
            pairs.append((f"down_blocks.{i}.attentions.{j}.", f"input_blocks.{at}.1."))
        for j in range(layers + 1):
            at = i * (layers + 1) + j
            pairs.append((f"up_blocks.{i}.resnets.{j}.", f"output_blocks.{at}.0."))
            pairs.append((f"up_blocks.{i}.attentions.{j}.", f"output_blocks.{at}.1."))
        pairs.append((f"down_blocks.{i}.downsamplers.0.conv.", f"input_blocks.{(i + 1) * (layers + 1)}.0.op."))
        beside = 2 if "CrossAttn" in types[last - i] else 1  # an upsampler comes after the attention, if there is one
        pairs.append((f"up_blocks.{i}.upsamplers.0.", f"output_blocks.{i * (layers + 1) + layers}.{beside}."))
    return pairs


def _ldm_name(name: str, beginnings: Iterable[tuple[str, str]]) -> str:
    for ours, theirs in beginnings:
        if name.startswith(ours):
            rest = name[len(ours) :]
            if ".resnets." in ours:
                for a, b in (
                    ("norm1", "in_layers.0"),
                    ("conv1", "in_layers.2"),
                    ("norm2", "out_layers.0"),
                    ("conv2", "out_layers.3"),
                    ("time_emb_proj", "emb_layers.1"),
                    ("conv_shortcut", "skip_connection"),
                ):
                    rest = rest.replace(a, b)
            return theirs + rest
    raise KeyError(name)


def _targets(network: torch.nn.Module, endings: tuple[str, ...], inside: str) -> list[tuple[str, torch.nn.Module]]:
    return [
        (name, module)
        for name, module in network.named_modules()
        if (not inside or f"{inside}." in name) and name.endswith(tuple("." + ending for ending in endings))
    ]


def _numbers(config: Path, part: str) -> dict[str, Any]:
    return json.loads((config / part / "config.json").read_text())


def _prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def _save(path: Path, state: dict[str, torch.Tensor], wrapped: str | None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path, metadata={"format": "pt"})
    else:
        torch.save({wrapped: tensors} if wrapped else tensors, path)
    return path
