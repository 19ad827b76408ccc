"""Trains the UNet and the text encoder together.

    python -m engine.mini.train.unet chips.npz OUT --seconds 300 [--resume] [--rate 5e-4]

Noise prediction on the SD1.5 schedule, min-SNR weights (Hang 2023, gamma 8), errors on the face count double, 10 %
empty captions. Identity has a place in the text: in a caption with the trigger phrase the embedding of "easyphoto"
gets, two times in three, a vector added that is learned for the person (a mixture of two for a mixed face).
The person's
vectors are thrown away; what stays is a model in which that word's position carries who it is, which is what a LoRA
then needs to say. OUT/unet and OUT/text_encoder are diffusers folders (moving averages).
"""

import argparse
import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from engine.mini.architecture import CONTEXT_LENGTH, LATENT, SCHEDULER, TEXT_WIDTH, new_text_encoder, new_unet
from engine.mini.train.augment import Portraits, plain
from engine.mini.train.features import IDENTITIES
from engine.mini.train.pool import Pool, Writer, encode_chips, filled

log = logging.getLogger(__name__)
RATE = 7e-4
VECTORS = "identities.pt"
NAME_SHARE = 0.67
GAMMA = 8.0


class Identities(nn.Module):
    """Learned vectors of the training people, put in the place of the word "easyphoto" by a forward hook."""

    def __init__(self, text_encoder: CLIPTextModel, token: int) -> None:
        super().__init__()
        self.table = nn.Embedding(IDENTITIES, TEXT_WIDTH)
        nn.init.normal_(self.table.weight, std=0.02)
        self.token = token
        self.batch: Pool | None = None
        self.named: Tensor | None = None
        embeddings = text_encoder.get_input_embeddings()
        embeddings.register_forward_hook(self._replace)

    def _replace(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        del module
        if self.batch is None or self.named is None:
            return output
        share = self.batch.share[:, None]
        name = (1 - share) * self.table(self.batch.first) + share * self.table(self.batch.second)
        here = (inputs[0] == self.token) & self.named[:, None]
        return torch.where(here[..., None], output + name[:, None].to(output.dtype), output)


@dataclass
class Model:
    """What is trained together, and the noise schedule (`alphas` (1000,) cumulative)."""

    unet: UNet2DConditionModel
    text: CLIPTextModel
    identities: Identities
    alphas: Tensor

    def contexts(self, batch: Pool, rng: torch.Generator | None) -> Tensor:
        """The text encoder's hidden states; with `rng`, identities are named in a share of the rows."""
        self.identities.batch = batch if rng is not None else None
        if rng is not None:
            n = len(batch.tokens)
            self.identities.named = torch.rand(n, device=batch.tokens.device, generator=rng) < NAME_SHARE
        states = self.text(batch.tokens)[0]
        self.identities.batch = None
        return states

    def noised(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        a = self.alphas[t].view(-1, 1, 1, 1)
        return a.sqrt() * latents + (1 - a).sqrt() * noise

    def loss(self, predicted: Tensor, noise: Tensor, t: Tensor, weight: Tensor) -> Tensor:
        """Mean squared error, min-SNR weighted, doubled on the face."""
        snr = self.alphas[t] / (1 - self.alphas[t])
        place = 1 + weight.float()
        place = place / place.mean((1, 2, 3), keepdim=True)
        each = ((predicted.float() - noise).square() * place).mean((1, 2, 3))
        return (each * snr.clamp(max=GAMMA) / snr).mean()


def new_model(output: Path, tokenizer: CLIPTokenizer, device: str, resume: bool) -> Model:
    """Fresh, or as saved by an earlier run in `output`. Vectors of people that were not kept are learned anew."""
    if resume:
        unet = UNet2DConditionModel.from_pretrained(output / "unet", dtype=torch.float32)
        text = CLIPTextModel.from_pretrained(output / "text_encoder", dtype=torch.float32)
    else:
        unet = new_unet()
        text = new_text_encoder(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    token = tokenizer("easyphoto").input_ids[1]
    identities = Identities(text, token)
    if resume and (output / VECTORS).is_file():
        identities.load_state_dict(torch.load(output / VECTORS, weights_only=True))
    alphas = DDPMScheduler.from_config(SCHEDULER).alphas_cumprod
    return Model(unet.to(device), text.to(device).train(), identities.to(device), alphas.to(device))


class Masters:
    """Full-precision copies of a network's weights, while the network itself computes in bfloat16.

    Faster than autocast here: normalisations run in bfloat16 too, and small networks wait for memory.
    """

    def __init__(self, module: nn.Module) -> None:
        self.light: list[Tensor] = list(module.parameters())
        self.full: list[Tensor] = [nn.Parameter(p.detach().float().clone()) for p in self.light]
        self.gradients = [torch.zeros_like(p) for p in self.full]

    def take_gradients(self) -> None:
        torch._foreach_copy_(self.gradients, [light.grad for light in self.light if light.grad is not None])
        for full, light, gradient in zip(self.full, self.light, self.gradients, strict=True):
            full.grad, light.grad = gradient, None

    @torch.no_grad()
    def put_back(self) -> None:
        torch._foreach_copy_(self.light, self.full)


class Averages:
    """Moving averages of weights."""

    def __init__(self, weights: list[Tensor]) -> None:
        self.own = [w.detach() for w in weights]
        self.mean = [w.clone() for w in self.own]

    def update(self, rate: float) -> None:
        torch._foreach_lerp_(self.mean, self.own, rate)

    def put_into(self, weights: list[Tensor]) -> None:
        for weight, mean in zip(weights, self.mean, strict=True):
            weight.data.copy_(mean)


class Core(nn.Module):
    """The UNet as a plain function of tensors, which is what a CUDA graph can record."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, noisy: Tensor, t: Tensor, states: Tensor) -> Tensor:
        return self.unet(noisy, t, states, return_dict=False)[0]


def recorded(unet: UNet2DConditionModel, batch: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The bfloat16 UNet, forward and backward each one CUDA graph: launching kernels took longest."""
    if unet.device.type != "cuda":
        return Core(unet)
    like = {"device": unet.device, "dtype": unet.dtype}
    noisy = torch.randn(batch, 4, LATENT, LATENT, **like)
    states = torch.randn(batch, CONTEXT_LENGTH, TEXT_WIDTH, **like, requires_grad=True)
    graphed: Any = torch.cuda.make_graphed_callables(
        Core(unet), (noisy, torch.zeros(batch, device=unet.device).long(), states)
    )
    return graphed


def train_unet(
    model: Model, make: Callable[[int], Pool], seconds: float, batch: int, pool_size: int, rate: float
) -> None:
    """`make(n) -> Pool` gives fresh rows; the pool is renewed by an eighth of the batch each step."""
    device = model.alphas.device
    rng = torch.Generator(device).manual_seed(17)
    start = time.time()
    pool, place = filled(pool_size, make), 0
    masters = Masters(model.unet)
    if device.type == "cuda":
        model.unet.to(torch.bfloat16)
    core = recorded(model.unet, batch)
    small = [*model.text.parameters(), *model.identities.parameters()]
    parameters = [*masters.full, *small]
    averages = Averages(parameters)
    optimizer = torch.optim.AdamW(parameters, rate, betas=(0.9, 0.99), weight_decay=0.01, fused=device.type == "cuda")
    step, recent = 0, []
    while (past := (time.time() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 200) * (0.03 + 0.97 * math.cos(past * math.pi / 2) ** 1.5)
        if step % 16 == 0:
            place = pool.put(place, make(2 * batch))
        rows = pool.rows(torch.randint(len(pool.latents), (batch,), device=device, generator=rng))
        latents = rows.latents.float()
        noise = torch.randn(latents.shape, device=device, generator=rng)
        t = torch.randint(1000, (batch,), device=device, generator=rng)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            states = model.contexts(rows, rng)
        dtype = model.unet.dtype
        predicted = core(model.noised(latents, noise, t).to(dtype), t, states.to(dtype))
        loss = model.loss(predicted, noise, t, rows.weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        masters.take_gradients()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        masters.put_back()
        averages.update(max(0.001, 1 / (step + 10)))
        if step % 100 == 0:
            recent.append(loss.item())
            log.info("unet step %d loss %.4f %.0f s", step, sum(recent[-5:]) / len(recent[-5:]), time.time() - start)
        step += 1
    log.info("unet done: %d steps of %d, loss %.4f", step, batch, sum(recent[-10:]) / len(recent[-10:]))
    model.unet.to(torch.float32)
    averages.put_into([*masters.light, *small])


@torch.no_grad()
def held_out_loss(model: Model, vae: AutoencoderKL, held_out: Portraits, writer: Writer) -> float:
    """Unweighted noise-prediction error on the held-out portraits, their captions, 20 timesteps."""
    half = len(held_out.chips) // 2
    rows = torch.arange(half, device=held_out.chips.device)
    latents = vae.encode(plain(held_out, rows).pictures).latent_dist.mean * vae.config.scaling_factor
    tokens = torch.tensor([writer.row(int(o), False, 0, False) for o in held_out.owner[:half]], device=latents.device)
    states = model.text(tokens)[0]
    rng = torch.Generator(latents.device).manual_seed(3)
    errors = []
    for value in torch.linspace(20, 980, 20).long():
        t = value.to(latents.device).expand(half)
        noise = torch.randn(latents.shape, device=latents.device, generator=rng)
        predicted = model.unet(model.noised(latents, noise, t), t, states).sample
        errors.append((predicted - noise).square().mean().item())
    return sum(errors) / len(errors)


@dataclass(frozen=True)
class Material:
    """What the UNet and the ControlNets are trained with."""

    model: Model
    vae: AutoencoderKL
    writer: Writer
    portraits: Portraits
    rng: torch.Generator

    def rows(self, n: int, with_controls: bool = False) -> Pool:
        """`n` fresh rows."""
        return encode_chips(self.portraits, self.vae, self.writer, n, self.rng, with_controls)


def options(description: str | None, seconds: float, pool: int) -> argparse.ArgumentParser:
    """The command line of both programs."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("chips")
    parser.add_argument("output", type=Path)
    parser.add_argument("--tokenizer", default="engine/mini/weights/tokenizer")
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--pool", type=int, default=pool)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--device", default="cuda")
    return parser


def material(args: argparse.Namespace, resume: bool, seed: int) -> Material:
    """Everything loaded; `seed` is of the weights, the captions and the chips."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = True
    tokenizer = CLIPTokenizer.from_pretrained(args.tokenizer)
    return Material(
        new_model(args.output, tokenizer, args.device, resume),
        AutoencoderKL.from_pretrained(args.output / "vae", dtype=torch.float32)
        .to(args.device)
        .eval()
        .requires_grad_(False),
        Writer(tokenizer, np.load(args.chips)["captions"], seed=seed),
        Portraits.load(args.chips, args.device),
        torch.Generator(args.device).manual_seed(seed),
    )


def main() -> None:
    """Command line, see the module."""
    parser = options(__doc__, seconds=300, pool=24576)
    parser.add_argument("--rate", type=float, default=RATE)
    args = parser.parse_args()
    given = material(args, args.resume, seed=9)
    model = given.model
    train_unet(model, given.rows, args.seconds, args.batch, args.pool, args.rate)
    held_out = Portraits.load(args.chips, args.device, held_out=True)
    log.info("unet held out loss %.4f", held_out_loss(model, given.vae, held_out, given.writer))
    shutil.rmtree(args.output / "unet", ignore_errors=True)  # it may have come in shards
    model.unet.save_pretrained(args.output / "unet")
    model.text.save_pretrained(args.output / "text_encoder")
    torch.save(model.identities.state_dict(), args.output / VECTORS)


if __name__ == "__main__":
    main()
