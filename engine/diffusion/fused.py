"""The networks' memory-bound parts as few passes over memory, for GPUs (Triton): group normalisation with SiLU in the
layout of the convolutions around it, and GEGLU. Torch has both only as many passes, the first in another layout.

Only inputs get gradients: the networks' own weights are never trained here.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from diffusers.models.activations import GEGLU
from diffusers.models.autoencoders.vae import Decoder, Encoder
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = 64  # of a tile
ROWS = 64  # of a tile; a row is a pixel
MOST_PARTS = 64  # into which a picture is divided for sums
ELEMENTS = 1024  # of GEGLU's blocks
ANY = ("parts",)  # of it one kernel serves all values: compiling takes half a second each


def fuse(network: nn.Module) -> None:
    """Makes the network, whose weights take no gradients, use the functions of this module where they fit."""
    for module in network.modules():
        if isinstance(module, ResnetBlock2D) and isinstance(module.nonlinearity, nn.SiLU):
            module.norm1.__class__ = module.norm2.__class__ = NormAndSilu
            module.nonlinearity = _SiluOfTimes()
        elif isinstance(module, Transformer2DModel):
            module.norm.__class__ = Norm
        elif isinstance(module, UNet2DConditionModel | Encoder | Decoder) and isinstance(module.conv_act, nn.SiLU):
            module.conv_norm_out.__class__ = NormAndSilu
            module.conv_act = nn.Identity()
        elif isinstance(module, GEGLU):
            module.__class__ = FusedGeglu


class Norm(nn.GroupNorm):
    """Group normalisation of (N, C, H, W), channels last; so is the result."""

    def forward(self, x: Tensor) -> Tensor:
        return _GroupNorm.apply(x, self.weight, self.bias, self.num_groups, self.eps, False)


class NormAndSilu(nn.GroupNorm):
    """The same, then SiLU."""

    def forward(self, x: Tensor) -> Tensor:
        return _GroupNorm.apply(x, self.weight, self.bias, self.num_groups, self.eps, True)


class FusedGeglu(GEGLU):  # type: ignore[misc]  # diffusers has no types
    """proj(x) in two halves: the first times GELU of the second."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _Geglu.apply(self.proj(hidden_states))


