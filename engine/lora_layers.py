"""LoRA layers for training: plain modules with tensors of their own, so that a step over them can be recorded once.

They stay where they are in memory for the life of the networks; people's weights come and go in them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.lora import ALPHA, DOWN, UP, State, modules, unet_modules

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from engine.diffusion import Diffusion

MOST_ASIDE = 12  # products in flight beside the others: what they read stays in memory

Places = Mapping[str, tuple[nn.Module, str]]


class LoraLayer(nn.Module):
    """base(x) + alpha / rank * up(down(x)); `base` is a linear layer or a 1x1 convolution, which is never changed."""

    def __init__(self, base: nn.Module, down: nn.Parameter, up: nn.Parameter, scale: float, aside: Aside) -> None:
        super().__init__()
        self.base, self.down, self.up, self.scale, self.aside = base, down, up, scale, aside

    def forward(self, x: Tensor) -> Tensor:
        return self._as_one_matrix(x) if x.device.type == "cpu" else self._in_one_sweep(x)

    def _as_one_matrix(self, x: Tensor) -> Tensor:
        """A CPU's way: factors nearly as wide as the layer cost more as products of their own than added to it."""
        own, bias = _weight(self.base), self.base.bias
        assert bias is None or isinstance(bias, Tensor)
        weight = torch.addmm(own.flatten(1), self.up.flatten(1), self.down.flatten(1), alpha=self.scale)
        if own.ndim == 2:
            return functional.linear(x, weight, bias)
        rows = functional.linear(x.flatten(2).transpose(1, 2), weight, bias)
        return rows.transpose(1, 2).unflatten(2, x.shape[2:])

    def _in_one_sweep(self, x: Tensor) -> Tensor:
        """The same without passes over memory beside the matrix products. A convolution's pixels are rows."""
        rows = x.permute(0, 2, 3, 1) if self.down.ndim == 4 else x
        weight, bias = _weight(self.base).flatten(1), self.base.bias
        flat = rows.reshape(-1, rows.shape[-1])
        down, up = self.down.flatten(1), self.up.flatten(1)
        result: Tensor = _LinearWithLora.apply(flat, weight, bias, down, up, self)
        result = result.view(*rows.shape[:-1], -1)
        return result.permute(0, 3, 1, 2) if self.down.ndim == 4 else result


class Aside:
    """A second stream, for results that nobody waits for until `join`: small products that leave most of a GPU idle
    run beside the large ones. On a CPU everything is done in its turn."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._used: list[Any] = []  # memory that must not be given to others before the stream has read it

    def product(self, a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
        """scale a b"""
        if self._stream is None:
            return _product(a, b, scale)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = _product(a, b, scale)
        self._used += [a, b, result]
        if len(self._used) > 3 * MOST_ASIDE:
            self.join()
        return result

    def join(self) -> None:
        """What is asked for from now on comes after all products."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
            self._used.clear()


