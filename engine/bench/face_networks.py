"""InsightFace's networks in their published architecture and size with random weights, as ONNX files.

What they cost is real, what they say is not: the detector finds nothing in any picture. The architectures are those of
SCRFD-10GF with five points (Guo et al. 2021), IResNet-50 (Deng et al. 2019, ArcFace) and ResNet-50 (He et al. 2016);
normalisation is folded into the convolution before it, as exporters do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)  # of SCRFD's three outputs
ANCHORS = 2  # at each of their places
SILENT = -20.0  # before the sigmoid of SCRFD's scores

Json = dict[str, Any]


@dataclass(frozen=True)
class _Planes:
    """A tensor in a graph: (n, channels, H / stride, W / stride) of an input of H x W."""

    name: str
    channels: int
    stride: int = 1


@dataclass
class _Network:
    """A graph that grows layer by layer, and what it costs."""

    inputs: Sequence[int | str]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    parameters: int = 0
    work: list[tuple[int, int]] = field(default_factory=list)  # multiplications a place, and the places' stride
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def start(self) -> _Planes:
        return _Planes("input.1", 3)

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def weight(self, values: np.ndarray) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        self.parameters += values.size if values.dtype == np.float32 else 0
        return name

    def conv(self, x: _Planes, out: int, kernel: int = 3, stride: int = 1, bias: float = 0.0) -> _Planes:
        fan_in = x.channels * kernel**2
        shape = (out, x.channels, kernel, kernel)
        spread = 0.001 if bias else math.sqrt(1 / fan_in)  # what has a bias says nothing else
        kernels = self.weight(self.random.standard_normal(shape, np.float32) * np.float32(spread))
        biases = self.weight(np.full(out, bias, np.float32))
        half = [kernel // 2] * 4
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": half}
        made = _Planes(self.node("Conv", [x.name, kernels, biases], **sizes), out, x.stride * stride)
        self.work.append((fan_in * out, made.stride))
        return made

    def relu(self, x: _Planes) -> _Planes:
        return _Planes(self.node("Relu", [x.name]), x.channels, x.stride)

    def prelu(self, x: _Planes) -> _Planes:
        slopes = self.weight(np.full((x.channels, 1, 1), 0.25, np.float32))
        return _Planes(self.node("PRelu", [x.name, slopes]), x.channels, x.stride)

    def normalised(self, x: _Planes) -> _Planes:
        numbers = [self.weight(np.full(x.channels, value, np.float32)) for value in (1, 0, 0, 1)]
        return _Planes(self.node("BatchNormalization", [x.name, *numbers]), x.channels, x.stride)

    def pooled(self, x: _Planes, kind: str, kernel: int) -> _Planes:
        sizes = {"kernel_shape": [kernel] * 2, "strides": [2, 2], "pads": [(kernel - 1) // 2] * 4}
        return _Planes(self.node(kind, [x.name], **sizes), x.channels, 2 * x.stride)

    def twice(self, x: _Planes) -> _Planes:
        scales = self.weight(np.array([1, 1, 2, 2], np.float32))
        return _Planes(self.node("Resize", [x.name, "", scales], mode="nearest"), x.channels, x.stride // 2)

    def sum(self, a: _Planes, b: _Planes) -> _Planes:
        return _Planes(self.node("Add", [a.name, b.name]), a.channels, a.stride)

    def linear(self, row: str, width: int, out: int) -> str:
        matrix = self.random.standard_normal((out, width), np.float32) * np.float32(math.sqrt(1 / width))
        self.work.append((width * out, 0))
        return self.node("Gemm", [row, self.weight(matrix), self.weight(np.zeros(out, np.float32))], transB=1)

    def save(self, path: Path, outputs: Sequence[tuple[str, list[int | str]]]) -> None:
        entrance = helper.make_tensor_value_info(self.start().name, TensorProto.FLOAT, list(self.inputs))
        exits = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in outputs]
        graph = helper.make_graph(self.nodes, "random", [entrance], exits, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        onnx.save(model, path)

    def cost(self, width: int, height: int) -> Json:
        """Parameters, and multiplications with an addition for one picture of that size."""
        places = ((width // stride) * (height // stride) if stride else 1 for _, stride in self.work)
        gmac = sum(each * there for (each, _), there in zip(self.work, places, strict=True)) / 1e9
        return {"million_parameters": round(self.parameters / 1e6, 2), "gmac": round(gmac, 2), "at": [width, height]}


def write_random_pack(folder: Path, narrower: int = 1) -> Json:
    """The three files of the pack `buffalo_l` that the engine uses, and what each network costs. `narrower` divides
    the channels, for rehearsals: one eighth is small enough for any machine."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        name: write(folder / f"{name}.onnx", narrower)
        for name, write in (("det_10g", _scrfd), ("w600k_r50", _iresnet50), ("1k3d68", _resnet50))
    }


