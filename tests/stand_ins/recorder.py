"""CUDA graphs counted; where there is no GPU, what would be recorded is called."""

from __future__ import annotations

from typing import Any

import torch

from engine.diffusion.capture import Function, Graphs


class CountingGraphs(Graphs):
    """On a CPU as on CUDA, except that a recording runs anew the function that it was made of."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.made: list[list[tuple[int, ...]]] = []  # the shapes of each recording's inputs

    def records_on(self, device: torch.device) -> bool:
        return self.recording

    def _new(self, function: Function, inputs: tuple[torch.Tensor, ...]) -> Function:
        self.made.append([tuple(given.shape) for given in inputs])
        return super()._new(function, inputs) if inputs[0].is_cuda else function
