"""The shipped small model: it is small, loads fast, and its parts do what their names say. Seconds on a CPU."""

import time

import cv2
import numpy as np
import pytest
import torch

from engine.mini.captions import TRIGGER
from engine.mini.chip import CANVAS, canonical_points, chip_matrix, five_points, transform
from engine.mini.controls import canny_control, color_control, pose_control
from engine.mini.model import WEIGHTS, MiniComponents, load_mini

MIB = 2**20


AVERAGE_LANDMARKS = (
    30, 65, 30, 74, 31, 82, 32, 91, 35, 100, 41, 107, 47, 114, 55, 119, 64, 120, 73, 119, 81, 114, 88, 108,
    94, 100, 97, 92, 99, 83, 99, 74, 100, 64, 36, 59, 40, 54, 46, 53, 52, 54, 58, 56, 70, 56, 76, 54,
    82, 53, 88, 54, 92, 59, 64, 62, 64, 68, 64, 74, 64, 80, 56, 83, 60, 85, 64, 86, 68, 85, 71, 83,
    43, 63, 47, 61, 51, 61, 55, 64, 51, 64, 47, 64, 73, 64, 77, 61, 81, 61, 85, 63, 81, 64, 77, 64,
    49, 93, 54, 92, 60, 92, 64, 93, 68, 92, 74, 92, 80, 93, 74, 99, 69, 101, 64, 102, 60, 101, 54, 99,
    51, 94, 60, 94, 64, 94, 68, 94, 78, 94, 68, 97, 64, 98, 60, 97,
)  # fmt: skip


@pytest.fixture(scope="module")
def mini() -> MiniComponents:
    torch.set_num_threads(2)
    return load_mini()


def drawn_face() -> np.ndarray:
    """A flat drawing of a face where the canonical points are, (128, 128, 3) uint8 RGB."""
    points = canonical_points(CANVAS).round().astype(int)
    picture = np.full((CANVAS, CANVAS, 3), (90, 120, 140), np.uint8)
    cv2.ellipse(picture, (64, 66), (36, 46), 0, 0, 360, (205, 160, 135), -1, cv2.LINE_AA)
    cv2.ellipse(picture, (64, 34), (34, 18), 0, 180, 360, (60, 45, 35), -1, cv2.LINE_AA)
    for x, y in points[:2]:
        cv2.ellipse(picture, (int(x), int(y)), (6, 3), 0, 0, 360, (240, 240, 240), -1, cv2.LINE_AA)
        cv2.circle(picture, (int(x), int(y)), 2, (50, 40, 30), -1, cv2.LINE_AA)
    cv2.line(picture, tuple(points[3].tolist()), tuple(points[4].tolist()), (150, 70, 70), 2, cv2.LINE_AA)
    return cv2.GaussianBlur(picture, (0, 0), 0.7)


def paint(
    mini: MiniComponents, control: tuple[str, np.ndarray] | None = None, steps: int = 6, seed: int = 3
) -> np.ndarray:
    """One picture through diffusers' own pipelines, (128, 128, 3) float in 0..1."""
    from diffusers import StableDiffusionControlNetPipeline, StableDiffusionPipeline

    parts = {
        "vae": mini.vae, "unet": mini.unet, "text_encoder": mini.text_encoder, "tokenizer": mini.tokenizer,
        "scheduler": mini.scheduler, "safety_checker": None, "feature_extractor": None,
        "requires_safety_checker": False,
    }  # fmt: skip
    asked = {
        "prompt": TRIGGER, "num_inference_steps": steps, "guidance_scale": 2.0, "height": CANVAS, "width": CANVAS,
        "generator": torch.Generator().manual_seed(seed), "output_type": "np",
    }  # fmt: skip
    if control is None:
        pipeline = StableDiffusionPipeline(**parts)
    else:
        name, picture = control
        pipeline = StableDiffusionControlNetPipeline(**parts, controlnet=mini.controlnets[name])
        asked["image"] = torch.from_numpy(picture).permute(2, 0, 1)[None]
    pipeline.set_progress_bar_config(disable=True)
    result: np.ndarray = pipeline(**asked).images[0]
    return result


