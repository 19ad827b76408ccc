"""The ModelScope wrappers through the package's own pipelines, on folders in the published format.

Needs the extra `modelscope` (and `modelscope-tf` where TensorFlow is named); skipped by name without it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import EngineError, FusionFailed, MissingWeights
from engine.types import Face, HeadPose, Points

pytestmark = pytest.mark.skipif(
    find_spec("torchvision") is None or find_spec("addict") is None, reason="needs the extra modelscope"
)
needs_tensorflow = pytest.mark.skipif(find_spec("tensorflow") is None, reason="needs the extra modelscope-tf")

FACE = Face((90, 80, 170, 190), np.zeros((5, 2), np.float32), np.zeros((68, 2), np.float32), 1.0, HeadPose(0, 0, 0))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth picture whose colours differ, so that swapped ones are noticed."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 1, (1, 3, 6, 8)))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)
    return (smooth.numpy() * (220, 140, 90)).astype(np.uint8)


def no_landmarks(rgb: np.ndarray, box: tuple[float, float, float, float]) -> tuple[Points, HeadPose]:
    return np.full((68, 2), box[0], np.float32), HeadPose(1, 2, 3)


def test_retinaface_gives_faces_in_the_pictures_own_pixels(tmp_path: Path) -> None:
    from engine.models.modelscope_faces import RetinaFaceDetector
    from tests.stand_ins import modelscope_folders as folders

    detector = RetinaFaceDetector(folders.write_retinaface(tmp_path / "retinaface"), no_landmarks)
    found = detector(picture(96, 96))
    assert found
    assert [face.area for face in found] == sorted((face.area for face in found), reverse=True)
    best = found[0]
    assert best.width == pytest.approx(512, abs=1)  # the stand-in's only anchor
    middle = (best.box_xyxy[0] + best.box_xyxy[2]) / 2
    # Points are given in tenths of the anchor's side: eyes 0.2 left and right of the middle, the nose in it.
    assert best.points[:, 0] - middle == pytest.approx(np.array([-0.2, 0.2, 0, -0.15, 0.15]) * 512, abs=1)
    assert best.pose == HeadPose(1, 2, 3)
    assert best.landmarks[0, 0] == pytest.approx(best.box_xyxy[0])
    # Above 1500 pixels the model shrinks the picture itself: boxes come back in the large one's pixels.
    assert detector(picture(1600, 1600))[0].width == pytest.approx(512 * 1.6, rel=0.01)


def test_u2net_sees_the_colours_in_the_right_order(tmp_path: Path) -> None:
    from engine.models.modelscope_saliency import BACKGROUND, FOREGROUND, U2NetSegmenter
    from tests.stand_ins import modelscope_folders as folders

    folder = folders.write_u2net(tmp_path / "u2net")
    from modelscope.models.cv.salient_detection.models import U2NET
    from PIL import Image

    rgb = picture(240, 260)
    network = U2NET(3, 1)
    network.load_state_dict(torch.load(folder / "pytorch_model.pt", weights_only=True))
    network.eval()
    small = np.asarray(Image.fromarray(rgb).resize((320, 320), Image.Resampling.BILINEAR), np.float32) / 255
    scaled = (small - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    with torch.no_grad():
        raw = network(torch.from_numpy(scaled).permute(2, 0, 1)[None].float())[0][0, 0].numpy()
    expected = (raw - raw.min()) / (raw.max() - raw.min())
    segmenter = U2NetSegmenter(folder)
    plain = segmenter._pipeline(Image.fromarray(rgb))["masks"] / 255
    import cv2

    assert np.abs(plain - cv2.resize(expected, (260, 240))).max() < 0.02
    mask = segmenter(rgb, FACE)
    assert mask.shape == (240, 260)
    assert mask.dtype == np.float32
    assert 0 <= mask.min() <= mask.max() <= 1
    assert mask[135, 130] == 1  # the face is always inside
    sure = plain > FOREGROUND + 0.02
    labels = cv2.connectedComponents((np.maximum(mask, 0) > 0).astype(np.uint8))[1]
    assert (mask[sure & (labels > 0)] == 1).all()
    assert (mask[(plain < BACKGROUND - 0.02) & (labels == 0)] == 0).all()


def test_rrdb_and_gpen_double_the_picture_and_keep_its_colours(tmp_path: Path) -> None:
    from engine.models.modelscope_enhance import gpen, rrdb_x4
    from tests.stand_ins import modelscope_folders as folders

    rgb = picture(48, 64)
    assert (
        np.abs(rrdb_x4(folders.write_rrdb_x4(tmp_path / "rrdb"))(rgb).astype(int) - rgb.repeat(2, 0).repeat(2, 1)).max()
        <= 1
    )
    means = rgb.reshape(24, 2, 32, 2, 3).mean(axis=(1, 3))
    enhanced = gpen(folders.write_gpen(tmp_path / "gpen"))(rgb)
    assert enhanced.shape == (96, 128, 3)
    assert np.abs(enhanced - means.repeat(4, 0).repeat(4, 1)).max() <= 1.5


def test_retouching_follows_the_librarys_pipeline_and_changes_only_the_square_around_the_face(tmp_path: Path) -> None:
    from engine.models.modelscope_retouch import AbpnRetoucher
    from tests.stand_ins import modelscope_folders as folders

    folder = folders.write_skin_retouching(tmp_path / "skin")
    rgb = picture(300, 320)
    retouched = AbpnRetoucher(folder)(rgb, FACE)
    assert retouched.shape == rgb.shape
    half = 110 * 1.5 / 2
    inside = np.zeros((300, 320), bool)
    inside[int(135 - half) : int(135 + half), int(130 - half) : int(130 + half)] = True
    assert (retouched[~inside] == rgb[~inside]).all()
    assert (retouched[inside] != rgb[inside]).any()


@needs_tensorflow
def test_retouching_gives_the_same_as_the_librarys_own_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's class, opened directly (its `pipeline()` does not open it), without its lightening of skin."""
    from engine.models import modelscope_retouch
    from engine.models.modelscope_retouch import AbpnRetoucher
    from tests.stand_ins import modelscope_folders as folders

    folder = folders.write_skin_retouching(tmp_path / "skin", with_tensorflow=True)
    ours = AbpnRetoucher(folder, strength=1.0)
    from modelscope.pipelines.cv import skin_retouching_pipeline as library

    class Detector:
        detector = torch.nn.Identity()

    monkeypatch.setattr(library, "pipeline", lambda *args, **kwargs: Detector())
    theirs = library.SkinRetouchingPipeline(model=str(folder), device="cpu")
    window = modelscope_retouch._square_around(FACE, picture(600, 620))
    roi = torch.from_numpy(picture(600, 620)[window]).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    expected = theirs.predict_roi(theirs.retouch_local(roi), degree=1.0, smooth_border=True)["pred"].numpy()
    got = ours(picture(600, 620), FACE)[window]
    inner = slice(15, -15)  # the border's ramp is drawn differently by a fraction of a pixel
    assert np.abs(got[inner, inner].astype(int) - expected[inner, inner]).max() <= 2


