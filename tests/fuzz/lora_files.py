"""LoRA files of other programs, as `python -m engine lora import` takes them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save

from engine.lora import UnknownLora, import_file, load_kohya
from engine.types import SubjectFiles
from tests.fuzz.mutations import damaged, spoiled

KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
DIFFUSERS = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"


class LoraFiles:
    name = "LoRA file"
    longest_s = 30.0

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._folder = tempfile.TemporaryDirectory(prefix="fuzz-lora-")
        self._file = Path(self._folder.name) / "stranger.safetensors"
        self._subject = Path(self._folder.name) / "subject"
        self._subject.mkdir()
        self._seeds = list(_seeds())

    def make(self, draw: Random) -> bytes:
        data = draw.choice(self._seeds)
        kind = draw.random()
        if kind < 0.05:
            return data
        if kind < 0.45:
            return _other_header(draw, data)
        if kind < 0.6:
            return _other_tensors(draw)
        return spoiled(draw, data, self._seeds, most=draw.choice((1, 2, 6)))

    def feed(self, made: bytes) -> str:
        self._file.write_bytes(made)
        try:
            found = import_file(self._file, self._subject)
        except UnknownLora:
            return "refused"
        assert found["modules"] >= 1
        assert found["rank"] >= 1
        written = load_kohya(SubjectFiles(self._subject).lora)
        assert all(torch.isfinite(tensor).all() for tensor in written.values())
        return "taken"

    def close(self) -> None:
        self._folder.cleanup()


def _seeds() -> list[bytes]:
    down, up = torch.randn(4, 8), torch.randn(8, 4)
    kohya = {f"{KOHYA}.lora_down.weight": down, f"{KOHYA}.lora_up.weight": up, f"{KOHYA}.alpha": torch.tensor(2.0)}
    text = {f"{TEXT}.lora_down.weight": down.half(), f"{TEXT}.lora_up.weight": up.half()}
    theirs = {f"{DIFFUSERS}.lora_A.weight": down.bfloat16(), f"{DIFFUSERS}.lora_B.weight": up.bfloat16()}
    return [
        save(kohya),
        save({**kohya, **text}, {"ss_network_dim": "4"}),
        save(theirs),
        save({"x": down}),
        b"",
        b"PK\x03\x04",
    ]


def _other_header(draw: Random, data: bytes) -> bytes:
    """The tensors under a header that says something else of them."""
    try:
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])
    except ValueError:
        return data
    words = json.dumps(damaged(draw, header, most=2)).encode("utf-8", "surrogatepass")
    length = len(words) if draw.random() < 0.8 else draw.choice((0, 1, 2**31, 2**63, len(words) + 1))
    return length.to_bytes(8, "little") + words + data[end:]


def _other_tensors(draw: Random) -> bytes:
    """A sound file whose tensors do not fit together."""
    shapes: list[tuple[int, ...]] = [
        (),
        (0,),
        (4,),
        (4, 8),
        (8, 4),
        (0, 8),
        (8, 0),
        (4, 8, 1, 1),
        (8, 4, 3, 3),
        (1, 1),
        (200, 3),
    ]
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.uint8, torch.float8_e4m3fn)
    endings = (".lora_down.weight", ".lora_up.weight", ".alpha", ".dora_scale", ".hada_w1_a")
    tensors: dict[str, Any] = {}
    for ending in endings:
        if draw.random() < 0.8:
            fill = draw.choice((0.0, 1.0, -1.0, 1e30, float("nan"), float("inf")))
            tensors[KOHYA + ending] = torch.full(draw.choice(shapes), 1.0).mul(fill).to(draw.choice(kinds))
    return save(tensors)
