"""Trains the three ControlNets (canny, pose, color) at once under the frozen UNet.

    python -m engine.mini.train.controlnet chips.npz OUT --seconds 120

A batch has four equal parts: one for each net alone, one under all three with random weights, as portraits are painted.
Half of the captions are empty, so that the control must be read. OUT/controlnet_<name> are diffusers folders.
"""

import argparse
import logging
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel
from torch import Tensor
from transformers import CLIPTokenizer

from engine.mini.architecture import CONTROLS, new_controlnet
from engine.mini.train.augment import Portraits
from engine.mini.train.pool import Pool, Writer, encode_chips, filled
from engine.mini.train.unet import Averages, Model, new_model

log = logging.getLogger(__name__)
RATE = 8e-4


def residuals(nets: dict[str, ControlNetModel], rows: Pool, noisy: Tensor, t: Tensor, states: Tensor, rng: torch.Generator):  # noqa: PLR0913, ANN201
    """Down and mid residuals for a batch in four parts; see the module."""
    part = len(noisy) // 4
    total: list[Tensor] | None = None
    for number, name in enumerate(CONTROLS):
        index = torch.cat([torch.arange(number * part, (number + 1) * part), torch.arange(3 * part, 4 * part)]).to(noisy.device)
        picture = rows.controls[name][index].float() / 255
        down, mid = nets[name](noisy[index], t[index], states[index], picture, return_dict=False)
        weight = torch.ones(2 * part, 1, 1, 1, device=noisy.device)
        weight[part:] = torch.rand(part, 1, 1, 1, device=noisy.device, generator=rng) * 0.9 + 0.1
        if total is None:
            total = [torch.zeros(len(noisy), *r.shape[1:], device=noisy.device, dtype=torch.float32) for r in (*down, mid)]
        total = [s.index_add(0, index, (r * weight).float()) for s, r in zip(total, (*down, mid), strict=True)]
    return total[:-1], total[-1]


def train_controlnets(model: Model, nets: dict[str, ControlNetModel], make: "callable", seconds: float, batch: int, pool_size: int, empty: Tensor) -> None:  # type: ignore[valid-type]  # noqa: E501, PLR0913
    """Leaves the moving averages in `nets`. `empty` (CONTEXT_LENGTH,) are the tokens of the empty caption."""
    device = model.alphas.device
    rng = torch.Generator(device).manual_seed(19)
    start = time.time()
    pool, place = filled(pool_size, make), 0
    parameters = [p for n in nets.values() for p in n.parameters()]
    averages = Averages(list(nets.values()))
    optimizer = torch.optim.AdamW(parameters, RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=device.type == "cuda")
    step, recent = 0, []
    while (past := (time.time() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 50) * (0.03 + 0.97 * math.cos(past * math.pi / 2))
        if step % 16 == 0:
            place = pool.put(place, make(batch))
        rows = pool.rows(torch.randint(len(pool.latents), (batch,), device=device, generator=rng))
        blank = torch.rand(batch, device=device, generator=rng) < 0.5
        rows.tokens = torch.where(blank[:, None], empty[None], rows.tokens)
        latents = rows.latents.float()
        noise = torch.randn(latents.shape, device=device, generator=rng)
        t = torch.randint(1000, (batch,), device=device, generator=rng)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            with torch.no_grad():
                states = model.contexts(rows, rng)
            noisy = model.noised(latents, noise, t)
            down, mid = residuals(nets, rows, noisy, t, states, rng)
            predicted = model.unet(
                noisy, t, states, down_block_additional_residuals=down, mid_block_additional_residual=mid
            ).sample
        loss = model.loss(predicted, noise, t, rows.weight)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        averages.update(max(0.004, 1 / (step + 10)))
        if step % 50 == 0:
            recent.append(loss.item())
            log.info("controlnet step %d loss %.4f %.0f s", step, sum(recent[-4:]) / len(recent[-4:]), time.time() - start)
        step += 1
    log.info("controlnet done: %d steps of %d, loss %.4f", step, batch, sum(recent[-5:]) / len(recent[-5:]))
    averages.swap()


def main() -> None:
    """Command line, see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chips")
    parser.add_argument("output", type=Path)
    parser.add_argument("--tokenizer", default="engine/mini/weights/tokenizer")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--pool", type=int, default=6144)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(10)
    portraits = Portraits.load(args.chips, args.device)
    vae = AutoencoderKL.from_pretrained(args.output / "vae").to(args.device).eval().requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(args.tokenizer)
    writer = Writer(tokenizer, np.load(args.chips)["captions"], seed=22)
    model = new_model(args.output, tokenizer, args.device, resume=True)
    for module in (model.unet, model.text, model.identities):
        module.eval().requires_grad_(False)
    nets = {name: new_controlnet(model.unet).to(args.device) for name in CONTROLS}
    if args.resume:
        nets = {n: ControlNetModel.from_pretrained(args.output / f"controlnet_{n}").to(args.device).train() for n in CONTROLS}
    rng = torch.Generator(args.device).manual_seed(14)
    empty = torch.tensor(writer.encode(""), device=args.device)
    train_controlnets(
        model, nets, lambda n: encode_chips(portraits, vae, writer, n, rng, with_controls=True),
        args.seconds, args.batch, args.pool, empty,
    )  # fmt: skip
    for name, net in nets.items():
        net.save_pretrained(args.output / f"controlnet_{name}")


if __name__ == "__main__":
    main()
