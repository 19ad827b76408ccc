"""CUDA graphs: a function of tensors is recorded once and replayed, hundreds of small kernels by one launch.

A recording knows addresses, not contents: weights may change in place (a LoRA merged in and taken out again), but a
function whose weights have moved must be asked for under another key.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Recordings: the eleven at most that a worker makes at its start (engine/warm_up.py), and those of two canvases of
# other sizes (group portraits, painted templates), three each.
MOST = 17
WARM_UP = 2  # runs before recording: libraries choose algorithms and allocate in the first ones

Function = Callable[..., Tensor]


class Graphs:
    """Recordings by key; the least recently used one is forgotten first. Off CUDA functions are simply called."""

    def __init__(self, most: int = MOST, recording: bool = True) -> None:
        self.recording = recording
        self._most = most
        self._known: OrderedDict[Hashable, Function] = OrderedDict()
        self._pool: Any = None  # of memory, one for all: they never run at the same time

    def records_on(self, device: torch.device) -> bool:
        """Whether anything would be recorded on that device."""
        return self.recording and device.type == "cuda"

    def recorded(self, key: Hashable, function: Function, *inputs: Tensor) -> Function:
        """What does as `function` for inputs shaped as these; its result is overwritten by its next call.

        All that decides what `function` does must be in `key`, beside the contents of its inputs and of the weights:
        shapes, what it closes over, and `identity` of the networks.
        """
        if not self.records_on(inputs[0].device):
            return function
        if key not in self._known:
            while len(self._known) >= self._most:
                self._known.popitem(last=False)
            self._known[key] = self._new(function, inputs)
        self._known.move_to_end(key)
        return self._known[key]

    def __len__(self) -> int:
        return len(self._known)

    def _new(self, function: Function, inputs: tuple[Tensor, ...]) -> Function:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        return _Recording(function, inputs, self._pool)


def identity(networks: Sequence[nn.Module]) -> Hashable:
    """What tells these networks, as they are built and where their weights and buffers lie now, from all others."""
    modules: list[nn.Module] = list(networks)
    places: list[int] = []
    for module in modules:  # grows as it is walked; `Module.modules` takes several times as long, once a pass
        modules += [part for part in module._modules.values() if part is not None]
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            places += [] if tensor is None else [tensor.data_ptr()]
    # A key keeps none of them alive: of a LoRA in training that is gone, hundreds of megabytes would stay.
    return tuple(map(weakref.ref, modules)), tuple(places)


class _Recording:
    """One CUDA graph and the places where its inputs and its output lie."""

    def __init__(self, function: Function, inputs: tuple[Tensor, ...], pool: Any) -> None:
        self._inputs = tuple(given.clone() for given in inputs)
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._output = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._output
