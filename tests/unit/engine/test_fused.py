"""The Triton kernels against torch. Without a GPU they run in Triton's interpreter, where Triton is there at all."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor
from torch.nn import functional

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are defined
pytest.importorskip("triton", reason="comes with the CUDA build of torch")

from engine.diffusion import fused  # noqa: E402

DEVICE = "cuda" if CUDA else "cpu"


def close(one: Tensor, other: Tensor, most: float) -> bool:
    return float((one - other).norm() / other.norm()) < most


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("shape", [(2, 320, 9, 7), (1, 640, 8, 8), (3, 96, 5, 33), (1, 128, 80, 70)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_group_norm_with_its_gradient(shape: tuple[int, ...], silu: bool, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(1)
    x, grad = (torch.randn(shape, generator=draw).to(DEVICE, dtype) for _ in range(2))
    x = x * 2 + 0.7
    weight, bias = (torch.randn(shape[1], generator=draw).to(DEVICE, dtype) for _ in range(2))
    inputs = [x.clone().requires_grad_(True), x.double().requires_grad_(True)]
    ours = fused._GroupNorm.apply(inputs[0], weight, bias, 32, 1e-5, silu)
    theirs = functional.group_norm(inputs[1], 32, weight.double(), bias.double(), 1e-5)
    theirs = functional.silu(theirs) if silu else theirs
    ours.backward(grad)
    theirs.backward(grad.double())
    most = 1e-5 if dtype == torch.float32 else 6e-3
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert close(ours, theirs, most)
    assert inputs[0].grad is not None
    assert inputs[1].grad is not None
    assert close(inputs[0].grad, inputs[1].grad, most)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_geglu_with_its_gradient(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(2)
    both, grad = torch.randn(2, 7, 2 * 80, generator=draw), torch.randn(2, 7, 80, generator=draw)
    both, grad = both.to(DEVICE, dtype), grad.to(DEVICE, dtype)
    inputs = [both.clone().requires_grad_(True), both.double().requires_grad_(True)]
    ours = fused._Geglu.apply(inputs[0])
    value, gate = inputs[1].chunk(2, -1)
    theirs = value * functional.gelu(gate)
    ours.backward(grad)
    theirs.backward(grad.double())
    most = 1e-5 if dtype == torch.float32 else 6e-3
    assert close(ours, theirs, most)
    assert inputs[0].grad is not None
    assert inputs[1].grad is not None
    assert close(inputs[0].grad, inputs[1].grad, most)


@pytest.mark.skipif(not CUDA, reason="minutes in the interpreter")
def test_whole_networks_paint_and_learn_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """On latents large enough that the lowest level has more than one pixel: the spread of one is nothing but rounding,
    and what is divided by it differs by a quarter."""
    from engine.bench.random_weights import random_diffusion

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)

    plain, changed = (
        random_diffusion("cpu", tiny=True, controlnets=("canny",)),
        random_diffusion("cpu", tiny=True, controlnets=("canny",)),
    )
    networks = (changed.unet, changed.vae, changed.controlnets["canny"])
    for network in networks:
        fused.fuse(network.to(DEVICE))
    plain.unet.to(DEVICE), plain.vae.to(DEVICE)
    draw = torch.Generator().manual_seed(3)
    latents = torch.randn(2, 4, 16, 16, generator=draw).to(DEVICE)
    text = torch.randn(2, 77, 32, generator=draw).to(DEVICE)
    results = []
    for diffusion in (plain, changed):
        given = latents.clone().requires_grad_(True)
        predicted = diffusion.unet(given, torch.tensor([10, 700], device=DEVICE), text).sample
        predicted.square().sum().backward()
        assert given.grad is not None
        with torch.no_grad():
            results.append((predicted.detach(), given.grad, diffusion.vae.decode(latents).sample))
    assert all(close(ours, theirs, 1e-5) for theirs, ours in zip(*results, strict=True))
    assert changed.unet.state_dict().keys() == plain.unet.state_dict().keys()
