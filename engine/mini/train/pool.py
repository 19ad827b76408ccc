"""A refilled store of augmented, encoded, captioned chips, so that encoding does not stand in the trainer's way."""

import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from engine.mini.architecture import CONTEXT_LENGTH
from engine.mini.captions import FILLERS, Attributes, caption
from engine.mini.controls import canny_control, color_control, pose_control
from engine.mini.train.augment import BACKGROUNDS, Portraits, draw, face_weight

EMPTY_SHARE = 0.1
SUBJECT_SHARE = 0.6
PHRASE_SHARE = 0.7
TENSORS = ("latents", "tokens", "first", "second", "share", "weight")  # of a Pool, beside its control pictures


@dataclass
class Pool:
    """`latents` (n, 4, 32, 32) scaled; `tokens` (n, CONTEXT_LENGTH); `first`, `second`, `share` the identity's mixture;
    `weight` (n, 1, 32, 32) 1 on the face; `controls` {name: (n, 3, 128, 128) uint8}, only when asked for."""

    latents: Tensor
    tokens: Tensor
    first: Tensor
    second: Tensor
    share: Tensor
    weight: Tensor
    controls: dict[str, Tensor]

    def rows(self, index: Tensor) -> "Pool":
        """A batch."""
        chosen = {k: v[index] for k, v in self.controls.items()}
        return Pool(**{name: getattr(self, name)[index] for name in TENSORS}, controls=chosen)

    def put(self, at: int, new: "Pool") -> int:
        """Overwrites from row `at` (wrapping round) and returns the next place."""
        size = len(self.latents)
        index = (torch.arange(len(new.latents), device=self.latents.device) + at) % size
        for name in TENSORS:
            getattr(self, name)[index] = getattr(new, name)
        for name, value in new.controls.items():
            self.controls[name][index] = value
        return int((at + len(new.latents)) % size)


class Writer:
    """Random captions as token rows. Every word is one token, so a dictionary does the tokenizer's work quickly."""

    def __init__(self, tokenizer: CLIPTokenizer, captions: np.ndarray, seed: int) -> None:
        self.tokenizer = tokenizer
        self.attributes = [Attributes(**json.loads(c)) for c in captions]
        self.random = random.Random(seed)
        self.known: dict[str, list[int]] = {}

    def row(self, owner: int, is_mirrored: bool, background: int, is_mono: bool) -> list[int]:
        """One caption: phrases dropped and shuffled, sometimes the trigger phrase, filler words or nothing at all."""
        r = self.random
        if r.random() < EMPTY_SHARE:
            words = [] if r.random() < 0.5 else r.sample(FILLERS, r.randint(1, 8))
            return self.encode(" , ".join(words))
        said = self.attributes[owner]
        said = said.mirrored() if is_mirrored else said
        changes = {"background": f"{BACKGROUNDS[background]} background"} if background else {}
        changes |= {"tone": "monochrome"} if is_mono else {}
        said = Attributes(**{**said.as_dict(), **changes})
        kept = {k: v if k == "person" or r.random() < PHRASE_SHARE else "" for k, v in said.as_dict().items()}
        text = caption(Attributes(**kept), is_subject=r.random() < SUBJECT_SHARE)
        if r.random() < 0.2:
            text += ", " + ", ".join(r.sample(FILLERS, r.randint(1, 4)))
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        """Token ids padded to CONTEXT_LENGTH."""
        pieces = (
            text.replace(",", " , ")
            .replace("easyphoto_face", "easyphoto _ face")
            .replace("1person", "1 person")
            .split()
        )
        ids = [i for piece in pieces for i in self._ids(piece)][: CONTEXT_LENGTH - 2]
        end = self.tokenizer.eos_token_id
        return [self.tokenizer.bos_token_id, *ids, *[end] * (CONTEXT_LENGTH - 1 - len(ids))]

    def _ids(self, piece: str) -> list[int]:
        if piece not in self.known:
            self.known[piece] = self.tokenizer(piece).input_ids[1:-1]
        return self.known[piece]


@torch.no_grad()
def encode_chips(
    portraits: Portraits, vae: AutoencoderKL, writer: Writer, n: int, rng: torch.Generator, with_controls: bool = False
) -> Pool:
    """`n` fresh rows."""
    drawn = draw(portraits, n, rng)
    with torch.autocast(drawn.pictures.device.type, torch.bfloat16, enabled=drawn.pictures.device.type == "cuda"):
        latents = vae.encode(drawn.pictures).latent_dist.mean.float() * vae.config.scaling_factor
    half = len(portraits.chips) // 2
    facts = torch.stack(
        [portraits.owner[drawn.first], drawn.first >= half, drawn.background, drawn.mono.long()], 1
    ).tolist()
    tokens = torch.tensor([writer.row(o, bool(m), b, bool(g)) for o, m, b, g in facts], device=latents.device)
    weight = face_weight(drawn.landmarks, 32, 6.0)
    controls = draw_controls(drawn.pictures, drawn.landmarks) if with_controls else {}
    owners = portraits.owner[drawn.first], portraits.owner[drawn.second]
    return Pool(latents.half(), tokens, *owners, drawn.share, weight.half(), controls)


def draw_controls(pictures: Tensor, landmarks: Tensor) -> dict[str, Tensor]:
    """{name: (n, 3, 128, 128) uint8} control pictures of (n, 3, 128, 128) pictures in -1..1."""
    rgb = ((pictures + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    points = landmarks.cpu().numpy()

    def three(i: int) -> np.ndarray:
        picture = np.ascontiguousarray(rgb[i])
        made = canny_control(picture), pose_control(points[i], picture.shape[0]), color_control(picture)
        return np.stack([np.round(m * 255) for m in made]).astype(np.uint8)

    with ThreadPoolExecutor(8) as workers:
        made = torch.from_numpy(np.stack(list(workers.map(three, range(len(rgb))))))
    made = made.permute(1, 0, 4, 2, 3).to(pictures.device)
    return {"canny": made[0], "pose": made[1], "color": made[2]}


def filled(size: int, make: Callable[[int], Pool], chunk: int = 256) -> Pool:
    """A pool of `size` rows, made `chunk` at a time by `make(chunk) -> Pool`."""
    chunk = min(chunk, size)
    parts = [make(chunk) for _ in range(size // chunk)]
    controls = {k: torch.cat([p.controls[k] for p in parts]) for k in parts[0].controls}
    return Pool(**{name: torch.cat([getattr(p, name) for p in parts]) for name in TENSORS}, controls=controls)
