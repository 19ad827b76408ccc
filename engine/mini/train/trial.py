"""Can a LoRA learn a person? Leave-one-out over five photos each of a few people, and what the base model does.

    python -m engine.mini.train.trial WEIGHTS subjects.npz OUT.npz --steps 250 --folds 4

`subjects.npz` holds canvas chips (5, 128, 128, 3) uint8 per person. Writes the pictures; scoring them (dlib, network
"judge") is `evaluate`'s. Nothing of the people goes into the shipped weights.
"""

import argparse
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from engine.mini.captions import TRIGGER

log = logging.getLogger(__name__)
UNET_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
TEXT_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


@dataclass(frozen=True)
class Recipe:
    """How a LoRA is trained."""

    steps: int = 250
    batch: int = 4
    rank: int = 32
    alpha: int = 32
    rate: float = 1e-3
    text_share: float = 0.5
    seed: int = 1


class Painter:
    """The parts of a weights folder, in float32, and what can be done with them."""

    def __init__(self, folder: Path, tokenizer: Path, device: str) -> None:
        self.device = torch.device(device)
        self.vae = AutoencoderKL.from_pretrained(folder / "vae").float().to(device).eval().requires_grad_(False)
        self.unet = (
            UNet2DConditionModel.from_pretrained(folder / "unet").float().to(device).eval().requires_grad_(False)
        )
        self.text = (
            CLIPTextModel.from_pretrained(folder / "text_encoder").float().to(device).eval().requires_grad_(False)
        )
        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer)
        self.scheduler = DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,  # noqa: E501
            steps_offset=1,
        )  # fmt: skip
        self.alphas = self.scheduler.alphas_cumprod.to(device)

    def cast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def states(self, text: str, n: int) -> Tensor:
        length = self.tokenizer.model_max_length
        ids = self.tokenizer(
            text, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids
        return self.text(ids.to(self.device))[0].expand(n, -1, -1)

    def encode(self, pictures: Tensor) -> Tensor:
        with torch.no_grad(), self.cast():
            return self.vae.encode(pictures).latent_dist.mean.float() * self.vae.config.scaling_factor

    @torch.no_grad()
    def paint(
        self, text: str, n: int, guidance: float, init: Tensor | None = None, strength: float = 1.0
    ) -> np.ndarray:
        """(n, 128, 128, 3) uint8 by 30 DDIM steps, from noise or from `init` latents."""
        self.scheduler.set_timesteps(30)
        steps = self.scheduler.timesteps[int(30 * (1 - strength)) :]
        rng = torch.Generator("cpu").manual_seed(5)
        x = torch.randn(n, 4, 32, 32, generator=rng).to(self.device)
        if init is not None:
            a = self.alphas[steps[0]]
            x = a.sqrt() * init + (1 - a).sqrt() * x
        with self.cast():
            states = torch.cat([self.states("", n), self.states(text, n)])
        for t in steps:
            with self.cast():
                empty, said = self.unet(torch.cat([x, x]), t.to(self.device), states).sample.float().chunk(2)
            x = self.scheduler.step(empty + guidance * (said - empty), t, x).prev_sample
        with self.cast():
            y = self.vae.decode(x / self.vae.config.scaling_factor).sample.float()
        return ((y.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def to_tensor(pictures: np.ndarray, device: torch.device) -> Tensor:
    """(n, h, w, 3) uint8 to (n, 3, h, w) in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def wobbled(pictures: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """`n` of the pictures, mirrored half of the time, turned up to 5 degrees, scaled and shifted up to 6 %."""
    x = pictures[torch.randint(len(pictures), (n,), generator=rng)]
    flip = torch.rand(n, 1, 1, 1, generator=rng).to(x.device) < 0.5
    x = torch.where(flip, x.flip(-1), x)
    angle = (torch.rand(n, generator=rng) - 0.5) * 0.18
    scale = 1 + (torch.rand(n, generator=rng) - 0.5) * 0.12
    shift = (torch.rand(n, 2, generator=rng) - 0.5) * 0.06
    top = torch.stack([scale * angle.cos(), -scale * angle.sin(), shift[:, 0]], 1)
    low = torch.stack([scale * angle.sin(), scale * angle.cos(), shift[:, 1]], 1)
    grid = F.affine_grid(torch.stack([top, low], 1), list(x.shape), align_corners=False).to(x.device)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def train_lora(painter: Painter, photos: np.ndarray, recipe: Recipe) -> float:
    """Adds adapters to `painter`'s UNet and text encoder and trains them on (n, 128, 128, 3) photos; the late loss."""
    torch.manual_seed(recipe.seed)
    rng = torch.Generator().manual_seed(recipe.seed)
    for module, targets in ((painter.unet, UNET_TARGETS), (painter.text, TEXT_TARGETS)):
        inject_adapter_in_model(LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=targets), module)
        module.to(painter.device)
    groups = []
    for module, rate in ((painter.unet, recipe.rate), (painter.text, recipe.rate * recipe.text_share)):
        own = [p for n, p in module.named_parameters() if "lora_" in n]
        for p in own:
            p.requires_grad_(True)
        groups.append({"params": own, "lr": rate, "initial_lr": rate})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    source = to_tensor(photos, painter.device)
    recent = []
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = (
                group["initial_lr"] * min(1, (step + 1) / 10) * max(0.1, 1 - max(0, step / recipe.steps - 0.5))
            )
        z = painter.encode(wobbled(source, recipe.batch, rng))
        noise = torch.randn(z.shape, generator=rng).to(z.device)
        t = torch.randint(1000, (recipe.batch,), generator=rng).to(z.device)
        a = painter.alphas[t].view(-1, 1, 1, 1)
        with painter.cast():
            predicted = painter.unet(
                a.sqrt() * z + (1 - a).sqrt() * noise, t, painter.states(TRIGGER, recipe.batch)
            ).sample
        loss = (predicted.float() - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recent.append(loss.item())
    return float(np.mean(recent[-50:]))


def paintings(painter: Painter, bases: np.ndarray) -> dict[str, np.ndarray]:
    """From noise (12), and from the `bases` at strengths 0.65 and 0.45."""
    init = painter.encode(to_tensor(bases, painter.device))
    return {
        "noise": painter.paint(TRIGGER, 12, 2.0),
        "s65": painter.paint(TRIGGER, len(bases), 2.0, init, 0.65),
        "s65g4": painter.paint(TRIGGER, len(bases), 4.0, init, 0.65),
        "s45": painter.paint(TRIGGER, len(bases), 2.0, init, 0.45),
    }


def main() -> None:
    """Command line, see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("subjects", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--tokenizer", type=Path, default=Path("engine/mini/weights/tokenizer"))
    parser.add_argument("--people", default="abc")
    parser.add_argument("--folds", type=int, nargs="*", default=[4])
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--alpha", type=int, default=32)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    data = np.load(args.subjects)
    out: dict[str, np.ndarray] = {}
    for key, value in paintings(Painter(args.weights, args.tokenizer, args.device), data["bases"]).items():
        out[f"base_{key}"] = value
    for who in args.people:
        for fold in args.folds:
            start = time.time()
            painter = Painter(args.weights, args.tokenizer, args.device)
            photos = np.delete(data[who], fold, axis=0)
            loss = train_lora(painter, photos, Recipe(steps=args.steps, rate=args.rate, alpha=args.alpha))
            trained = time.time() - start
            for key, value in paintings(painter, data["bases"]).items():
                out[f"{who}{fold}_{key}"] = value
            log.info(
                "lora %s fold %d loss %.4f, %.0f s + %.0f s", who, fold, loss, trained, time.time() - start - trained
            )
    np.savez_compressed(args.output, **out)


if __name__ == "__main__":
    main()
