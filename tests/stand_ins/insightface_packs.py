"""ONNX files with InsightFace's exact contract: names, shapes and counts by which the library tells them apart.

The detector "sees" flat patches of colour: a magenta one (32 pixels wide in its 640-pixel view) as a large face, a cyan
one (16 pixels) as a small face. Landmarks are the library's own mean head, turned as the maker is told.
"""

from __future__ import annotations

import math
import pickle
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

MAGENTA = (255, 0, 255)
CYAN = (0, 255, 255)
STRIDES = (8, 16, 32)
REACH = 2.0  # cells from a patch's centre cell to each side of the face's box
KPS = np.array(
    [-1, -0.6, 1, -0.6, 0, 0, -0.7, 0.9, 0.7, 0.9], np.float32
)  # five points in cells, relative to the centre
HEAD_SCALE = 0.6  # of the mean head in the landmark network's -1..1 frame

Array = NDArray[np.float32]


def write_pack(folder: Path, yaw: float = 0, pitch: float = 0, roll: float = 0, seed: int = 0) -> Path:
    """A pack with the three files that the engine uses and the two that it leaves, named as in buffalo_l."""
    folder.mkdir(parents=True, exist_ok=True)
    write_detector(folder / "det_10g.onnx")
    write_landmarks(folder / "1k3d68.onnx", yaw, pitch, roll)
    write_face_id(folder / "w600k_r50.onnx", seed)
    _write_pooled(folder / "2d106det.onnx", size=192, out=212, pool=32, seed=seed)
    _write_pooled(folder / "genderage.onnx", size=96, out=3, pool=32, seed=seed)
    return folder


def write_face_id(path: Path, seed: int = 0, batch: str | int = "None") -> Path:
    """Nx3x112x112 -> Nx512: a random projection of the pooled face. N is any number, or `batch`."""
    return _write_pooled(path, size=112, out=512, pool=8, seed=seed, batch=batch)


def write_detector(path: Path) -> Path:
    """Nine outputs: scores, boxes and points of three strides, two anchors a cell; symbolic height and width."""
    nodes, values, outputs = [], [_tensor("zero", [0.0]), _tensor("low", 0.0), _tensor("high", 1.0)], []
    for width in (1, 4, 10):
        values.append(_shape(f"rows{width}", [-1, width]))
    for stride in STRIDES:
        # R, G, B of the preprocessed picture are -1..1: the score is 1 for the colour itself, below 0 for grey.
        colour = {16: CYAN, 32: MAGENTA}.get(stride)
        weights = np.zeros(3) if colour is None else (np.array(colour) / 127.5 - 1) / 3
        values.append(_tensor(f"colour{stride}", weights.reshape(1, 3, 1, 1)))
        nodes += [
            _node("Conv", ["input.1", f"colour{stride}"], [f"match{stride}"], kernel_shape=[1, 1]),
            _node(
                "AveragePool", [f"match{stride}"], [f"cell{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2
            ),
            _node("Clip", [f"cell{stride}", "low", "high"], [f"first{stride}"]),
            _node("Mul", [f"first{stride}", "zero"], [f"second{stride}"]),
            _node("Concat", [f"first{stride}", f"second{stride}"], [f"both{stride}"], axis=1),
            *_as_rows(f"both{stride}", f"scores{stride}", 1),
        ]
        # A cell's anchor is its corner; the patch's centre is half a cell further.
        offsets = np.array([REACH - 0.5, REACH - 0.5, REACH + 0.5, REACH + 0.5], np.float32)
        for kind, numbers in (("boxes", offsets), ("points", KPS + 0.5)):
            constant = np.tile(numbers, 2).reshape(1, -1, 1, 1)
            values.append(_tensor(f"{kind}_constant{stride}", constant))
            nodes.append(_node("Add", [f"second{stride}", f"{kind}_constant{stride}"], [f"{kind}_map{stride}"]))
            nodes += _as_rows(f"{kind}_map{stride}", f"{kind}{stride}", len(numbers))
    for kind, width in (("scores", 1), ("boxes", 4), ("points", 10)):
        outputs += [_value(f"{kind}{stride}", [f"rows_of_{stride}", width]) for stride in STRIDES]
    return _save(path, nodes, [_value("input.1", [1, 3, "?", "?"])], outputs, values)


def write_landmarks(path: Path, yaw: float = 0, pitch: float = 0, roll: float = 0) -> Path:
    """1x3x192x192 -> 1x3309: the mean head, turned; of the 1103 points the library takes the last 68."""
    points = np.zeros((1103, 3), np.float32)
    points[-68:] = turned_head(yaw, pitch, roll) * HEAD_SCALE
    values = [_tensor("points", points.reshape(1, -1)), _tensor("zero", [0.0]), _shape("one_row", [1, 1])]
    nodes = [
        _node("AveragePool", ["data"], ["pooled"], kernel_shape=[192, 192]),
        _node("ReduceMean", ["pooled"], ["mean"], keepdims=1),
        _node("Reshape", ["mean", "one_row"], ["row"]),
        _node("Mul", ["row", "zero"], ["nothing"]),
        _node("Add", ["nothing", "points"], ["fc1"]),
    ]
    return _save(path, nodes, [_value("data", [1, 3, 192, 192])], [_value("fc1", [1, 3309])], values)


def turned_head(yaw: float, pitch: float, roll: float) -> Array:
    """(68, 3) the library's mean head (x right, y down, z to the camera): yaw > 0 turns the nose to the picture's
    right, pitch > 0 up, roll > 0 clockwise; degrees."""
    spec = find_spec("insightface")
    assert spec is not None
    assert spec.origin is not None
    with (Path(spec.origin).parent / "data/objects/meanshape_68.pkl").open("rb") as stream:
        head = pickle.load(stream)  # of the installed package
    y, p, r = (math.radians(angle) for angle in (yaw, pitch, roll))
    about_y = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]])
    about_z = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
    return (head @ (about_z @ about_y @ about_x).T).astype(np.float32)


def _write_pooled(path: Path, size: int, out: int, pool: int, seed: int, batch: str | int = "None") -> Path:
    side = size // pool
    width = 3 * side * side
    weights = np.random.default_rng(seed).normal(size=(width, out)) / math.sqrt(width)
    values = [_tensor("weights", weights), _tensor("bias", np.zeros(out)), _shape("flat", [-1, width])]
    nodes = [
        _node("AveragePool", ["data"], ["pooled"], kernel_shape=[pool, pool], strides=[pool, pool]),
        _node("Reshape", ["pooled", "flat"], ["row"]),
        _node("Gemm", ["row", "weights", "bias"], ["fc1"]),
    ]
    rows = batch if out == 512 else 1
    return _save(path, nodes, [_value("data", [batch, 3, size, size])], [_value("fc1", [rows, out])], values)


def _as_rows(name: str, out: str, width: int) -> list[onnx.NodeProto]:
    return [
        _node("Transpose", [name], [f"{out}_last"], perm=[0, 2, 3, 1]),
        _node("Reshape", [f"{out}_last", f"rows{width}"], [out]),
    ]


def _node(kind: str, inputs: list[str], outputs: list[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, **attributes)


def _tensor(name: str, values: object) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, np.float32), name)


def _shape(name: str, values: list[int]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, np.int64), name)


def _value(name: str, shape: list[object]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _save(path: Path, nodes: list, inputs: list, outputs: list, values: list) -> Path:
    graph = helper.make_graph(nodes, "stand-in", inputs, outputs, values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path