@pytest.mark.parametrize("opens_its_own_model", [False, True])
def test_code_of_a_repository_runs_only_when_allowed(tmp_path: Path, opens_its_own_model: bool) -> None:
    from engine.models.modelscope_fusion import torch_fusion
    from tests.stand_ins import modelscope_folders as folders

    folder = folders.write_remote_code_fusion(tmp_path / f"fusion_{opens_its_own_model}", opens_its_own_model)
    with pytest.raises(EngineError, match="wants to run code of its own"):
        torch_fusion(folder, trust_remote_code=False)
    template = picture(300, 320)
    fused = torch_fusion(folder, trust_remote_code=True)(template, FACE, picture(300, 320, 1), FACE)
    assert fused.shape == template.shape
    # Red and blue as the code left them; the face was enlarged for the model, so within one level.
    assert fused[135, 130].astype(int) == pytest.approx(template[135, 130, ::-1] // 2, abs=1)


@needs_tensorflow
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_references_fusion_runs_and_says_when_it_finds_no_face(tmp_path: Path) -> None:
    from engine.models.modelscope_fusion import damo_fusion
    from tests.stand_ins import modelscope_folders as folders

    folder = folders.write_face_fusion(tmp_path / "fusion")
    template, reference = picture(360, 400), picture(300, 320, 1)
    fused = damo_fusion(folder)(template, FACE, reference, FACE)
    assert fused.shape == template.shape
    changed = (fused != template).any(axis=-1)
    assert changed[135, 130]
    assert not changed[300:].any()
    folders._write_face_graphs(folder, (0.3, 0.3, 0.7, 0.7), score=0.1)
    with pytest.raises(FusionFailed, match="found no face"):
        damo_fusion(folder)(template, FACE, reference, FACE)


def test_absent_weights_are_a_sentence(tmp_path: Path) -> None:
    from engine.models.modelscope_retouch import AbpnRetoucher

    with pytest.raises(MissingWeights, match=r"run `python -m engine models fetch skin-retouching`"):
        AbpnRetoucher(tmp_path / "skin-retouching")
