"""Loading Stable Diffusion 1.5 from every format that people have, through the real loaders, on tiny stand-ins."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from engine.catalogue import load_catalogue
from engine.diffusion import Diffusion, InpaintRequest
from engine.errors import MissingWeights
from engine.models.sd15 import Sd15Files, UnfitWeights, load_sd15_components, sd15_files
from tests.stand_ins import sd15_files as stand_ins


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_ins.write_config(tmp_path_factory.mktemp("sd15") / "config")


@pytest.fixture(scope="module")
def networks(config: Path) -> stand_ins.Networks:
    return stand_ins.random_networks(config)


@pytest.fixture(scope="module")
def checkpoint(config: Path, networks: stand_ins.Networks) -> Path:
    return stand_ins.write_single_file(config.parent / "checkpoint.safetensors", networks)


def load(files: Sd15Files, dtype: torch.dtype = torch.float32):
    return load_sd15_components(files, dtype, "cpu")


def assert_same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    mine, theirs = a.state_dict(), b.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("kind", ["safetensors", "ckpt", "folder", "fp16 folder"])
def test_single_files_and_folders_give_the_same_tensors(
    kind: str, tmp_path: Path, config: Path, networks: stand_ins.Networks
) -> None:
    if kind.endswith("folder"):
        path = stand_ins.write_folder(tmp_path / "folder", config, networks, "fp16" if "fp16" in kind else None)
    else:
        path = stand_ins.write_single_file(tmp_path / f"checkpoint.{kind}", networks)
    loaded = load(Sd15Files(path, config / "tokenizer", config=config))
    assert_same(loaded.unet, networks.unet)
    assert_same(loaded.vae, networks.vae)
    assert_same(loaded.text_encoder, networks.text_encoder)
    assert loaded.scheduler_config["beta_schedule"] == "scaled_linear"
    assert loaded.scheduler_config["num_train_timesteps"] == 1000


def test_an_own_autoencoder_replaces_the_checkpoints(tmp_path: Path, config: Path, checkpoint: Path) -> None:
    other = stand_ins.random_networks(config, seed=1).vae
    path = stand_ins.write_vae(tmp_path / "vae-ft-mse-840000-ema-pruned.safetensors", other)
    assert_same(load(Sd15Files(checkpoint, config / "tokenizer", vae=path, config=config)).vae, other)


def test_controlnets_load_from_every_format_that_is_published(
    tmp_path: Path, config: Path, checkpoint: Path, networks: stand_ins.Networks
) -> None:
    networks.controlnet.save_pretrained(tmp_path / "folder", variant="fp16")
    networks.controlnet.save_pretrained(tmp_path / "bin", safe_serialization=False)
    files = {
        "v1.1 pth": stand_ins.write_controlnet(tmp_path / "control_v11p_sd15_canny.pth", networks.controlnet),
        "safetensors": stand_ins.write_controlnet(tmp_path / "control.safetensors", networks.controlnet),
        "diffusers folder": tmp_path / "folder",
        "diffusers file": tmp_path / "folder" / "diffusion_pytorch_model.fp16.safetensors",
        "diffusers bin": tmp_path / "bin" / "diffusion_pytorch_model.bin",
    }
    loaded = load(Sd15Files(checkpoint, config / "tokenizer", controlnets=files, config=config))
    assert loaded.controlnets.keys() == files.keys()
    for network in loaded.controlnets.values():
        assert_same(network, networks.controlnet)


def test_everything_comes_in_the_type_that_is_asked_for(tmp_path: Path, config: Path, checkpoint: Path) -> None:
    controlnet = stand_ins.write_controlnet(tmp_path / "c.pth", stand_ins.random_networks(config).controlnet)
    loaded = load(
        Sd15Files(checkpoint, config / "tokenizer", controlnets={"canny": controlnet}, config=config), torch.bfloat16
    )
    assert {
        loaded.unet.dtype,
        loaded.vae.dtype,
        loaded.text_encoder.dtype,
        loaded.controlnets["canny"].dtype,
    } == {torch.bfloat16}


def test_what_was_loaded_paints(config: Path, checkpoint: Path) -> None:
    loaded = load(Sd15Files(checkpoint, config / "tokenizer", config=config))
    diffusion = Diffusion(**vars(loaded))
    image = np.full((64, 64, 3), 128, np.uint8)
    painted = diffusion.inpaint(InpaintRequest(image, None, "a (face:1.2)", "", steps=4, strength=0.6, guidance=5))[0]
    assert painted.shape == image.shape
    assert painted.std() > 0


def test_kohya_loras_change_unet_and_text_encoder_by_their_alpha(
    tmp_path: Path, config: Path, networks: stand_ins.Networks
) -> None:
    folder = stand_ins.write_folder(tmp_path / "folder", config, networks)
    lora = stand_ins.write_kohya_lora(tmp_path / "person.safetensors", networks, rank=4, alpha=2)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    pipeline.load_lora_weights(str(lora), adapter_name="person")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    state = load_file(lora)
    for network, before, module, key in (
        (pipeline.unet, networks.unet, "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "lora_unet_"),
        (pipeline.text_encoder, networks.text_encoder, "encoder.layers.0.self_attn.q_proj", "lora_te_text_model_"),
    ):
        name = key + module.replace(".", "_")
        update = state[f"{name}.lora_up.weight"] @ state[f"{name}.lora_down.weight"] * (2 / 4)
        assert torch.allclose(
            network.get_submodule(module).weight, before.get_submodule(module).weight + update, atol=1e-5
        )


def test_foreign_weights_are_a_sentence(tmp_path: Path, config: Path, checkpoint: Path) -> None:
    with pytest.raises(UnfitWeights, match=r"checkpoint\.safetensors is not of Stable Diffusion 1\.5"):
        load(Sd15Files(checkpoint, config / "tokenizer"))  # a narrower network than the true one
    vae = stand_ins.write_vae(tmp_path / "vae.safetensors", stand_ins.random_networks(config).vae)
    with pytest.raises(UnfitWeights, match=r"vae\.safetensors"):
        load(Sd15Files(vae, config / "tokenizer", config=config))
    with pytest.raises(UnfitWeights, match=r"vae\.safetensors"):
        load(Sd15Files(checkpoint, config / "tokenizer", controlnets={"canny": vae}, config=config))


def test_absent_files_are_one_sentence_that_says_what_to_run(tmp_path: Path, config: Path, checkpoint: Path) -> None:
    with pytest.raises(MissingWeights, match="python -m engine models fetch"):
        load(Sd15Files(tmp_path / "absent.safetensors", config / "tokenizer"))
    with pytest.raises(MissingWeights, match="tokenizer"):
        load(Sd15Files(checkpoint, tmp_path / "tokenizer"))
    with pytest.raises(MissingWeights, match=r"absent\.pth"):
        load(Sd15Files(checkpoint, config / "tokenizer", controlnets={"canny": tmp_path / "absent.pth"}))


def test_the_catalogues_files_are_found_and_the_colour_network_is_optional(tmp_path: Path) -> None:
    catalogue = load_catalogue()
    with pytest.raises(MissingWeights, match="models fetch"):
        sd15_files(tmp_path)
    parts = ("sd15", "clip-tokenizer", "vae-ft-mse", "controlnet-canny", "controlnet-openpose", "controlnet-tile")
    for model_id in parts:
        for file in catalogue.model(model_id).files:
            (tmp_path / model_id / file.path).parent.mkdir(parents=True, exist_ok=True)
            with (tmp_path / model_id / file.path).open("wb") as empty:
                empty.truncate(file.bytes or 1)  # a sparse file of the right size
    files = sd15_files(tmp_path)
    assert files.tokenizer == tmp_path / "clip-tokenizer" / "tokenizer"
    assert files.checkpoint == tmp_path / "sd15" / "v1-5-pruned-emaonly.safetensors"
    assert set(files.controlnets) == {"canny", "pose", "tile"}
    (tmp_path / "controlnet-color").mkdir()
    (tmp_path / "controlnet-color" / "control_sd15_random_color.pth").touch()
    assert "color" in sd15_files(tmp_path).controlnets
    assert sd15_files(tmp_path, tmp_path / "own.safetensors").checkpoint == tmp_path / "own.safetensors"


class Payload:
    """What a crafted checkpoint carries: code that runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._mark,)


@pytest.mark.parametrize("kind", ["pickle", "torch", "noise", "empty", "huge header", "huge tensor"])
def test_a_crafted_checkpoint_runs_nothing_and_is_refused_with_a_sentence(
    tmp_path: Path, config: Path, kind: str
) -> None:
    mark, buffer = tmp_path / "owned", io.BytesIO()
    torch.save({"state_dict": {"x": Payload(mark)}}, buffer)
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    files = {
        "pickle": ("a.ckpt", pickle.dumps(Payload(mark))),
        "torch": ("b.ckpt", buffer.getvalue()),
        "noise": ("c.safetensors", b"\xff" * 100),
        "empty": ("d.safetensors", b""),
        "huge header": ("e.safetensors", (2**40).to_bytes(8, "little") + b"{}"),
        "huge tensor": ("f.safetensors", len(header).to_bytes(8, "little") + header),
    }
    name, data = files[kind]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UnfitWeights, match=name):
        load(Sd15Files(tmp_path / name, config / "tokenizer", config=config))
    assert not mark.exists()