class _SiluOfTimes(nn.Module):
    """What is left of a block's nonlinearity: pictures have theirs from the normalisation, embedded times do not."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(x) if x.ndim == 2 else x


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        grid, sizes = _tiles(x)
        sums = x.new_empty(grid[0], 2, sizes["c"], dtype=torch.float32)
        _sums[grid](x, x, x, x, x, sums, **sizes, g=groups, backward=False, silu=False)
        statistics = _of_groups(sums, sizes, x.shape[0], groups, eps)
        y = torch.empty_like(x, memory_format=torch.channels_last)
        _normalise[grid](x, weight, bias, statistics, y, **sizes, g=groups, silu=silu)
        ctx.save_for_backward(x, weight, bias, statistics)
        ctx.groups, ctx.silu = groups, silu
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, statistics = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grid, sizes = _tiles(x)
        sums = x.new_empty(grid[0], 2, sizes["c"], dtype=torch.float32)
        _sums[grid](x, weight, bias, statistics, grad, sums, **sizes, g=ctx.groups, backward=True, silu=ctx.silu)
        means = _of_groups(sums, sizes, x.shape[0], ctx.groups, None)
        result = torch.empty_like(x, memory_format=torch.channels_last)
        _back[grid](x, weight, bias, statistics, grad, means, result, **sizes, g=ctx.groups, silu=ctx.silu)
        return result, None, None, None, None, None


class _Geglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        both = both.contiguous()
        half = both.shape[-1] // 2
        result = both.new_empty(*both.shape[:-1], half)
        _geglu[(triton.cdiv(result.numel(), ELEMENTS),)](both, result, result.numel(), half, BLOCK=ELEMENTS)
        ctx.save_for_backward(both)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors
        grad, result = grad.contiguous(), torch.empty_like(both)
        half = both.shape[-1] // 2
        _geglu_back[(triton.cdiv(grad.numel(), ELEMENTS),)](both, grad, result, grad.numel(), half, BLOCK=ELEMENTS)
        return result


def _tiles(x: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """The grid (pictures x parts, blocks of channels) and the sizes that its kernels share."""
    n, c, h, w = x.shape
    rows = max(ROWS, triton.next_power_of_2(triton.cdiv(h * w, MOST_PARTS)))
    parts = triton.cdiv(h * w, rows)
    sizes = {"m": h * w, "c": c, "parts": parts, "rows": rows, "ROWS": ROWS, "CHANNELS": CHANNELS}
    return (n * parts, triton.cdiv(c, CHANNELS)), sizes


def _of_groups(sums: Tensor, sizes: dict[str, int], n: int, groups: int, eps: float | None) -> Tensor:
    """(N, groups, 2) of sums by part and channel: mean and 1 / standard deviation, or with `eps` None both means."""
    result = sums.new_empty(n, groups, 2)
    width = sizes["c"] // groups
    _reduce[(n, groups)](
        sums,
        result,
        sizes["m"] * width,
        eps or 0.0,
        c=sizes["c"],
        parts=sizes["parts"],
        width=width,
        g=groups,
        statistics=eps is not None,
        PARTS=MOST_PARTS,
        WIDTH=triton.next_power_of_2(width),
    )
    return result


@triton.jit
def _hat(x, statistics, picture, channel, inside, c, g):
    place = (picture * g + channel // (c // g)) * 2
    mean = tl.load(statistics + place, mask=inside, other=0.0)
    deviation = tl.load(statistics + place + 1, mask=inside, other=0.0)
    return (x - mean[None, :]) * deviation[None, :], deviation


@triton.jit
def _weighed_gradient(hat, weight, bias, grad, silu: tl.constexpr):
    """Of the normalised values, before the means are taken off."""
    if silu:
        h = hat * weight[None, :] + bias[None, :]
        s = tl.sigmoid(h)
        grad = grad * s * (1 + h * (1 - s))
    return grad * weight[None, :]


@triton.jit(do_not_specialize=ANY)
def _sums(
    x_at, weight_at, bias_at, statistics, grad_at, sums,
    m, c, parts, rows: tl.constexpr, g, backward: tl.constexpr, silu: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums over a part's pixels, by channel: of x and x², or going back of the gradient and gradient times x̂."""
    part, picture = tl.program_id(0) % parts, tl.program_id(0) // parts
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < c
    first = tl.zeros((CHANNELS,), tl.float32)
    second = tl.zeros((CHANNELS,), tl.float32)
    for start in range(0, rows, ROWS):
        row = part * rows + start + tl.arange(0, ROWS)
        mask = (row < m)[:, None] & inside[None, :]
        place = (picture * m + row)[:, None] * c + channel[None, :]
        x = tl.load(x_at + place, mask=mask, other=0.0).to(tl.float32)
        if backward:
            hat, _ = _hat(x, statistics, picture, channel, inside, c, g)
            weight = tl.load(weight_at + channel, mask=inside, other=0.0).to(tl.float32)
            bias = tl.load(bias_at + channel, mask=inside, other=0.0).to(tl.float32)
            grad = tl.load(grad_at + place, mask=mask, other=0.0).to(tl.float32)
            grad = _weighed_gradient(hat, weight, bias, grad, silu)
            first += tl.sum(grad, 0)
            second += tl.sum(grad * hat, 0)
        else:
            first += tl.sum(x, 0)
            second += tl.sum(x * x, 0)
    out = sums + tl.program_id(0) * 2 * c + channel
    tl.store(out, first, mask=inside)
    tl.store(out + c, second, mask=inside)


