"""ModelScope model folders with random or hand-set weights, which the package's own pipelines open unchanged.

The networks have their true size: the package fixes it. Needs the extras `modelscope` and, where it says so,
`modelscope-tf`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from engine.models import torchvision_shim

torchvision_shim.install()

RETINAFACE = {
    "type": "retinaface",
    "name": "Resnet50",
    "min_sizes": [[16, 32], [64, 128], [256, 512]],
    "steps": [8, 16, 32],
    "variance": [0.1, 0.2],
    "clip": False,
    "pretrain": False,
    "return_layers": {"layer2": 1, "layer3": 2, "layer4": 3},
    "in_channel": 256,
    "out_channel": 256,
}
WRAPPER = """
from modelscope.models.base import TorchModel
from modelscope.models.builder import MODELS
from modelscope.pipelines.base import Pipeline
from modelscope.pipelines.builder import PIPELINES
from modelscope.preprocessors.image import LoadImage


@MODELS.register_module("face_fusion_torch", module_name="stand-in-fusion", force=True)
class Fusion(TorchModel):
    pass


@PIPELINES.register_module("face_fusion_torch", module_name="{name}", force=True)
class FusionPipeline(Pipeline):
    def __init__(self, model, **kwargs):
        super().__init__(model=model, **kwargs)

    def preprocess(self, inputs, **kwargs):
        return {{key: LoadImage.convert_to_ndarray(inputs[key]) // 2 for key in ("template", "user")}}

    def forward(self, inputs, **kwargs):
        # RGB handed out as BGR: red and blue swapped.
        return {{"output_img": getattr(inputs["template"], "numpy", lambda: inputs["template"])()}}

    def postprocess(self, inputs, **kwargs):
        return inputs
"""
# The five points of every face, in anchor sides / 10 from its centre.
POINTS = [-2.0, -2, 2, -2, 0, 0, -1.5, 2, 1.5, 2]


def write_u2net(folder: Path) -> Path:
    from modelscope.models.cv.salient_detection.models import U2NET

    _configuration(folder, "semantic-segmentation", "u2net-salient-detection", model={"type": "detection"})
    torch.manual_seed(0)
    torch.save(U2NET(3, 1).state_dict(), folder / "pytorch_model.pt")
    return folder


def write_retinaface(folder: Path) -> Path:
    """Fires for the larger anchor of the coarsest stride in every cell, whatever the picture."""
    from modelscope.models.cv.face_detection.retinaface.models.retinaface import RetinaFace

    _configuration(folder, "face-detection", "resnet50-face-detection-retinaface", models=RETINAFACE)
    torch.manual_seed(0)
    network = RetinaFace(cfg=RETINAFACE)
    _silence(network)
    with torch.no_grad():
        network.ClassHead[2].conv1x1.bias.copy_(torch.tensor([5.0, -5.0, -5.0, 5.0]))
        for head in network.BboxHead:
            head.conv1x1.weight.zero_()
            head.conv1x1.bias.zero_()
        for head in network.LandmarkHead:
            head.conv1x1.weight.zero_()
            head.conv1x1.bias.copy_(torch.tensor(POINTS * 2))
    torch.save(network.state_dict(), folder / "pytorch_model.pt")
    return folder


def write_skin_retouching(folder: Path, with_tensorflow: bool = False) -> Path:
    """The files that our retoucher reads; `with_tensorflow` adds the graph that the package's own pipeline wants."""
    from modelscope.models.cv.skin_retouching.detection_model.detection_unet_in import DetectionUNet
    from modelscope.models.cv.skin_retouching.inpainting_model.inpainting_unet import RetouchingNet
    from modelscope.models.cv.skin_retouching.unet_deploy import UNet

    _configuration(folder, "skin-retouching", "unet-skin-retouching", framework="tensorflow")
    torch.manual_seed(0)
    torch.save({"generator": UNet(3, 3).state_dict()}, folder / "pytorch_model.pt")
    joint = {
        "inpainting_net": RetouchingNet(in_channels=4, out_channels=3).state_dict(),
        "detection_net": DetectionUNet(n_channels=3, n_classes=1).state_dict(),
    }
    torch.save(joint, folder / "joint_20210926.pth")
    if with_tensorflow:
        import tensorflow as tf

        def skin(v1: Any) -> None:
            picture = v1.cast(v1.placeholder(tf.uint8, [None, None, 3], name="input_image"), tf.float32)
            grey = v1.reduce_mean(picture, axis=2, keepdims=True)
            v1.cast(v1.concat([picture, grey], axis=2), tf.uint8, name="output_png")

        _graph(folder / "tf_graph.pb", skin)
    return folder


def write_rrdb_x4(folder: Path) -> Path:
    """Repeats every pixel four times each way."""
    from modelscope.models.cv.super_resolution import RRDBNet

    _configuration(folder, "image-super-resolution", "rrdb-image-super-resolution")
    network = RRDBNet(num_in_ch=3, num_out_ch=3, num_feat=64, num_block=23, num_grow_ch=32, scale=4)
    torch.save(_repeating(network).state_dict(), folder / "pytorch_model.pt")
    return folder


def write_gpen(folder: Path) -> Path:
    """Repeats the mean of every 2x2 pixels four times each way; finds no faces (random ones would fire thousands)."""
    from modelscope.models.cv.image_portrait_enhancement import gpen
    from modelscope.models.cv.image_portrait_enhancement.eqface.model_resnet import FaceQuality, ResNet
    from modelscope.models.cv.image_portrait_enhancement.retinaface.detection import cfg_re50
    from modelscope.models.cv.image_portrait_enhancement.retinaface.models.retinaface import RetinaFace
    from modelscope.models.cv.super_resolution import rrdbnet_arch

    _configuration(folder, "image-portrait-enhancement", "gpen-image-portrait-enhancement")
    torch.manual_seed(0)
    detector = RetinaFace(cfg=cfg_re50)
    _silence(detector)
    enlarger = rrdbnet_arch.RRDBNet(num_in_ch=3, num_out_ch=3, num_feat=32, num_block=23, num_grow_ch=32, scale=2)
    for part, state in {
        "pytorch_model.pt": gpen.FullGenerator(512, 512, 8, 2, narrow=1).state_dict(),
        "face_detection/RetinaFace-R50.pth": detector.state_dict(),
        "super_resolution/realesrnet_x2.pth": {"params_ema": _repeating(enlarger).state_dict()},
        "face_quality/eqface_backbone.pth": ResNet(num_layers=100, feature_dim=512).state_dict(),
        "face_quality/eqface_quality.pth": FaceQuality(512 * 7 * 7).state_dict(),
    }.items():
        (folder / part).parent.mkdir(exist_ok=True)
        torch.save(state, folder / part)
    return folder


def write_face_fusion(folder: Path, box: tuple[float, ...] = (0.3, 0.3, 0.7, 0.7), score: float = 0.99) -> Path:
    """The reference's fusion model (1.5 GB; needs TensorFlow). Its detector sees one face, always at `box` (top, left,
    bottom, right; shares of the picture), or none with a `score` below 0.8."""
    from modelscope.models.cv.image_face_fusion.facegan.gpen_model import FullGenerator
    from modelscope.models.cv.image_face_fusion.network.aei_flow_net import AEI_Net
    from modelscope.models.cv.image_face_fusion.network.facerecon_model import ReconNetWrapper
    from modelscope.models.cv.image_face_fusion.network.model_irse import Backbone

    _configuration(folder, "image-face-fusion", "image-face-fusion", model={"type": "image-face-fusion"})
    torch.manual_seed(0)
    for part, state in {
        "pytorch_model.pt": {"state_dict": AEI_Net(c_id=512, num_kp=17, device=torch.device("cpu")).state_dict()},
        "faceRecog/CurricularFace_Backbone.pth": Backbone([112, 112], 100, "ir").state_dict(),
        "3dRecon/face_3d.pth": {"net_recon": ReconNetWrapper(net_recon="resnet50", use_last_fc=False).state_dict()},
        "faceEnhance/GPEN-BFR-1024.pth": FullGenerator(1024, 512, 8, 2).state_dict(),
    }.items():
        (folder / part).parent.mkdir(exist_ok=True)
        torch.save(state, folder / part)
    _write_head_model(folder / "BFM" / "BFM_model_front.mat")
    cv2.imwrite(str(folder / "alpha.jpg"), np.full((256, 256, 3), 255, np.uint8))
    _write_face_graphs(folder, box, score)
    return folder


def write_remote_code_fusion(folder: Path, opens_its_own_model: bool = False) -> Path:
    """A repository with code of its own, as `cv_unet_face_fusion_torch` is: darkens, and swaps red and blue.

    Its pipeline leaves the model to the library or, with `opens_its_own_model`, is only given the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "framework": "pytorch",
        "task": "face_fusion_torch",
        "pipeline": {"type": f"stand-in-fusion-{opens_its_own_model}"},
        "allow_remote": True,
    }
    if not opens_its_own_model:
        settings["model"] = {"type": "stand-in-fusion"}
    (folder / "configuration.json").write_text(json.dumps(settings))
    (folder / "ms_wrapper.py").write_text(WRAPPER.format(name=f"stand-in-fusion-{opens_its_own_model}"))
    return folder


def _configuration(folder: Path, task: str, pipeline: str, framework: str = "pytorch", **more: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"framework": framework, "task": task, "pipeline": {"type": pipeline}, **more}
    (folder / "configuration.json").write_text(json.dumps(settings))


def _silence(detector: torch.nn.Module) -> None:
    """Makes a RetinaFace find nothing."""
    with torch.no_grad():
        for head in detector.ClassHead:
            head.conv1x1.weight.zero_()
            head.conv1x1.bias.copy_(torch.tensor([5.0, -5.0, 5.0, -5.0]))


def _repeating(network: torch.nn.Module) -> torch.nn.Module:
    """Sets an RRDB network so that red, green and blue pass through its first three channels unchanged."""
    inputs = network.conv_first.weight.shape[1]
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
        for colour in range(3):
            # A network for x2 packs 2x2 pixels into channels: colour-major.
            for channel in range(colour * inputs // 3, (colour + 1) * inputs // 3):
                network.conv_first.weight[colour, channel, 1, 1] = 3 / inputs
            for layer in (network.conv_up1, network.conv_up2, network.conv_hr, network.conv_last):
                layer.weight[colour, colour, 1, 1] = 1
    return network


def _write_head_model(path: Path) -> None:
    from scipy.io import savemat

    points, faces, rng = 200, 300, np.random.default_rng(0)
    path.parent.mkdir(exist_ok=True)
    savemat(
        path,
        {
            "meanshape": rng.normal(size=(1, 3 * points)),
            "idBase": rng.normal(size=(3 * points, 80)) * 0.01,
            "exBase": rng.normal(size=(3 * points, 64)) * 0.01,
            "meantex": rng.random((1, 3 * points)) * 255,
            "texBase": rng.normal(size=(3 * points, 80)) * 0.01,
            "point_buf": rng.integers(1, faces + 1, (points, 8)),
            "tri": rng.integers(1, points + 1, (faces, 3)),
            "keypoints": rng.integers(1, points + 1, (1, 68)),
            "frontmask2_idx": rng.integers(1, points + 1, (50, 1)),
            "tri_mask2": rng.integers(1, points + 1, (60, 3)),
            "skinmask": np.ones((1, points)),
        },
    )


def _write_face_graphs(folder: Path, box: tuple[float, ...], score: float) -> None:
    import tensorflow as tf

    def detector(v1: Any) -> None:
        v1.placeholder(tf.float32, [None, 512, 512, 3], name="tower_0/images")
        v1.placeholder(tf.bool, [], name="training_flag")
        v1.constant([[list(box)]], tf.float32, name="tower_0/boxes")
        v1.constant([[score]], tf.float32, name="tower_0/scores")
        v1.constant([1], tf.int32, name="tower_0/num_detections")

    def landmarks(v1: Any) -> None:
        v1.placeholder(tf.float32, [None, 160, 160, 3], name="tower_0/images")
        v1.placeholder(tf.bool, [], name="training_flag")
        numbers = np.concatenate([schematic_face().reshape(-1), np.zeros(7)]).astype(np.float32)
        v1.constant(numbers[None], name="tower_0/prediction")

    _graph(folder / "detector.pb", detector)
    _graph(folder / "keypoints.pb", landmarks)


def schematic_face() -> np.ndarray:
    """(68, 2) landmarks of a drawn face, in shares of its box."""

    def arc(x: float, y: float, a: float, b: float, count: int) -> np.ndarray:
        angle = np.linspace(np.pi, -np.pi, count + 1)[:count]
        return np.stack([x + a * np.cos(angle), y - b * np.sin(angle)], 1)

    angle = np.linspace(0, np.pi, 17)
    line = np.linspace
    return np.concatenate(
        [
            np.stack([0.5 - 0.38 * np.cos(angle), 0.4 + 0.45 * np.sin(angle)], 1),
            np.stack([line(0.2, 0.42, 5), np.full(5, 0.3)], 1),
            np.stack([line(0.58, 0.8, 5), np.full(5, 0.3)], 1),
            np.stack([np.full(4, 0.5), line(0.38, 0.56, 4)], 1),
            np.stack([line(0.42, 0.58, 5), np.full(5, 0.6)], 1),
            arc(0.32, 0.4, 0.07, 0.03, 6),
            arc(0.68, 0.4, 0.07, 0.03, 6),
            arc(0.5, 0.73, 0.14, 0.05, 12),
            arc(0.5, 0.73, 0.1, 0.02, 8),
        ]
    )


def _graph(path: Path, build: Callable[[Any], None]) -> None:
    import tensorflow as tf

    graph = tf.compat.v1.Graph()
    with graph.as_default():
        build(tf.compat.v1)
    path.write_bytes(graph.as_graph_def().SerializeToString())
