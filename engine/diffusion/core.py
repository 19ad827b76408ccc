"""SD1.5-shaped diffusion: text, latents, ControlNets and the inpainting loop of the reference system.

What diffusers' own pipelines do otherwise and this does as the reference's web UI: soft injection of ControlNet
residuals on both branches of the guidance, a mask that is blurred once for all, rounded for the latents and laid over
the pixels, so that nothing outside it changes by even one level.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from engine.crop import blend
from engine.diffusion.capture import Function, Graphs, identity
from engine.diffusion.guided import GuidedNoise, Streams, hint
from engine.diffusion.prompt import encode
from engine.diffusion.sampling import Sampler, Trajectory, dpm_scheduler
from engine.errors import OutOfGpuMemory
from engine.types import Mask, Rgb

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

logger = logging.getLogger(__name__)

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
    sampler: Sampler = Sampler.DPM
    mask_blur: float | None = None  # None: MASK_BLUR in proportion to the canvas

    @property
    def executed_steps(self) -> int:
        return self.sampler.executed(self.steps, self.strength)


@dataclass(frozen=True)
class Painting:
    """What a pass made of a picture, and what the autoencoder alone makes of it (inside the mask). The latter is there
    while a GPU is still at work on the former."""

    unchanged: Rgb
    made: Callable[[], list[Rgb]]  # waits until they are

    @cached_property
    def pictures(self) -> list[Rgb]:
        return self.made()


@dataclass
class Diffusion:
    """The networks of one model and what is done with them. Pictures go in and come out as RGB uint8.

    On CUDA a pass replays CUDA graphs; they are recorded when a pass of its shape is first asked for.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    controlnets: Mapping[str, ControlNetModel] = field(default_factory=dict)
    scheduler_config: Mapping[str, Any] = field(default_factory=dict)
    graphs: Graphs = field(default_factory=Graphs)
    streams: Streams = field(default_factory=Streams)
    controls_rest: bool = False  # ControlNets wait in the CPU's memory and come for their pass alone
    # What others prepared for these very networks, by its owner's name; it lives as long as they do.
    kept: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        return _a_weight(self.unet).device

    @property
    def dtype(self) -> torch.dtype:
        return _a_weight(self.unet).dtype

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        """(train steps,) share of the signal's variance that is left at each step."""
        return dpm_scheduler(self.scheduler_config).alphas_cumprod.to(self.device)

    @property
    def grid(self) -> int:
        """Pixels per latent; sides of pictures are multiples of it times the UNet's own halvings."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def encode_text(self, prompts: Sequence[str]) -> torch.Tensor:
        """(n, tokens, width) in the UNet's type. Weights "(x:1.3)" and prompts beyond the context are understood."""
        return encode(prompts, self.tokenizer, self._text_states).to(self.device, self.dtype)

    def encode_image(self, rgbs: Sequence[Rgb]) -> torch.Tensor:
        """(n, channels, H / grid, W / grid) scaled latents, the posterior's mean, in the UNet's type."""
        with torch.inference_mode():
            latents = torch.cat([self._encoding(rgb)() for rgb in rgbs]).to(self.dtype)
        return latents.clone()  # training may use it

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> list[Rgb]:
        return [made() for made in self._decoding(latents)]

    def inpaint(self, request: InpaintRequest, on_step: OnStep = lambda done, total: None) -> list[Rgb]:
        """`request.count` pictures: new inside the mask, `request.image` bit for bit where the blurred mask is 0.

        Raises OutOfGpuMemory, and whatever `on_step` raises (after each executed step).
        """
        return self.painting(request, on_step).pictures

    @torch.inference_mode()
    def painting(self, request: InpaintRequest, on_step: OnStep = lambda done, total: None) -> Painting:
        """`inpaint` and what the autoencoder alone would have made of the picture."""
        # A control that counts for nothing costs a pass all the same, and its network may not even be there.
        request = replace(request, controls=tuple(control for control in request.controls if control.weight > 0))
        with _memory_as_our_error():
            encoding = self._encoding(request.image)
            blurred = None if request.mask is None else _blurred(request)
            original = encoding()
            (decoding,) = self._decoding(original)
            unchanged = decoding()
            if request.executed_steps == 0:
                made = [decoding] * request.count
            else:
                with self._at_hand([control.name for control in request.controls]):
                    made = self._decoding(self._denoised(request, original, blurred, on_step))

        def laid_over(picture: Rgb) -> Rgb:
            return picture if blurred is None else overlaid(request.image, picture, blurred)

        return Painting(laid_over(unchanged), lambda: [laid_over(picture()) for picture in made])

    @contextlib.contextmanager
    def _at_hand(self, names: Sequence[str]) -> Iterator[None]:
        if not self.controls_rest:
            yield
            return
        for name in names:
            self.controlnets[name].to(self.device)
        try:
            yield
        finally:
            for name in names:
                self.controlnets[name].to("cpu")

    def _denoised(
        self, request: InpaintRequest, original: torch.Tensor, blurred: Mask | None, on_step: OnStep
    ) -> torch.Tensor:
        seeds = [request.seed + k for k in range(request.count)]
        course = Trajectory(request.sampler, self.scheduler_config, request.steps, request.strength, seeds)
        inside = None if blurred is None else _latent_mask(blurred, original)
        latents = course.begin(original)
        timesteps = course.timesteps.to(self.device)
        noise, constants = self._noise_of(request, latents, timesteps[:1])
        for done in range(1, course.total + 1):
            predicted = noise(latents.to(self.dtype), timesteps[done - 1 : done], *constants)
            latents = course.advanced(latents, predicted)
            if inside is not None:
                kept = course.kept()
                latents = kept + (latents - kept) * inside
            on_step(done, course.total)
        return latents

    def _noise_of(
        self, request: InpaintRequest, latents: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[Function, list[torch.Tensor]]:
        """The function that predicts noise from latents and timestep, and its other arguments."""
        networks = [self.controlnets[control.name] for control in request.controls]
        prompts = [request.prompt] if request.guidance == 1 else [request.negative, request.prompt]
        constants = [
            self.encode_text(prompts),
            torch.tensor(request.guidance, device=self.device),
            torch.tensor(
                [injection_factors(self._residuals, control.weight, control.soft) for control in request.controls],
                device=self.device,
            ),
            *(
                hint(network, _to_tensor([control.picture], self.device).to(_a_weight(network).dtype))
                for network, control in zip(networks, request.controls, strict=True)
            ),
        ]
        inputs = [latents.to(self.dtype), timestep, *constants]
        key = ("noise", tuple(tuple(given.shape) for given in inputs), identity([self.unet, *networks]))
        return self.graphs.recorded(key, GuidedNoise(self.unet, networks, self.streams), *inputs), constants

    def _text_states(self, ids: torch.Tensor) -> torch.Tensor:
        """Recorded: twelve small layers take a fifth of the time that launching them one by one does."""
        given = ids.to(_a_weight(self.text_encoder).device)
        key = ("text", tuple(given.shape), identity([self.text_encoder]))

        def function(own: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = self.text_encoder(own)[0]
            return states

        return self.graphs.recorded(key, function, given)(given)

    @property
    def _residuals(self) -> int:
        """Of a ControlNet: one per skip of the UNet and the middle block's."""
        return sum(len(block.resnets) + bool(block.downsamplers) for block in self.unet.down_blocks) + 2

    def _encoding(self, image: Rgb) -> Callable[[], torch.Tensor]:
        """Begins; what is returned waits for the posterior's mean, in float32."""
        pixels = _to_tensor([image], self.device) * 2 - 1
        scale = self.vae.config.scaling_factor

        def mean(given: torch.Tensor) -> torch.Tensor:
            latents: torch.Tensor = self.vae.encode(given).latent_dist.mode()
            return latents

        return self._by_vae("encode", mean, pixels, lambda latents: latents.float() * scale)

    def _decoding(self, latents: torch.Tensor) -> list[Callable[[], Rgb]]:
        """Begins; what is returned waits for one picture each."""

        def sample(given: torch.Tensor) -> torch.Tensor:
            pixels: torch.Tensor = self.vae.decode(given).sample
            return pixels

        scaled = latents / self.vae.config.scaling_factor
        begun = [self._by_vae("decode", sample, one, _to_bytes) for one in scaled.split(1)]
        return [partial(_fetched, made) for made in begun]

    def _by_vae(
        self, what: str, function: Function, given: torch.Tensor, finish: Function
    ) -> Callable[[], torch.Tensor]:
        """Begins `function(given)`, recorded, and `finish`, which makes of the result one that nothing overwrites; what
        is returned waits. Some autoencoders overflow in half precision: they go on in single precision."""
        own = _a_weight(self.vae).dtype
        typed = given.to(own)
        key = (what, tuple(given.shape), identity([self.vae]))
        result = self.graphs.recorded(key, function, typed)(typed)
        finished, is_sound = finish(result), own == torch.float32 or result.isfinite().all()

        @torch.inference_mode()
        def made() -> torch.Tensor:
            if is_sound:
                return finished
            logger.warning("the autoencoder overflows in %s: it goes on in float32", own)
            self.vae.float()
            return self._by_vae(what, function, given, finish)()

        return made


def _a_weight(network: nn.Module) -> torch.Tensor:
    """All weights of a network have one type and lie on one device. Its own `dtype` and `device` walk through all its
    modules, over a millisecond each time, and a pass asks dozens of times."""
    return next(network.parameters())


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
    weight = np.rint(np.clip(2 * blurred, 0, 1) * 255) / 255
    return blend(image, picture, weight.astype(np.float32, copy=False))


def _blurred(request: InpaintRequest) -> Mask:
    assert request.mask is not None
    sigma = MASK_BLUR * min(request.mask.shape) / 512 if request.mask_blur is None else request.mask_blur
    if sigma == 0:
        return request.mask
    kernel = 2 * int(2.5 * sigma + 0.5) + 1
    return cv2.GaussianBlur(request.mask, (kernel, kernel), sigma)


def _to_tensor(rgbs: Sequence[Rgb], device: torch.device) -> torch.Tensor:
    """(n, 3, H, W) float32 in 0..1."""
    return torch.stack([torch.from_numpy(rgb).to(device) for rgb in rgbs]).permute(0, 3, 1, 2).float() / 255


def _to_bytes(pixels: torch.Tensor) -> torch.Tensor:
    """(H, W, 3) uint8 of (1, 3, H, W) in -1..1."""
    return (pixels[0].permute(1, 2, 0).float() * 127.5 + 127.5).clamp(0, 255).round().byte()


def _fetched(made: Callable[[], torch.Tensor]) -> Rgb:
    return made().cpu().numpy()


def _latent_mask(blurred: Mask, latents: torch.Tensor) -> torch.Tensor:
    """(1, 1, h, w) 0 or 1: latents of which more than half lies in the blurred mask."""
    small = functional.interpolate(torch.from_numpy(blurred)[None, None], latents.shape[-2:], mode="area")
    return small.round().to(latents.device, latents.dtype)


@contextlib.contextmanager
def _memory_as_our_error() -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise OutOfGpuMemory(str(error)) from error