def _scrfd(path: Path, narrower: int) -> Json:
    net = _Network([1, 3, "?", "?"])
    width, head, planes = 56 // narrower, 80 // narrower, [each // narrower for each in (56, 88, 88, 224)]
    x = net.start()
    for out, stride in ((width // 2, 2), (width // 2, 1), (width, 1)):
        x = net.relu(net.conv(x, out, stride=stride))
    x = net.pooled(x, "MaxPool", 2)
    levels = []
    for stage, (blocks, out) in enumerate(zip((3, 4, 2, 3), planes, strict=True)):
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 0 else 1
            beside = x if stride == 1 else net.conv(net.pooled(x, "AveragePool", 2), out, kernel=1)
            x = net.relu(net.sum(net.conv(net.relu(net.conv(x, out, stride=stride)), out), beside))
        levels.append(x)
    outputs: dict[int, list[str]] = {1: [], 4: [], 10: []}
    for x in _pyramid(net, levels[1:], width):
        for _ in range(3):
            x = net.relu(net.conv(x, head))
        for numbers, names in outputs.items():
            bias = SILENT if numbers == 1 else 1.0
            last = net.node("Transpose", [net.conv(x, ANCHORS * numbers, bias=bias).name], perm=[0, 2, 3, 1])
            rows = net.node("Reshape", [last, net.weight(np.array([-1, numbers], np.int64))])
            names.append(net.node("Sigmoid", [rows]) if numbers == 1 else rows)
    shapes: list[tuple[str, list[int | str]]]
    shapes = [(name, [f"rows{k}", numbers]) for numbers, names in outputs.items() for k, name in enumerate(names)]
    net.save(path, shapes)
    return net.cost(640, 640)


def _pyramid(net: _Network, levels: Sequence[_Planes], width: int) -> list[_Planes]:
    """A path aggregation network: features go down from the coarsest level, and up again."""
    down = [net.conv(x, width, kernel=1) for x in levels]
    for k in reversed(range(len(down) - 1)):
        down[k] = net.sum(down[k], net.twice(down[k + 1]))
    up = [net.conv(x, width) for x in down]
    for k in range(1, len(up)):
        up[k] = net.sum(up[k], net.conv(up[k - 1], width, stride=2))
    return [up[0], *(net.conv(x, width) for x in up[1:])]


def _iresnet50(path: Path, narrower: int) -> Json:
    net, size, out = _Network(["None", 3, 112, 112]), 112, 512
    x = net.prelu(net.conv(net.start(), 64 // narrower))
    for blocks, channels in zip((3, 4, 14, 3), (64, 128, 256, 512), strict=True):
        for block in range(blocks):
            wide, stride = channels // narrower, 2 if block == 0 else 1
            beside = net.conv(x, wide, kernel=1, stride=2) if block == 0 else x
            inner = net.prelu(net.conv(net.normalised(x), wide))
            x = net.sum(net.conv(inner, wide, stride=stride), beside)
    row = net.node("Flatten", [net.normalised(x).name])
    vector = _Planes(net.linear(row, x.channels * (size // x.stride) ** 2, out), out)
    net.save(path, [(net.normalised(vector).name, ["None", out])])
    return net.cost(size, size)


def _resnet50(path: Path, narrower: int) -> Json:
    """Landmarks in space: 1103 points, of which 68 are read. The published file has a fifth more parameters (143.6 MB);
    where is not published."""
    net, size, out = _Network(["None", 3, 192, 192]), 192, 3309
    x = net.pooled(net.relu(net.conv(net.start(), 64 // narrower, kernel=7, stride=2)), "MaxPool", 3)
    for stage, (blocks, channels) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True)):
        for block in range(blocks):
            wide, stride = channels // narrower, 2 if block == 0 and stage > 0 else 1
            beside = net.conv(x, 4 * wide, kernel=1, stride=stride) if block == 0 else x
            inner = net.relu(net.conv(net.relu(net.conv(x, wide, kernel=1)), wide, stride=stride))
            x = net.relu(net.sum(net.conv(inner, 4 * wide, kernel=1), beside))
    row = net.node("Flatten", [net.node("GlobalAveragePool", [x.name])])
    net.save(path, [(net.linear(row, x.channels, out), ["None", out])])
    return net.cost(size, size)
