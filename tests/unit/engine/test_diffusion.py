"""The diffusion core against slow, plain versions of what it promises."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from engine.diffusion import Control, Diffusion, InpaintRequest, Sampler
from engine.diffusion.capture import identity
from engine.diffusion.core import injection_factors, overlaid
from engine.diffusion.prompt import parse_weights
from engine.errors import Stopped
from engine.mini import architecture
from engine.mini.model import WEIGHTS

SIDE = 64
WIDTHS = (16, 32)


@pytest.fixture(scope="module")
def tiny() -> Diffusion:
    """Networks of the real classes with random weights, small enough for dozens of steps a second."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=32, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    shared = {
        "in_channels": 4, "block_out_channels": WIDTHS, "layers_per_block": 1, "cross_attention_dim": 16,
        "attention_head_dim": 4, "norm_num_groups": 8, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    }  # fmt: skip
    unet = UNet2DConditionModel(out_channels=4, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **shared)
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 3, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 3, norm_num_groups=4,
    )  # fmt: skip
    controls = {n: ControlNetModel(conditioning_embedding_out_channels=(4, 8, 8), **shared) for n in ("canny", "pose")}
    for network in controls.values():  # their last layers start at zero: without this they would do nothing
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    for network in (unet, vae, text, *controls.values()):
        network.eval().requires_grad_(False)
    return Diffusion(unet, vae, text, tokenizer, controls, architecture.SCHEDULER)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def request(**changes: object) -> InpaintRequest:
    mask = np.zeros((SIDE, SIDE), np.float32)
    mask[20:44, 16:48] = 1
    values: dict[str, object] = {
        "image": picture(1), "mask": mask, "prompt": "photo of a (man:1.3)", "negative": "blurry", "steps": 10,
        "strength": 0.5, "guidance": 5.0, "controls": (), "seed": 3,
    }  # fmt: skip
    return InpaintRequest(**{**values, **changes})  # type: ignore[arg-type]


CONTROLS = (Control("canny", picture(2), 0.5), Control("pose", picture(3), 0.8, soft=False))


def plain_noise(tiny: Diffusion, latents: torch.Tensor, t: torch.Tensor, asked: InpaintRequest) -> torch.Tensor:
    """Guided noise, one branch after the other and one ControlNet after the other."""
    branches = []
    for words in (asked.negative, asked.prompt):
        text = tiny.encode_text([words])
        down, middle = None, None
        for control in asked.controls:
            hint = torch.from_numpy(control.picture).permute(2, 0, 1)[None].float() / 255
            shallow, deep = tiny.controlnets[control.name](latents, t, text, hint, return_dict=False)
            residuals = [*shallow, deep]
            last = len(residuals) - 1
            for i, residual in enumerate(residuals):
                residuals[i] = residual * control.weight * (0.825 ** (12 - 12 * i / last) if control.soft else 1)
            down = residuals[:-1] if down is None else [a + b for a, b in zip(down, residuals[:-1], strict=True)]
            middle = residuals[-1] if middle is None else middle + residuals[-1]
        branches.append(
            tiny.unet(
                latents, t, text, down_block_additional_residuals=down, mid_block_additional_residual=middle
            ).sample
        )
    return branches[0] + asked.guidance * (branches[1] - branches[0])