class _LinearWithLora(torch.autograd.Function):
    """x W' + b + scale (x D') U' with gradients for x, D and U alone: three matrix products forth, five back. The
    gradients of D and U may be used after `aside.join`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, layer: LoraLayer
    ) -> Tensor:
        inner = x @ down.T
        result = functional.linear(x, weight, bias)
        result.addmm_(inner, up.T, alpha=layer.scale)
        ctx.save_for_backward(x, weight, down, up, inner)
        ctx.scale, ctx.aside = layer.scale, layer.aside
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, up, inner = ctx.saved_tensors
        grad_up = ctx.aside.product(grad.T, inner, ctx.scale)
        grad_inner = _product(grad, up, ctx.scale)
        grad_down = ctx.aside.product(grad_inner.T, x)
        grad_x = torch.mm(grad, weight).addmm_(grad_inner, down) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, grad_down, grad_up, None


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.addmm(a.new_empty(()), a, b, beta=0, alpha=scale)


class TrainableLora:
    """A LoRA on `places` (kohya name -> model and path in it), beside the networks until `in_model` puts it in.

    `masters` are its weights in float32, which the optimizer changes; `worn` what the networks compute with: copies in
    the networks' own type, or the masters themselves where that is float32.
    """

    def __init__(self, places: Places, rank: int, alpha: int) -> None:
        self._places = places
        self._alpha = float(alpha)
        self.masters: list[Tensor] = []
        self.worn: list[Tensor] = []
        self._layers: dict[str, LoraLayer] = {}
        self._aside = Aside(_weight(next(model.get_submodule(path) for model, path in places.values())).device)
        for name, (model, path) in places.items():
            base = model.get_submodule(path)
            masters, dtype = _empty_factors(base, rank), _weight(base).dtype
            down, up = masters if dtype == torch.float32 else [nn.Parameter(m.detach().to(dtype)) for m in masters]
            self.masters += masters
            self.worn += [down, up]
            self._layers[name] = LoraLayer(base, down, up, alpha / rank, self._aside)

    @classmethod
    def of(cls, diffusion: Diffusion, rank: int, alpha: int, text_encoder: bool) -> TrainableLora:
        """On the modules that the reference trains; the text encoder's if asked for."""
        return cls(modules(diffusion, text_encoder), rank, alpha)

    @classmethod
    def of_unet(cls, unet: UNet2DConditionModel, rank: int, alpha: int) -> TrainableLora:
        return cls(unet_modules(unet), rank, alpha)

    def masters_of(self, prefix: str) -> list[Tensor]:
        """The float32 tensors of the modules whose kohya names start with `prefix`, in a fixed order."""
        return [
            self.masters[2 * k + j] for k, name in enumerate(self._places) if name.startswith(prefix) for j in (0, 1)
        ]

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """Within the block the networks work with it; afterwards they are as before."""
        self._put(self._layers)
        try:
            yield
        finally:
            self._put({name: layer.base for name, layer in self._layers.items()})

    def begin(self, seed: int) -> None:
        """Weights of a new LoRA: down random by `seed`, up zero. The draws are peft's, one for one."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            for down, up in zip(self.masters[::2], self.masters[1::2], strict=True):
                _ = _drawn(down.shape), _drawn(up.shape)  # peft draws both when it makes them, then the first again
                down.copy_(_drawn(down.shape))
                up.zero_()
            self.wear()

    def load(self, lora: State) -> None:
        """Copies a LoRA of the same shape in."""
        with torch.no_grad():
            for name, down, up in zip(self._places, self.masters[::2], self.masters[1::2], strict=True):
                down.copy_(lora[name + DOWN])
                up.copy_(lora[name + UP])
            self.wear()

    def state(self) -> State:
        """A float32 copy on the CPU."""
        return self.named(on_cpu(self.masters))

    def named(self, copies: Sequence[Tensor]) -> State:
        """Copies of the masters, in their order, as a LoRA."""
        result: State = {}
        for k, name in enumerate(self._places):
            result[name + DOWN], result[name + UP] = copies[2 * k], copies[2 * k + 1]
            result[name + ALPHA] = torch.tensor(self._alpha)
        return result

    def gradients(self, loss: Tensor) -> list[Tensor]:
        """Of what is worn, in its order and type."""
        found = torch.autograd.grad(loss, self.worn)
        self._aside.join()
        return list(found)

    def wear(self) -> None:
        """Gives the networks what the optimizer made."""
        if self.worn[0] is not self.masters[0]:
            with torch.no_grad():
                torch._foreach_copy_(self.worn, self.masters)

    def forget(self) -> None:
        """Zeros: nobody's weights stay behind."""
        with torch.no_grad():
            torch._foreach_zero_(self.masters)
            self.wear()

    def _put(self, layers: Mapping[str, nn.Module]) -> None:
        for name, (model, path) in self._places.items():
            parent, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, layers[name])


def on_cpu(tensors: list[Any]) -> list[Tensor]:
    """Copies on the CPU; from a GPU into memory that it can reach by itself, which is forty times as fast."""
    with torch.no_grad():
        if not tensors[0].is_cuda:
            return [tensor.detach().clone() for tensor in tensors]
        sizes = [tensor.numel() for tensor in tensors]
        parts = torch.empty(sum(sizes), pin_memory=True).split(sizes)
        copies = [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
        for copy, tensor in zip(copies, tensors, strict=True):
            copy.copy_(tensor, non_blocking=True)
        torch.cuda.synchronize(tensors[0].device)
        return copies


def _empty_factors(base: nn.Module, rank: int) -> list[nn.Parameter]:
    weight = _weight(base)
    out, into, *kernel = weight.shape
    shapes = (rank, into, *kernel), (out, rank, *kernel)
    return [nn.Parameter(weight.new_zeros(shape, dtype=torch.float32)) for shape in shapes]


def _weight(base: nn.Module) -> Tensor:
    assert isinstance(base.weight, Tensor)
    return base.weight


def _drawn(shape: torch.Size) -> Tensor:
    return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5))
