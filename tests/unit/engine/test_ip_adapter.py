"""The face adapter against diffusers' own implementation, on stand-in weights in the published format."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.diffusion import Diffusion, InpaintRequest
from engine.models.dlib_faces import DlibDetector
from engine.models.ip_adapter import IpAdapterFace, face_picture
from engine.models.sd15 import UnfitWeights
from engine.parsing import parse_by_landmarks
from engine.types import Photo
from tests.stand_ins.ip_adapter import write_ip_adapter

WEIGHT = 0.7


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)


def test_it_does_what_diffusers_does(random_diffusion: Diffusion, tmp_path: Path, picture: np.ndarray) -> None:
    weights, encoder = write_ip_adapter(tmp_path, random_diffusion.unet)
    unet = random_diffusion.unet
    adapter = IpAdapterFace(weights, encoder, unet)
    latents, step = torch.randn(4, 4, 16, 16), torch.tensor([500])  # two candidates, two branches
    words = torch.randn(4, 7, unet.config.cross_attention_dim)

    theirs = copy.deepcopy(unet)
    parts: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in load_file(weights).items():
        kind, _, rest = key.partition(".")
        parts[kind][rest] = value
    theirs._load_ip_adapter_weights([parts], low_cpu_mem_usage=False)
    for processor in theirs.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [WEIGHT]
    seen = _hidden(adapter, [None, picture]).repeat_interleave(2, 0)[:, None]
    with torch.no_grad():
        expected = theirs(latents, step, words, added_cond_kwargs={"image_embeds": [seen]}).sample
        plain = unet(latents, step, words).sample
        with adapter.applied(random_diffusion, picture, WEIGHT, guided=True):
            got = unet(latents, step, words).sample
        again = unet(latents, step, words).sample
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert (got - plain).abs().max() > 1e-3
    assert torch.equal(again, plain)


def _hidden(adapter: IpAdapterFace, pictures: list) -> torch.Tensor:  # type: ignore[type-arg]
    """The image encoder's last states but one, computed the plain way."""
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    pixels = [np.zeros((32, 32, 3)) if p is None else (p / 255 - mean) / std for p in pictures]
    batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        return adapter._encoder(batch, output_hidden_states=True).hidden_states[-2]


def test_another_face_paints_another_picture_and_no_weight_none(
    random_diffusion: Diffusion, tmp_path: Path, picture: np.ndarray
) -> None:
    adapter = IpAdapterFace(*write_ip_adapter(tmp_path, random_diffusion.unet), random_diffusion.unet)
    request = InpaintRequest(np.full((64, 64, 3), 128, np.uint8), None, "a man", "", 2, 1.0, 2.0)

    def painted(face: np.ndarray, weight: float) -> np.ndarray:
        with adapter.applied(random_diffusion, face, weight, guided=True):
            return random_diffusion.inpaint(request)[0]

    plain = random_diffusion.inpaint(request)[0]
    assert np.array_equal(painted(picture, 0.0), plain)
    assert not np.array_equal(painted(picture, 1.0), plain)
    assert not np.array_equal(painted(picture, 1.0), painted(255 - picture, 1.0))


def test_another_kind_of_adapter_is_refused_in_one_sentence(random_diffusion: Diffusion, tmp_path: Path) -> None:
    weights, encoder = write_ip_adapter(tmp_path, random_diffusion.unet)
    state = {key: value for key, value in load_file(weights).items() if "proj.3" not in key}
    save_file(state, weights)
    with pytest.raises(UnfitWeights, match="no IP-Adapter for whole faces"):
        IpAdapterFace(weights, encoder, random_diffusion.unet)


def test_the_adapter_is_shown_the_face_alone_upright_and_without_hair(
    selfie: Callable[[str], Photo], detector: DlibDetector
) -> None:
    photo = selfie("b/img31")
    face = detector(photo.rgb)[0]
    shown = face_picture(photo.rgb, face, parse_by_landmarks)
    assert shown.shape == (224, 224, 3)
    is_white = (shown == 255).all(-1)
    assert is_white[[0, -1]].mean() > 0.6
    assert 0.2 < is_white.mean() < 0.75
    assert not is_white[112, 112]