def test_the_weights_fit_into_the_package() -> None:
    sizes = [f.stat().st_size for f in WEIGHTS.rglob("*") if f.is_file()]
    assert max(sizes) < 16 * MIB
    assert sum(sizes) <= 64 * MIB


def test_the_model_loads_in_two_seconds(mini: MiniComponents) -> None:
    """Warm: libraries imported, files in the system's cache; processor time, best of three, for busy machines."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        load_mini()
        seconds.append(time.process_time() - start)
    assert min(seconds) < 2.0


def test_a_chip_puts_the_five_points_where_they_belong() -> None:
    turn = np.array([[1.7, -0.6], [0.6, 1.7]])
    seen = canonical_points(200) @ turn.T + [31, -12]
    assert np.allclose(transform(chip_matrix(seen, 64), seen), canonical_points(64))
    with pytest.raises(ValueError, match="coincide"):
        chip_matrix(np.ones((5, 2)))


def test_five_points_come_from_68() -> None:
    landmarks = np.arange(136, dtype=float).reshape(68, 2)
    assert np.allclose(five_points(landmarks)[2], landmarks[30])


def test_every_word_of_the_trigger_is_one_token(mini: MiniComponents) -> None:
    words = mini.tokenizer.convert_ids_to_tokens(mini.tokenizer(TRIGGER).input_ids)[1:-1]
    assert words == [w + "</w>" for w in ("easyphoto", "_", "face", ",", "easyphoto", ",", "1", "person")]


def test_the_vae_gives_a_face_back(mini: MiniComponents) -> None:
    picture = torch.from_numpy(drawn_face()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        back = mini.vae.decode(mini.vae.encode(picture).latent_dist.mean).sample.clamp(-1, 1)
    error = ((picture - back) / 2).square().mean().item()
    assert -10 * np.log10(error) > 26


def test_a_face_is_painted_from_noise(mini: MiniComponents) -> None:
    picture = paint(mini, steps=8)
    assert picture.shape == (CANVAS, CANVAS, 3)
    assert np.isfinite(picture).all()
    assert picture.std() > 0.05


def test_the_colour_control_colours_the_picture(mini: MiniComponents) -> None:
    face = drawn_face()
    blue, warm = face.copy(), face.copy()
    blue[:, :32], warm[:, :32] = (30, 60, 200), (200, 70, 40)
    cool_picture = paint(mini, ("color", color_control(blue)))
    warm_picture = paint(mini, ("color", color_control(warm)))
    side = (cool_picture - warm_picture)[20:100, 2:20].mean((0, 1))
    assert side[2] - side[0] > 0.1


def edge_energy(picture: np.ndarray, where: np.ndarray) -> float:
    """Mean gradient on the control's edges over the mean gradient elsewhere."""
    grey = picture.mean(-1).astype(np.float32)
    steep = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    return float(steep[where].mean() / steep[~where].mean())


def test_the_picture_follows_the_edges(mini: MiniComponents) -> None:
    control = canny_control(drawn_face())
    where = cv2.dilate(control[..., 0], np.ones((3, 3))) > 0
    assert edge_energy(paint(mini, ("canny", control)), where) > 1.25 * edge_energy(paint(mini), where)


def test_the_pose_moves_the_face(mini: MiniComponents) -> None:
    landmarks = average_landmarks()
    low = paint(mini, ("pose", pose_control(landmarks + np.array([0, 9]), CANVAS)))
    high = paint(mini, ("pose", pose_control(landmarks - np.array([0, 9]), CANVAS)))
    rows = np.arange(CANVAS)

    def eyes(picture: np.ndarray) -> float:
        dark = np.clip(0.75 - picture[:, 46:84].mean(-1), 0, 1).mean(1)[30:80]
        return float((dark * rows[30:80]).sum() / dark.sum())

    assert np.abs(low - high).mean() > 0.02
    assert eyes(low) > eyes(high)


def average_landmarks() -> np.ndarray:
    """(68, 2) canvas xy: the mean of the portraits that the model was trained on, rounded."""
    return np.array(AVERAGE_LANDMARKS, dtype=np.float64).reshape(68, 2)
