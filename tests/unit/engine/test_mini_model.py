"""The shipped small model: it is small, loads fast, and its parts do what their names say. Seconds on a CPU."""

import time
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from engine.diffusion import Diffusion
from engine.images import read_photo
from engine.mini.captions import TRIGGER
from engine.mini.chip import CANVAS, canonical_points, chip_matrix, five_points, transform
from engine.mini.identity import EdgeFaceId
from engine.mini.measures import Example, colours_off, edges_on, from_noise, landmarks_off
from engine.mini.model import WEIGHTS, MiniComponents, load_mini
from engine.profiles import load_profile
from engine.types import Embedding, Rgb

MIB = 2**20


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


def paint(mini: MiniComponents, steps: int) -> np.ndarray:
    """One picture through diffusers' own pipeline, (128, 128, 3) float in 0..1."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        mini.vae,
        mini.text_encoder,
        mini.tokenizer,
        mini.unet,
        mini.scheduler,
        None,
        None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    result: np.ndarray = pipeline(
        TRIGGER,
        num_inference_steps=steps,
        guidance_scale=2.0,
        height=CANVAS,
        width=CANVAS,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).images[0]
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


def controlled(name: str, examples: list[Example], weight: float, mini: MiniComponents) -> list[Rgb]:
    """Every example's control picture painted from noise, the same noise whatever the weight."""
    diffusion = Diffusion(
        mini.unet, mini.vae, mini.text_encoder, mini.tokenizer, mini.controlnets, dict(mini.scheduler.config)
    )
    controls = [replace(example.control(name), weight=weight) for example in examples]
    return [from_noise(diffusion, 1, seed, (c,), steps=8)[0] for seed, c in enumerate(controls)]


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """The drawn faces of two ID templates."""
    profile = load_profile("mini", "cpu")
    photos = profile.id_templates()[:2]
    return [Example.of(photo.rgb, profile.detector(photo.rgb)[0]) for photo in photos]


def test_the_picture_takes_the_colours_asked_for(mini: MiniComponents, examples: list[Example]) -> None:
    """Two faces, and the same two in red light; what is measured is each cell's colour."""
    red = [replace(e, rgb=np.rint(e.rgb * np.array([1.0, 0.55, 0.45])).astype(np.uint8)) for e in examples]
    both = [*examples, *red]
    wanted = [example.control("color").picture for example in both]
    led, free = (
        np.mean([colours_off(*pair) for pair in zip(controlled("color", both, w, mini), wanted, strict=True)])
        for w in (1.0, 0.0)
    )
    assert led < free / 1.5


def test_the_picture_follows_the_edges(mini: MiniComponents, examples: list[Example]) -> None:
    wanted = [example.control("canny").picture for example in examples]
    led, free = (
        np.mean([edges_on(*pair) for pair in zip(controlled("canny", examples, w, mini), wanted, strict=True)])
        for w in (1.0, 0.0)
    )
    assert led > 1.5 * free


def test_the_landmarks_go_where_the_pose_wants_them(mini: MiniComponents, examples: list[Example]) -> None:
    detector = load_profile("mini", "cpu").detector
    moved = [
        replace(e, face=replace(e.face, landmarks=e.face.landmarks + np.float32(by)))
        for e, by in zip(examples, ([0, 5], [-4, -4]), strict=True)
    ]

    def off(weight: float) -> float:
        pairs = zip(controlled("pose", moved, weight, mini), moved, strict=True)
        found = [landmarks_off(rgb, e.face.landmarks, detector) for rgb, e in pairs]
        return float(np.mean([10.0 if value is None else value for value in found]))

    assert off(1.0) < off(0.0) / 1.5


def test_the_edge_encoder_tells_people_apart(shared_data: Path) -> None:
    """Nine photos of three people: nearly every pair of one person is more alike than pairs of two people are."""
    detector, judge = load_profile("mini", "cpu").detector, EdgeFaceId()
    codes: list[tuple[str, Embedding]] = []
    for who in "abc":
        for path in sorted((shared_data / "selfies" / who).iterdir())[:3]:
            rgb = read_photo(path, 1000).rgb
            codes.append((who, judge.embed(rgb, detector(rgb)[0])))
    pairs = [(a == b, judge.likeness(x, y)) for (a, x), (b, y) in combinations(codes, 2)]
    same, different = ([value for is_same, value in pairs if is_same is kind] for kind in (True, False))
    assert np.mean([s > d for s in same for d in different]) > 0.9
