"""Trains the three ControlNets (canny, pose, color) at once under the frozen UNet.

    python -m engine.mini.train.controlnet chips.npz OUT --seconds 120

A batch has four equal parts: one for each net alone, one under all three with random weights, as portraits are painted.
Half of the captions are empty, so that the control must be read. OUT/controlnet_<name> are diffusers folders.
"""

import logging
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from engine.mini.architecture import CONTROLS, new_controlnet
from engine.mini.train.pool import Pool, filled
from engine.mini.train.unet import Averages, Masters, Model, material, options

log = logging.getLogger(__name__)
RATE = 8e-4


class Controlled(nn.Module):
    """The UNet under three ControlNets, for batches in four parts (see the module), as one function of tensors."""

    index: Tensor  # (3, batch / 2): the rows of each net
    unet: UNet2DConditionModel

    def __init__(self, unet: UNet2DConditionModel, nets: dict[str, ControlNetModel], batch: int) -> None:
        super().__init__()
        self.unet = unet
        self.nets = nn.ModuleDict(nets)
        rows = torch.arange(batch).view(4, -1)
        self.register_buffer("index", torch.stack([torch.cat([rows[i], rows[3]]) for i in range(3)]).to(unet.device))

    def forward(self, noisy: Tensor, t: Tensor, states: Tensor, pictures: Tensor, weights: Tensor) -> Tensor:
        """`pictures` (3, batch/2, 3, 128, 128) and `weights` (3, batch/2) belong to the rows `index` of each net."""
        total: list[Tensor] = []
        for i, picture, weight, net in zip(self.index, pictures, weights, self.nets.values(), strict=True):
            down, mid = net(noisy[i], t[i], states[i], picture, return_dict=False)
            own = [r * weight.view(-1, 1, 1, 1) for r in (*down, mid)]
            own = [r.new_zeros(len(noisy), *r.shape[1:]).index_add(0, i, r) for r in own]
            total = [a + b for a, b in zip(total, own, strict=True)] if total else own
        return self.unet(
            noisy, t, states, down_block_additional_residuals=total[:-1], mid_block_additional_residual=total[-1],
            return_dict=False,
        )[0]  # fmt: skip

    def inputs(self, rows: Pool, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The pictures and weights of a batch: alone each net counts fully, together by 0.1 to 1."""
        pictures = torch.stack([rows.controls[n][i] for n, i in zip(self.nets, self.index, strict=True)])
        dtype = self.unet.dtype
        weights = torch.rand(self.index.shape, device=self.index.device, generator=rng) * 0.9 + 0.1
        weights[:, : weights.shape[1] // 2] = 1
        return pictures.to(dtype) / 255, weights.to(dtype)


def train_controlnets(
    model: Model,
    nets: dict[str, ControlNetModel],
    make: Callable[[int], Pool],
    seconds: float,
    batch: int,
    pool_size: int,
    empty: Tensor,
) -> None:
    """Leaves the moving averages in `nets`. `empty` (CONTEXT_LENGTH,) are the tokens of the empty caption."""
    device = model.alphas.device
    rng = torch.Generator(device).manual_seed(19)
    start = time.time()
    pool, place = filled(pool_size, make), 0
    core = Controlled(model.unet, nets, batch)
    masters = Masters(core.nets)
    if device.type == "cuda":
        core.to(torch.bfloat16)
    dtype = model.unet.dtype
    parameters = masters.full
    averages = Averages(parameters)
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
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            states = model.contexts(rows, rng)
        asked = (model.noised(latents, noise, t).to(dtype), t, states.to(dtype), *core.inputs(rows, rng))
        if step == 0:
            run: Any = torch.cuda.make_graphed_callables(core, asked) if device.type == "cuda" else core
        predicted = run(*asked)
        loss = model.loss(predicted, noise, t, rows.weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        masters.take_gradients()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        masters.put_back()
        averages.update(max(0.004, 1 / (step + 10)))
        if step % 50 == 0:
            recent.append(loss.item())
            log.info(
                "controlnet step %d loss %.4f %.0f s", step, sum(recent[-4:]) / len(recent[-4:]), time.time() - start
            )
        step += 1
    log.info("controlnet done: %d steps of %d, loss %.4f", step, batch, sum(recent[-5:]) / len(recent[-5:]))
    core.nets.to(torch.float32)
    averages.put_into(masters.light)


def main() -> None:
    """Command line, see the module."""
    args = options(__doc__, seconds=120, pool=6144).parse_args()
    given = material(args, resume=True, seed=10)
    model = given.model
    for module in (model.unet, model.text, model.identities):
        module.eval().requires_grad_(False)
    nets = {name: new_controlnet(model.unet).to(args.device) for name in CONTROLS}
    if args.resume:
        nets = {
            n: ControlNetModel.from_pretrained(args.output / f"controlnet_{n}", dtype=torch.float32)
            .to(args.device)
            .train()
            for n in CONTROLS
        }
    empty = torch.tensor(given.writer.encode(""), device=args.device)
    make = partial(given.rows, with_controls=True)
    train_controlnets(model, nets, make, args.seconds, args.batch, args.pool, empty)
    for name, net in nets.items():
        net.save_pretrained(args.output / f"controlnet_{name}")


if __name__ == "__main__":
    main()