def plain_latent_mask(asked: InpaintRequest) -> torch.Tensor:
    small = plain_blur(asked.mask, 1.0).reshape(SIDE // 4, 4, SIDE // 4, 4).mean((1, 3))
    return torch.from_numpy(small).round()[None, None].float()


def plain_overlay(tiny: Diffusion, asked: InpaintRequest, latents: torch.Tensor) -> np.ndarray:
    decoded = tiny.vae.decode(latents / tiny.vae.config.scaling_factor).sample[0].permute(1, 2, 0).numpy()
    picture = np.rint(np.clip(decoded * 127.5 + 127.5, 0, 255))
    weight = np.rint(np.clip(2 * plain_blur(asked.mask, 1.0), 0, 1) * 255)[..., None] / 255
    return np.rint(asked.image * (1 - weight) + picture * weight)


def plain_inpaint(tiny: Diffusion, asked: InpaintRequest) -> np.ndarray:
    """DPM++ 2M SDE on Karras's sigmas as k-diffusion writes it (variance exploding); mask and overlay step by step."""
    alphas = torch.tensor(1.0) - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    all_sigmas = ((1 - alphas.cumprod(0)) / alphas.cumprod(0)).sqrt().numpy().astype(np.float64)
    ramp = np.linspace(0, 1, asked.steps)
    low, high = all_sigmas[0] ** (1 / 7), all_sigmas[-1] ** (1 / 7)
    sigmas = np.append((high + ramp * (low - high)) ** 7, 0.0)[asked.steps - int(asked.strength * asked.steps) :]
    times = np.interp(np.log(sigmas[:-1]), np.log(all_sigmas), np.arange(1000)).round()

    latent_mask = plain_latent_mask(asked)
    original = tiny.encode_image([asked.image])
    generator = torch.Generator().manual_seed(asked.seed)
    first_noise = torch.randn(original.shape[1:], generator=generator)[None]
    x, before, h_before = original + first_noise * sigmas[0], None, None
    for i, t in enumerate(times):
        sigma, following = float(sigmas[i]), float(sigmas[i + 1])
        noise = torch.randn(original.shape[1:], generator=generator)[None]
        scale = math.sqrt(1 + sigma**2)
        clean = x - sigma * plain_noise(tiny, x / scale, torch.tensor(int(t)), asked)
        if following == 0:
            x = clean
        else:
            h = math.log(sigma / following)
            x = following / sigma * math.exp(-h) * x + -math.expm1(-2 * h) * clean
            if before is not None:
                x = x + 0.5 * -math.expm1(-2 * h) * (h / h_before) * (clean - before)
            x = x + noise * following * math.sqrt(-math.expm1(-2 * h))
            before, h_before = clean, h
        kept = original + first_noise * following
        x = kept * (1 - latent_mask) + x * latent_mask
    return plain_overlay(tiny, asked, x)


def plain_few_steps(tiny: Diffusion, asked: InpaintRequest) -> np.ndarray:
    """Song et al. 2023, multistep consistency sampling: guess the clean picture, put fresh noise on it, again. TCD
    (Zheng et al. 2024) at gamma 1 guesses the level of timestep 0 instead and goes up from there."""
    alphas = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
    times = {Sampler.LCM: (439, 339, 219, 119), Sampler.TCD: (449, 337, 224, 112)}[asked.sampler]  # 4 steps from 0.45
    original, inside = tiny.encode_image([asked.image]), plain_latent_mask(asked)
    generator = torch.Generator().manual_seed(asked.seed)
    first_noise = torch.randn(original.shape[1:], generator=generator)[None]

    def at(level: int, clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return (alphas[level].sqrt() * clean + (1 - alphas[level]).sqrt() * noise).float()

    x = at(times[0], original, first_noise)
    for t, following in zip(times, [*times[1:], None], strict=True):
        noise = plain_noise(tiny, x, torch.tensor(t), asked)
        x = ((x - (1 - alphas[t]).sqrt() * noise) / alphas[t].sqrt()).float()
        if asked.sampler is Sampler.TCD:
            x = at(0, x, noise)
        if following is None:
            return plain_overlay(tiny, asked, original * (1 - inside) + x * inside)
        rest = alphas[following] / (alphas[0] if asked.sampler is Sampler.TCD else 1)
        x = (rest.sqrt() * x + (1 - rest).sqrt() * torch.randn(original.shape[1:], generator=generator)).float()
        x = at(following, original, first_noise) * (1 - inside) + x * inside
    raise AssertionError("no step")


def plain_blur(mask: np.ndarray, sigma: float) -> np.ndarray:
    radius = int(2.5 * sigma + 0.5)
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    for axis in (0, 1):
        mask = np.apply_along_axis(
            lambda line: np.convolve(np.pad(line, radius, "reflect"), weights, "valid"), axis, mask
        )
    return mask.astype(np.float32)


@pytest.mark.parametrize("controls", [(), CONTROLS], ids=["without controls", "with two controls"])
@torch.inference_mode()
def test_inpainting_agrees_with_a_plain_version_of_the_sampler(tiny: Diffusion, controls: tuple[Control, ...]) -> None:
    asked = request(controls=controls, mask_blur=1.0)
    (result,) = tiny.inpaint(asked)
    expected = plain_inpaint(tiny, asked)
    assert np.abs(result.astype(int) - expected).max() <= 1
    assert np.abs(result.astype(int) - asked.image).max() > 20  # it did paint


@pytest.mark.parametrize("sampler", [Sampler.LCM, Sampler.TCD])
@torch.inference_mode()
def test_few_step_samplers_agree_with_plain_versions(tiny: Diffusion, sampler: Sampler) -> None:
    asked = request(sampler=sampler, steps=4, strength=0.45, guidance=1.0, controls=CONTROLS, mask_blur=1.0)
    (result,) = tiny.inpaint(asked)
    assert np.abs(result.astype(int) - plain_few_steps(tiny, asked)).max() <= 1
    assert np.abs(result.astype(int) - asked.image).max() > 20


def test_without_guidance_the_negative_branch_is_not_computed(tiny: Diffusion) -> None:
    seen: list[int] = []
    hook = tiny.unet.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    tiny.inpaint(request(guidance=1.0, count=2))
    tiny.inpaint(request(guidance=1.5, count=2))
    hook.remove()
    assert seen == [2] * 5 + [4] * 5


@pytest.mark.parametrize("parts", [("encoder",), ("decoder",), ("encoder", "decoder")])
def test_an_autoencoder_that_overflows_in_half_precision_goes_on_in_single(
    tiny: Diffusion, parts: tuple[str, ...]
) -> None:
    vae = copy.deepcopy(tiny.vae)
    large, asked = replace(tiny, vae=vae), request(mask=None, count=2)
    vae.half()
    for part in parts:
        getattr(vae, part).conv_in.weight.fill_(6e4)
    painting = large.painting(asked)
    assert vae.dtype == torch.float32
    again = large.painting(asked)
    for one, other in zip((painting.unchanged, *painting.pictures), (again.unchanged, *again.pictures), strict=True):
        assert np.abs(one.astype(int) - other).mean() < 1  # what did not overflow was made in half precision


def test_a_painting_tells_what_the_autoencoder_alone_makes_of_it(tiny: Diffusion) -> None:
    painting = tiny.painting(request(count=2))
    (unchanged,) = tiny.inpaint(request(strength=0.0))
    assert np.array_equal(painting.unchanged, unchanged)
    assert all(np.array_equal(*pair) for pair in zip(painting.pictures, tiny.inpaint(request(count=2)), strict=True))


def test_outside_the_blurred_mask_no_bit_changes(tiny: Diffusion) -> None:
    asked = request(steps=4, strength=1.0)
    (result,) = tiny.inpaint(asked)
    outside = plain_blur(asked.mask, 1.0) == 0
    assert outside.any()
    assert np.array_equal(result[outside], asked.image[outside])
    assert (result[asked.mask > 0] != asked.image[asked.mask > 0]).any()


def test_candidates_of_one_batch_are_those_of_single_calls(tiny: Diffusion) -> None:
    both = tiny.inpaint(request(steps=6, count=2, controls=CONTROLS))
    for k in range(2):
        (alone,) = tiny.inpaint(request(steps=6, seed=3 + k, controls=CONTROLS))
        assert np.abs(both[k].astype(int) - alone).max() <= 1
    assert (both[0] != both[1]).any()


@pytest.mark.parametrize(("steps", "strength", "executed"), [(50, 0.45, 22), (20, 0.30, 6), (10, 1.0, 9), (10, 0.0, 0)])
def test_img2img_runs_the_share_of_the_steps_that_its_strength_says(
    tiny: Diffusion, steps: int, strength: float, executed: int
) -> None:
    seen: list[tuple[int, int]] = []
    tiny.inpaint(request(steps=steps, strength=strength), lambda done, total: seen.append((done, total)))
    assert seen == [(k + 1, executed) for k in range(executed)]


def test_stopping_passes_between_two_steps(tiny: Diffusion) -> None:
    steps: list[int] = []

    def stop(done: int, total: int) -> None:
        steps.append(done)
        if done == 2:
            raise Stopped

    with pytest.raises(Stopped):
        tiny.inpaint(request(), stop)
    assert steps == [1, 2]


def test_strength_zero_is_the_autoencoders_idea_of_the_picture(tiny: Diffusion) -> None:
    asked = request(strength=0.0, mask=None)
    (result,) = tiny.inpaint(asked)
    (expected,) = tiny.decode(tiny.encode_image([asked.image]))
    assert np.array_equal(result, expected)


def test_a_recording_is_found_again_until_a_weight_moves_or_a_part_is_exchanged() -> None:
    """By this key a recorded pass is found; what only changes contents (a LoRA merged in place) must not change it."""
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    seen = [identity([network])]
    with torch.no_grad():
        network[0].weight += 1
    network[1].running_mean.copy_(torch.ones(3))
    assert identity([network]) == seen[0]
    network.double()
    seen.append(identity([network]))
    network[1].running_mean = torch.zeros(3, dtype=torch.double)
    seen.append(identity([network]))
    network[0] = torch.nn.Sequential(network[0], torch.nn.Identity())  # as a LoRA's layer put around it
    seen.append(identity([network]))
    assert len(set(seen)) == len(seen)


def test_soft_injection_has_the_references_thirteen_factors() -> None:
    known = [0.0994, 0.1205, 0.1461, 0.1770, 0.2146, 0.2601, 0.3153, 0.3822, 0.4633, 0.5615, 0.6806, 0.825, 1.0]
    assert injection_factors(13, 1.0, soft=True) == pytest.approx(known, abs=5e-5)
    assert injection_factors(13, 0.5, soft=True) == pytest.approx([f / 2 for f in known], abs=5e-5)
    fewer = injection_factors(8, 1.0, soft=True)
    assert (fewer[0], fewer[-1]) == (pytest.approx(known[0], abs=5e-5), 1.0)
    assert injection_factors(13, 0.7, soft=False) == [0.7] * 13


def test_the_overlay_is_full_from_half_the_blurred_mask_on() -> None:
    image, painted = np.zeros((1, 4, 3), np.uint8), np.full((1, 4, 3), 200, np.uint8)
    blurred = np.array([[0.0, 0.25, 0.5, 1.0]], np.float32)
    assert overlaid(image, painted, blurred)[0, :, 0].tolist() == [0, 100, 200, 200]
    assert np.array_equal(overlaid(image, painted, 0 * blurred), image)


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("plain words, 3: four", [("plain words, 3: four", 1.0)]),
        ("a (b:1.3) c", [("a ", 1.0), ("b", 1.3), (" c", 1.0)]),
        ("((sharp)) [dull]", [("sharp", 1.21), (" ", 1.0), ("dull", 1 / 1.1)]),
        ("(a (b:2):1.5)", [("a ", 1.5), ("b", 3.0)]),
        (r"\(not\) [a", [("(not) ", 1.0), ("a", 1 / 1.1)]),
        ("x)", [("x)", 1.0)]),
    ],
)
def test_weights_are_read_as_the_web_ui_reads_them(prompt: str, pieces: list[tuple[str, float]]) -> None:
    parsed = parse_weights(prompt)
    assert [text for text, _ in parsed] == [text for text, _ in pieces]
    assert [weight for _, weight in parsed] == pytest.approx([weight for _, weight in pieces])