@triton.jit(do_not_specialize=ANY)
def _reduce(
    sums, result, count, eps, c, parts, width, g, statistics: tl.constexpr,
    PARTS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    picture, group = tl.program_id(0), tl.program_id(1)
    part, channel = tl.arange(0, PARTS), tl.arange(0, WIDTH)
    mask = (part < parts)[:, None] & (channel < width)[None, :]
    place = sums + ((picture * parts + part) * 2 * c)[:, None] + (group * width + channel)[None, :]
    first = tl.sum(tl.sum(tl.load(place, mask=mask, other=0.0), 1), 0) / count
    second = tl.sum(tl.sum(tl.load(place + c, mask=mask, other=0.0), 1), 0) / count
    if statistics:
        second = 1 / tl.sqrt(tl.maximum(second - first * first, 0.0) + eps)
    out = result + (picture * g + group) * 2
    tl.store(out, first)
    tl.store(out + 1, second)


@triton.jit(do_not_specialize=ANY)
def _normalise(
    x_at, weight_at, bias_at, statistics, y_at,
    m, c, parts, rows: tl.constexpr, g, silu: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    part, picture = tl.program_id(0) % parts, tl.program_id(0) // parts
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < c
    weight = tl.load(weight_at + channel, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_at + channel, mask=inside, other=0.0).to(tl.float32)
    for start in range(0, rows, ROWS):
        row = part * rows + start + tl.arange(0, ROWS)
        mask = (row < m)[:, None] & inside[None, :]
        place = (picture * m + row)[:, None] * c + channel[None, :]
        x = tl.load(x_at + place, mask=mask, other=0.0).to(tl.float32)
        hat, _ = _hat(x, statistics, picture, channel, inside, c, g)
        y = hat * weight[None, :] + bias[None, :]
        if silu:
            y = y * tl.sigmoid(y)
        tl.store(y_at + place, y.to(y_at.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=ANY)
def _back(
    x_at, weight_at, bias_at, statistics, grad_at, means, result_at,
    m, c, parts, rows: tl.constexpr, g, silu: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    part, picture = tl.program_id(0) % parts, tl.program_id(0) // parts
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < c
    weight = tl.load(weight_at + channel, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_at + channel, mask=inside, other=0.0).to(tl.float32)
    group = (picture * g + channel // (c // g)) * 2
    mean = tl.load(means + group, mask=inside, other=0.0)
    mean_hat = tl.load(means + group + 1, mask=inside, other=0.0)
    for start in range(0, rows, ROWS):
        row = part * rows + start + tl.arange(0, ROWS)
        mask = (row < m)[:, None] & inside[None, :]
        place = (picture * m + row)[:, None] * c + channel[None, :]
        x = tl.load(x_at + place, mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_at + place, mask=mask, other=0.0).to(tl.float32)
        hat, deviation = _hat(x, statistics, picture, channel, inside, c, g)
        grad = _weighed_gradient(hat, weight, bias, grad, silu)
        result = deviation[None, :] * (grad - mean[None, :] - hat * mean_hat[None, :])
        tl.store(result_at + place, result.to(result_at.dtype.element_ty), mask=mask)


@triton.jit
def _normal_share(x):
    """The normal distribution's share below x."""
    return 0.5 * (1 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _geglu(both, result, count, half: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    place = both + (at // half) * 2 * half + at % half
    value = tl.load(place, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(place + half, mask=mask, other=0.0).to(tl.float32)
    tl.store(result + at, (value * gate * _normal_share(gate)).to(result.dtype.element_ty), mask=mask)


@triton.jit
def _geglu_back(both, grads, result, count, half: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    offset = (at // half) * 2 * half + at % half
    value = tl.load(both + offset, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(both + offset + half, mask=mask, other=0.0).to(tl.float32)
    grad = tl.load(grads + at, mask=mask, other=0.0).to(tl.float32)
    share = _normal_share(gate)
    slope = share + gate * 0.3989422804014327 * tl.exp(-0.5 * gate * gate)
    tl.store(result + offset, (grad * gate * share).to(result.dtype.element_ty), mask=mask)
    tl.store(result + offset + half, (grad * value * slope).to(result.dtype.element_ty), mask=mask)
