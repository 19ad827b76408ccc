"""SD1.5-shaped diffusion: text, latents, ControlNets and the inpainting loop of the reference system.

What diffusers' own pipelines do otherwise and this does as the reference's web UI: soft injection of ControlNet
residuals on both branches of the guidance, a mask that is blurred once for all, rounded for the latents and laid over
the pixels, so that nothing outside it changes by even one level.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from torch.nn import functional

from engine.diffusion.prompt import encode
from engine.errors import OutOfGpuMemory
from engine.types import Mask, Rgb

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

OnStep = Callable[[int, int], None]  # done, total; raising Stopped in it is how one cancels

SOFTNESS = 0.825  # factor from one ControlNet residual to the next shallower one, for SD1.5's thirteen
MASK_BLUR = 8.0  # sigma in pixels on a canvas whose short side is 512


@dataclass(frozen=True)
class Control:
    """A ControlNet's part: its name among the diffusion's, its picture (canvas size) and its weight.

    `soft` is the reference's "my prompt is more important": shallow residuals count less than deep ones.
    """

    name: str
    picture: Rgb
    weight: float
    soft: bool = True


@dataclass(frozen=True)
class InpaintRequest:
    """One call of `Diffusion.inpaint`. Sides are multiples of the latent grid; `mask` None means the whole picture.

    `strength` 0 runs no step: what comes back is the autoencoder's idea of the picture inside the mask.
    """

    image: Rgb
    mask: Mask | None
    prompt: str
    negative: str
    steps: int
    strength: float
    guidance: float
    controls: tuple[Control, ...] = ()
    seed: int = 0
    count: int = 1
    mask_blur: float | None = None  # None: MASK_BLUR in proportion to the canvas

    @property
    def executed_steps(self) -> int:
        return int(min(self.strength, 0.999) * self.steps)


@dataclass
class Diffusion:
    """The networks of one model and what is done with them. Pictures go in and come out as RGB uint8."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    controlnets: Mapping[str, ControlNetModel] = field(default_factory=dict)
    scheduler_config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        """(train steps,) share of the signal's variance that is left at each step."""
        return self._scheduler().alphas_cumprod.to(self.device)

    @property
    def grid(self) -> int:
        """Pixels per latent; sides of pictures are multiples of it times the UNet's own halvings."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def encode_text(self, prompts: Sequence[str]) -> torch.Tensor:
        """(n, tokens, width) in the UNet's type. Weights "(x:1.3)" and prompts beyond the context are understood."""
        return encode(prompts, self.tokenizer, self.text_encoder).to(self.device, self.dtype)

    @torch.no_grad()
    def encode_image(self, rgbs: Sequence[Rgb], sample: bool = False) -> torch.Tensor:
        """(n, channels, H / grid, W / grid) scaled latents: the mean, or a `sample` of the posterior."""
        pixels = _to_tensor(rgbs).to(self.device, self.vae.dtype) * 2 - 1
        posterior = self.vae.encode(pixels).latent_dist
        latents = posterior.sample() if sample else posterior.mode()
        return (latents * self.vae.config.scaling_factor).to(self.dtype)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> list[Rgb]:
        pixels = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor).sample
        bytes_ = (pixels.float() * 127.5 + 127.5).clamp(0, 255).round().byte()
        return list(bytes_.permute(0, 2, 3, 1).cpu().numpy())

    @torch.inference_mode()
    def inpaint(self, request: InpaintRequest, on_step: OnStep = lambda done, total: None) -> list[Rgb]:
        """`request.count` pictures: new inside the mask, `request.image` bit for bit where the blurred mask is 0.

        Raises OutOfGpuMemory, and whatever `on_step` raises (after each executed step).
        """
        # A control that counts for nothing costs a pass all the same, and its network may not even be there.
        request = replace(request, controls=tuple(control for control in request.controls if control.weight > 0))
        with _memory_as_our_error():
            blurred = None if request.mask is None else _blurred(request)
            latents = self._denoised(request, blurred, on_step)
            pictures = self.decode(latents)
        if blurred is None:
            return pictures
        return [overlaid(request.image, picture, blurred) for picture in pictures]

    def _denoised(self, request: InpaintRequest, blurred: Mask | None, on_step: OnStep) -> torch.Tensor:
        original = self.encode_image([request.image]).expand(request.count, -1, -1, -1)
        total = request.executed_steps
        if total == 0:
            return original
        generators = [torch.Generator().manual_seed(request.seed + k) for k in range(request.count)]
        noise = self._noise(original, generators)
        inside = None if blurred is None else self._latent_mask(blurred, original)
        scheduler = self._scheduler()
        scheduler.set_timesteps(request.steps, device=self.device)
        scheduler.set_begin_index(request.steps - total)
        timesteps = scheduler.timesteps[request.steps - total :]
        text = self.encode_text([request.negative, request.prompt]).repeat_interleave(request.count, dim=0)
        hints = [self._hint(control, 2 * request.count) for control in request.controls]
        latents = scheduler.add_noise(original, noise, timesteps[:1])
        for done, timestep in enumerate(timesteps, start=1):
            predicted = self._guided(latents, timestep, text, request, hints)
            fresh = self._noise(original, generators)
            latents = scheduler.step(predicted, timestep, latents, variance_noise=fresh).prev_sample
            if inside is not None:
                kept = original if done == total else scheduler.add_noise(original, noise, timesteps[done : done + 1])
                latents = kept + (latents - kept) * inside
            on_step(done, total)
        return latents

    def _guided(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        text: torch.Tensor,
        request: InpaintRequest,
        hints: Sequence[torch.Tensor],
    ) -> torch.Tensor:
        """The noise, guided away from the negative prompt; both branches in one batch, controls on both."""
        both = torch.cat([latents, latents])
        down: list[torch.Tensor] | None = None
        middle: torch.Tensor | None = None
        for control, hint in zip(request.controls, hints, strict=True):
            shallow, deep = self.controlnets[control.name](both, timestep, text, hint, return_dict=False)
            factors = injection_factors(len(shallow) + 1, control.weight, control.soft)
            scaled = [residual * factor for residual, factor in zip(shallow, factors[:-1], strict=True)]
            down = scaled if down is None else [a + b for a, b in zip(down, scaled, strict=True)]
            middle = deep * factors[-1] if middle is None else middle + deep * factors[-1]
        predicted = self.unet(
            both,
            timestep,
            encoder_hidden_states=text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
        without, with_prompt = predicted.chunk(2)
        return without + request.guidance * (with_prompt - without)

    def _hint(self, control: Control, batch: int) -> torch.Tensor:
        picture = _to_tensor([control.picture]).to(self.device, self.dtype)
        return picture.expand(batch, -1, -1, -1)

    def _noise(self, like: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Drawn on the CPU, one generator per candidate: the same seed gives the same noise on every device and
        whatever the number of candidates."""
        drawn = [torch.randn(like.shape[1:], generator=generator) for generator in generators]
        return torch.stack(drawn).to(like.device, like.dtype)

    def _latent_mask(self, blurred: Mask, latents: torch.Tensor) -> torch.Tensor:
        mask = torch.from_numpy(blurred)[None, None]
        small = functional.interpolate(mask, latents.shape[-2:], mode="area")
        return small.round().to(latents.device, latents.dtype)

    def _scheduler(self) -> DPMSolverMultistepScheduler:
        """A fresh "DPM++ 2M SDE Karras" on the model's own noise schedule (schedulers carry state)."""
        scheduler: DPMSolverMultistepScheduler = DPMSolverMultistepScheduler.from_config(
            dict(self.scheduler_config), algorithm_type="sde-dpmsolver++", use_karras_sigmas=True
        )
        return scheduler


def chosen_device(wanted: str) -> str:
    """ "auto" is a GPU where there is one; anything else is taken at its word."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def injection_factors(residuals: int, weight: float, soft: bool) -> list[float]:
    """Factor of every residual, shallowest first, the middle block's last.

    SD1.5 has thirteen: weight x 0.825^(12 - i). With fewer residuals the same fall is spread over them.
    """
    if not soft:
        return [weight] * residuals
    return [weight * SOFTNESS ** (12 * (1 - i / (residuals - 1))) for i in range(residuals)]


def overlaid(image: Rgb, picture: Rgb, blurred: Mask) -> Rgb:
    """`picture` over `image` by twice the blurred mask: full where it is at least a half, nothing where it is 0."""
    weight = np.rint(np.clip(2 * blurred, 0, 1) * 255)[..., None] / 255
    mixed = np.rint(image + (picture.astype(np.float32) - image) * weight)
    return np.where(weight > 0, mixed.astype(np.uint8), image)


def _blurred(request: InpaintRequest) -> Mask:
    assert request.mask is not None
    sigma = MASK_BLUR * min(request.mask.shape) / 512 if request.mask_blur is None else request.mask_blur
    if sigma == 0:
        return request.mask
    kernel = 2 * int(2.5 * sigma + 0.5) + 1
    return cv2.GaussianBlur(request.mask, (kernel, kernel), sigma)


def _to_tensor(rgbs: Sequence[Rgb]) -> torch.Tensor:
    """(n, 3, H, W) float32 in 0..1."""
    return torch.from_numpy(np.stack(rgbs)).permute(0, 3, 1, 2).float() / 255


@contextlib.contextmanager
def _memory_as_our_error() -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise OutOfGpuMemory(str(error)) from error
