"""What the ModelScope wrappers do with a pipeline's answer. The pipelines themselves: test_modelscope_pipelines.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from engine.errors import FusionFailed, MissingWeights
from engine.models.modelscope_enhance import PortraitEnhancer
from engine.models.modelscope_fusion import ModelScopeFuser
from engine.models.modelscope_pipelines import open_pipeline
from engine.models.torchvision_shim import suppressed
from engine.types import Face, HeadPose

POINTS = np.zeros((5, 2), np.float32)
LANDMARKS = np.zeros((68, 2), np.float32)


def face(left: float, top: float, side: float) -> Face:
    return Face((left, top, left + side, top + side), POINTS, LANDMARKS, 1.0, HeadPose(0, 0, 0))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(40, 200, (height, width, 3), dtype=np.uint8)


class Fusion:
    """A pipeline as ModelScope's: PIL pictures in, BGR out; paints the middle red."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        picture = np.array(inputs["template"])
        self.seen.append(inputs["template"].size)
        height, width = picture.shape[:2]
        picture[height // 3 : -(height // 3), width // 3 : -(width // 3)] = (255, 0, 0)
        return {"output_img": picture[..., ::-1]}


def test_the_fused_face_lands_where_the_template_face_is_and_nothing_else_changes() -> None:
    template = noise(600, 800)
    fused = ModelScopeFuser(Fusion())(template, face(500, 200, 120), noise(300, 300), face(90, 90, 120))
    assert fused.shape == template.shape
    assert tuple(fused[260, 560]) == (255, 0, 0)  # red stays red
    changed = np.argwhere((fused != template).any(axis=-1))
    assert changed.min(axis=0) == pytest.approx([210, 510], abs=2)
    assert changed.max(axis=0) == pytest.approx([309, 609], abs=2)


def test_a_small_face_is_enlarged_for_the_model_and_its_surroundings_stay_untouched() -> None:
    pipeline, template = Fusion(), cv2.GaussianBlur(noise(400, 400), (0, 0), 3)
    fused = ModelScopeFuser(pipeline)(template, face(180, 180, 40), noise(300, 300), face(90, 90, 120))
    assert pipeline.seen == [(240, 240)]  # a hundred pixels around the face, 2.4 times as large
    assert np.abs(fused[200, 200].astype(int) - (255, 0, 0)).max() <= 2
    assert (fused[:150] == template[:150]).all()
    assert (fused[:, 250:] == template[:, 250:]).all()
    assert np.abs(fused[155:170, 155:245].astype(int) - template[155:170, 155:245]).max() == 0


def test_a_model_that_finds_no_face_has_failed_though_it_answers_with_swapped_colours() -> None:
    def unchanged(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"output_img": np.array(inputs["template"])}  # RGB, where BGR is promised

    with pytest.raises(FusionFailed, match="found no face"):
        ModelScopeFuser(unchanged)(noise(300, 300), face(90, 90, 120), noise(300, 300), face(90, 90, 120))


@pytest.mark.parametrize("answer", [{"pred": 1, "face_num": 0}, {"output_img": np.zeros((8, 8, 3), np.uint8)}])
def test_an_answer_of_another_form_is_a_failed_fusion(answer: dict[str, Any]) -> None:
    with pytest.raises(FusionFailed, match="template's size"):
        ModelScopeFuser(lambda inputs: answer)(noise(300, 300), face(90, 90, 120), noise(300, 300), face(90, 90, 120))


def doubled(picture: Any) -> dict[str, Any]:
    return {"output_img": np.array(picture).repeat(2, 0).repeat(2, 1)[..., ::-1]}


def test_enhancing_doubles_the_picture_and_keeps_its_colours() -> None:
    rgb = noise(30, 50)
    assert (PortraitEnhancer(doubled)(rgb) == rgb.repeat(2, 0).repeat(2, 1)).all()


def test_a_network_for_four_times_the_size_is_brought_to_twice() -> None:
    rgb = noise(30, 50)
    enhanced = PortraitEnhancer(lambda p: {"output_img": np.array(p).repeat(4, 0).repeat(4, 1)[..., ::-1]})(rgb)
    assert (enhanced == rgb.repeat(2, 0).repeat(2, 1)).all()


def test_the_network_never_sees_more_pixels_than_it_may() -> None:
    sizes = []

    def pipeline(picture: Any) -> dict[str, Any]:
        sizes.append(picture.size)
        return doubled(picture)

    enhanced = PortraitEnhancer(pipeline, most_pixels=20_000)(noise(400, 600))
    assert enhanced.shape == (800, 1200, 3)
    assert sizes == [(173, 115)]


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match=r"run `python -m engine models fetch u2net-saliency`"):
        open_pipeline("semantic-segmentation", tmp_path / "u2net-saliency", "cpu")


def test_suppression_keeps_the_best_of_overlapping_boxes() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30], [0, 0, 10, 5]])
    assert suppressed(boxes, torch.tensor([0.5, 0.9, 0.7, 0.8]), 0.45).tolist() == [1, 3, 2]
    assert suppressed(torch.empty(0, 4), torch.empty(0), 0.5).tolist() == []