@torch.inference_mode()
def test_long_prompts_are_encoded_in_chunks_and_weights_scale_their_words(tiny: Diffusion) -> None:
    words = ["photo"] * 25 + ["man"] * 25  # the context holds 30 beside its begin and end
    prompt = " ".join(words[:25]) + " (" + " ".join(words[25:]) + ":1.5)"
    encoded = tiny.encode_text([prompt, "photo"])
    assert encoded.shape == (2, 64, 16)
    ids = [tiny.tokenizer(word, add_special_tokens=False).input_ids[0] for word in words]
    begin, end = tiny.tokenizer.bos_token_id, tiny.tokenizer.eos_token_id
    for chunk, (first, last) in enumerate(((0, 30), (30, 50))):
        tokens = [begin, *ids[first:last], end]
        tokens += [end] * (32 - len(tokens))
        plain = tiny.text_encoder(torch.tensor([tokens])).last_hidden_state[0]
        weights = torch.ones(32)
        for place in range(first, last):
            weights[1 + place - first] = 1.5 if place >= 25 else 1.0
        expected = plain * weights[:, None]
        expected = expected * (plain.mean() / expected.mean())
        assert torch.allclose(encoded[0, 32 * chunk : 32 * chunk + 32], expected, atol=1e-5)


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    """Two threads on tiny tensors wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
