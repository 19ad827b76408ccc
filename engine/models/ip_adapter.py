"""IP-Adapter (Ye et al. 2023), the version for whole faces: a picture of a face as a second prompt, beside the words.

CLIP's picture of the face becomes tokens, and every cross-attention of the UNet looks at them through key and value
matrices of its own. They are fixed for all steps, so keys and values are computed once per person. Nothing of the UNet
changes but the processors of those attentions, which are put back afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionModelWithProjection

from engine.crop import Crop
from engine.models.sd15 import UnfitWeights
from engine.parsing import Parser, closed
from engine.types import Face, Rgb

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from engine.diffusion import Diffusion

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
WHITE = 255
BROWS = slice(17, 27)


class IpAdapterFace:
    """Reads `ip-adapter-full-face_sd15` and CLIP's image encoder as the hub holds them. Raises UnfitWeights."""

    def __init__(self, weights: Path, image_encoder: Path, unet: UNet2DConditionModel) -> None:
        state = load_file(weights)
        projection = {k.removeprefix("image_proj.proj."): v for k, v in state.items() if k.startswith("image_proj.")}
        self._crossings = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
        wanted = {f"ip_adapter.{2 * k + 1}.to_{w}_ip.weight" for k in range(len(self._crossings)) for w in "kv"}
        if not {"0.weight", "2.weight", "3.weight"} <= projection.keys() or not wanted <= state.keys():
            raise UnfitWeights(f"{weights} is no IP-Adapter for whole faces of Stable Diffusion 1.5")
        place: dict[str, Any] = {"device": unet.device, "dtype": unet.dtype}
        (inner, width), out = projection["0.weight"].shape, projection["2.weight"].shape[0]
        self._tokens_of = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, out), nn.LayerNorm(out))
        self._tokens_of.load_state_dict(projection)
        self._tokens_of.to(**place).eval()
        encoder = CLIPVisionModelWithProjection.from_pretrained(image_encoder, local_files_only=True)
        self._encoder = encoder.to(**place).eval()
        self._processors = {
            name: FaceAttention(*(state[f"ip_adapter.{2 * k + 1}.to_{w}_ip.weight"] for w in "kv")).to(**place)
            for k, name in enumerate(self._crossings)
        }

    @contextmanager
    def applied(self, diffusion: Diffusion, face_picture: Rgb, weight: float, guided: bool) -> Iterator[None]:
        """Within the block the diffusion sees the face at `weight`; afterwards as before. `guided`: with a branch
        without prompts, which sees an empty picture."""
        unet = diffusion.unet
        before = dict(unet.attn_processors)
        tokens = self.tokens([face_picture])
        if guided:
            tokens = torch.cat([self.tokens([None]), tokens])
        for name in self._crossings:
            self._processors[name].look_at(tokens, weight, unet.get_submodule(name.removesuffix(".processor")).heads)
        try:
            unet.set_attn_processor({**before, **self._processors})
            yield
        finally:
            unet.set_attn_processor(before)

    @torch.inference_mode()
    def tokens(self, pictures: list[Rgb | None]) -> Tensor:
        """(n, tokens, width); None is the empty picture."""
        side = self._encoder.config.image_size
        pixels = torch.stack([_pixels(picture, side) for picture in pictures]).to(self._encoder.device)
        seen = self._encoder(pixels.to(self._encoder.dtype), output_hidden_states=True).hidden_states[-2]
        tokens: Tensor = self._tokens_of(seen)
        return tokens


class FaceAttention(nn.Module):
    """An attention processor that adds what the face's tokens say, by `weight`. The buffers keep their places from one
    person to the next, so that CUDA graphs stay valid."""

    keys: Tensor
    values: Tensor
    weight: Tensor

    def __init__(self, to_key: Tensor, to_value: Tensor) -> None:
        super().__init__()
        self.to_key, self.to_value = nn.Parameter(to_key, False), nn.Parameter(to_value, False)
        self.register_buffer("keys", torch.zeros(()))
        self.register_buffer("values", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    @torch.no_grad()
    def look_at(self, tokens: Tensor, weight: float, heads: int) -> None:
        """`tokens` (branches, n, width): what each branch of the guidance sees."""
        for name, matrix in (("keys", self.to_key), ("values", self.to_value)):
            split = _heads(functional.linear(tokens, matrix), heads).clone()
            known = getattr(self, name)
            if known.shape == split.shape:
                known.copy_(split)
            else:
                setattr(self, name, split)
        self.weight.fill_(weight)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """As diffusers calls its processors; (batch, pixels, width), the branches one after the other."""
        query = _heads(attn.to_q(hidden_states), attn.heads)
        key, value = (_heads(to(encoder_hidden_states), attn.heads) for to in (attn.to_k, attn.to_v))
        words = functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        candidates = len(hidden_states) // len(self.keys)
        keys, values = (kept.repeat_interleave(candidates, 0) for kept in (self.keys, self.values))
        face = functional.scaled_dot_product_attention(query, keys, values)
        both = (words + self.weight * face).transpose(1, 2).flatten(2)
        result: Tensor = attn.to_out[1](attn.to_out[0](both))
        return result


def face_picture(rgb: Rgb, face: Face, parse: Parser, side: int = 224) -> Rgb:
    """(side, side, 3) what the adapter is shown of a photo: the face from the brows down, eyes level, on white."""
    left_eye, right_eye = face.landmarks[36:42].mean(0), face.landmarks[42:48].mean(0)
    across = (right_eye - left_eye) / max(float(np.linalg.norm(right_eye - left_eye)), 1e-6)
    zoom = side / max(face.width, face.height)
    turn = zoom * np.array([[across[0], across[1]], [-across[1], across[0]]], np.float64)
    middle = np.array([face.box_xyxy[0] + face.box_xyxy[2], face.box_xyxy[1] + face.box_xyxy[3]]) / 2
    crop = Crop(np.column_stack([turn, (side - 1) / 2 - turn @ middle]), (side, side))
    mask = crop.cut_mask(closed(parse(rgb, face).face, face.width / 10)) > 0.5
    highest_brow = crop.to_canvas(face.landmarks[BROWS])[:, 1].min()
    mask[: max(0, int(highest_brow))] = False
    return np.where(mask[..., None], crop.cut(rgb), np.uint8(WHITE))


def _heads(states: Tensor, heads: int) -> Tensor:
    return states.unflatten(-1, (heads, -1)).transpose(1, 2)


def _pixels(picture: Rgb | None, side: int) -> Tensor:
    if picture is None:
        return torch.zeros(3, side, side)
    small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA) / 255
    return torch.from_numpy((small - MEAN) / STD).permute(2, 0, 1).float()
