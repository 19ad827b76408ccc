"""One step's noise: the UNet with its ControlNets, both branches of the guidance and all candidates in one batch.

On a GPU the ControlNets run on streams of their own beside the first half of the UNet, which meets them only where
their residuals are added.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import ControlNetModel, UNet2DConditionModel

Residuals = list[Tensor]  # for the UNet's skips, shallowest first, the middle block's last


class GuidedNoise:
    """`noise(latents, timestep, text, guidance, factors, *hints)`, every argument a tensor on the networks' device.

    latents: (n, 4, h, w), all candidates. timestep: (1,). text: (2, tokens, width) without and with the prompt, or
    (1, tokens, width) where there is no guidance. guidance: (). factors: (ControlNets, residuals), float32. hints: each
    ControlNet's picture as `hint` makes it. Returns (n, 4, h, w), float32: guidance magnifies what is rounded.
    """

    def __init__(self, unet: UNet2DConditionModel, controlnets: Sequence[ControlNetModel], streams: Streams) -> None:
        self._unet, self._streams = unet, streams
        self._controlnets = [_taking_hints(network) for network in controlnets]

    def __call__(
        self, latents: Tensor, timestep: Tensor, text: Tensor, guidance: Tensor, factors: Tensor, *hints: Tensor
    ) -> Tensor:
        branches, candidates = len(text), len(latents)
        seen = (latents.repeat(branches, 1, 1, 1), timestep, text.repeat_interleave(candidates, 0))
        tasks = [
            partial(_weighed, network, seen, hint, own)
            for network, hint, own in zip(self._controlnets, hints, factors, strict=True)
        ]
        predicted = self._unet_with(self._streams.summed(tasks), seen)
        if branches == 1:
            return predicted
        without, with_prompt = predicted.chunk(2)
        return without + guidance * (with_prompt - without)

    def _unet_with(self, residuals: Residuals, seen: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        extra: dict[str, Any] = {}
        if residuals:
            extra = {
                "down_block_additional_residuals": residuals[:-1],
                "mid_block_additional_residual": residuals[-1],
            }
        # Right behind the last block of the first half the residuals are added.
        hook = self._unet.down_blocks[-1].register_forward_hook(lambda *_: self._streams.join())
        try:
            predicted: Tensor = self._unet(*seen, return_dict=False, **extra)[0].float()
        finally:
            hook.remove()
        return predicted


class Streams:
    """Streams beside the current one. They live as long as the networks: libraries keep memory for each."""

    def __init__(self) -> None:
        self._beside: list[torch.cuda.Stream] = []
        self._awaited: torch.cuda.Stream | None = None

    def summed(self, tasks: Sequence[Callable[[], Residuals]]) -> Residuals:
        """The sum of what all tasks return, each run beside the others; not to be used before `join`."""
        if not tasks:
            return []
        if not torch.cuda.is_available():
            return _sum([task() for task in tasks])
        current, results = torch.cuda.current_stream(), []
        self._beside += [torch.cuda.Stream() for _ in tasks[len(self._beside) :]]
        for stream, task in zip(self._beside, tasks, strict=False):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                results.append(task())
        self._awaited = self._beside[0]
        for stream in self._beside[1 : len(tasks)]:
            self._awaited.wait_stream(stream)
        with torch.cuda.stream(self._awaited):
            return _sum(results)

    def join(self) -> None:
        """What comes after it on the current stream may use the sum."""
        if self._awaited is not None:
            torch.cuda.current_stream().wait_stream(self._awaited)
            self._awaited = None


def hint(network: ControlNetModel, picture: Tensor) -> Tensor:
    """(1, width, h, w) what a ControlNet adds to its first features, from its picture (1, 3, H, W) in 0..1.

    It is the same in every step, on both branches and for all candidates.
    """
    embedded: Tensor = network.controlnet_cond_embedding(picture)
    return embedded


def _weighed(network: ControlNetModel, seen: tuple[Tensor, Tensor, Tensor], own_hint: Tensor, own: Tensor) -> Residuals:
    shallow, deep = network(*seen, own_hint.expand(len(seen[0]), -1, -1, -1), return_dict=False)
    return [residual * factor for residual, factor in zip((*shallow, deep), own, strict=True)]


def _sum(results: Sequence[Residuals]) -> Residuals:
    total = results[0]
    for result in results[1:]:
        total = [a + b for a, b in zip(total, result, strict=True)]
    return total


def _taking_hints(network: ControlNetModel) -> ControlNetModel:
    """The same network, sharing all its weights, for a picture that went through `hint` already."""
    twin = copy.copy(network)
    twin._modules = {**network._modules, "controlnet_cond_embedding": nn.Identity()}
    return twin
