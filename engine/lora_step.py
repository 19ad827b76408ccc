"""One optimizer step of the LoRA training. On a GPU the whole of it (text encoder, forward, backward, clipping, AdamW)
is one CUDA graph, recorded once: people's weights and pictures come and go in tensors that stay where they are.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from engine.config import TrainingConfig
from engine.diffusion.prompt import Chunk, chunks, encode_chunks
from engine.lora import TEXT, UNET, State
from engine.lora_layers import TrainableLora, on_cpu

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from engine.diffusion import Diffusion

logger = logging.getLogger(__name__)

REHEARSALS = 3  # eager steps before the recording: libraries choose their algorithms and make their handles
FIRST_LOSS_SCALE = 2.0**14  # of float16; what it doubles after and halves by is torch's GradScaler's
GROWTH_INTERVAL = 2000


@dataclass(frozen=True)
class StepNumbers:
    """All that a recorded step has fixed in it."""

    rank: int
    alpha: int
    learning_rate: float
    text_encoder_rate: float
    weight_decay: float
    clip_grad: float
    batch_shape: tuple[int, ...]  # of the latents
    caption: str

    @classmethod
    def of(cls, config: TrainingConfig, batch_shape: tuple[int, ...], caption: str) -> StepNumbers:
        shared = {name: getattr(config, name) for name in cls.__annotations__ if name in type(config).model_fields}
        return cls(**shared, batch_shape=batch_shape, caption=caption)


class LoraStep:
    """The step, the weights that it changes and the optimizer's state; of one training at a time.

    Construction records the step (seconds on a GPU); `begin` and `load` then set it to any training of these numbers.
    """

    def __init__(self, diffusion: Diffusion, numbers: StepNumbers) -> None:
        self.numbers = numbers
        self._diffusion = diffusion
        self._device, self._dtype = diffusion.device, diffusion.dtype
        self.lora = TrainableLora.of(diffusion, numbers.rank, numbers.alpha, numbers.text_encoder_rate > 0)
        self._pieces: Sequence[Chunk] = [c.to(self._device) for c in chunks(numbers.caption, diffusion.tokenizer)]
        self._text = None if numbers.text_encoder_rate else diffusion.encode_text([numbers.caption]).detach()
        self._kept_variance = diffusion.alphas_cumprod.float()
        self._latents = torch.zeros(numbers.batch_shape, device=self._device)
        self._noise = torch.zeros_like(self._latents)
        self._timesteps = torch.zeros(numbers.batch_shape[0], dtype=torch.long, device=self._device)
        self.loss = torch.zeros((), device=self._device)
        self._scaler = _LossScale(self._device) if self._dtype == torch.float16 else None
        self._gradients = [torch.zeros_like(master).detach() for master in self.lora.masters]
        self._optimizer = self._new_optimizer()
        self.at_once = numbers.batch_shape[0]  # one true batch, as long as it fits into memory
        self.recomputes = False  # activations, where not even one picture fits otherwise
        self._before: torch.cuda.Event | None = None
        self._graph = self._recorded_as_fits() if self._device.type == "cuda" else None

    def begin(self, seed: int) -> None:
        """A new training: weights by `seed`, an optimizer that has seen nothing."""
        self.forget()
        self.lora.begin(seed)

    def forget(self) -> None:
        """Zeros in all that a training left."""
        self.lora.forget()
        for tensors in self._optimizer_tensors().values():
            torch._foreach_zero_(tensors)
        if self._scaler:
            self._scaler.begin()

    def __call__(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> None:
        """Trains on a batch (on the CPU, float32). On a GPU it returns while the step runs, after the one before it."""
        for place, given in ((self._latents, latents), (self._noise, noise), (self._timesteps, timesteps)):
            place.copy_(given.pin_memory() if self._graph else given, non_blocking=True)
        if self._graph is None:
            self._step()
            return
        self._graph.replay()
        if self._before:
            self._before.synchronize()
        self._before = torch.cuda.Event()
        self._before.record()

    def optimizer_state(self) -> dict[str, Tensor]:
        """Copies on the CPU of what the optimizer remembers."""
        named = self._optimizer_tensors()
        copies = iter(on_cpu([tensor for tensors in named.values() for tensor in tensors]))
        return {f"{kind}.{k}": next(copies) for kind, tensors in named.items() for k in range(len(tensors))}

    def load(self, lora: State, optimizer_state: Mapping[str, Tensor]) -> None:
        """Goes on from where both were taken."""
        self.lora.load(lora)
        for kind, tensors in self._optimizer_tensors().items():
            for k, tensor in enumerate(tensors):
                tensor.copy_(optimizer_state[f"{kind}.{k}"])

    def _new_optimizer(self) -> torch.optim.AdamW:
        rate = self.numbers.learning_rate
        groups: list[dict[str, Any]] = [{"params": self.lora.masters_of(UNET), "lr": rate}]
        if text := self.lora.masters_of(TEXT):
            groups.append({"params": text, "lr": rate * self.numbers.text_encoder_rate})
        on_gpu = self._device.type == "cuda"
        fused = True if on_gpu or self._scaler else None
        optimizer = torch.optim.AdamW(groups, weight_decay=self.numbers.weight_decay, fused=fused, capturable=on_gpu)
        for master, gradient in zip(self.lora.masters, self._gradients, strict=True):
            master.grad = gradient
            # As the optimizer itself makes it at its first step; a recording needs it before.
            optimizer.state[master] = {
                "step": torch.zeros((), device=self._device),
                "exp_avg": torch.zeros_like(master),
                "exp_avg_sq": torch.zeros_like(master),
            }
        return optimizer

    def _optimizer_tensors(self) -> dict[str, list[Tensor]]:
        states = [self._optimizer.state[master] for master in self.lora.masters]
        named = {kind: [state[kind] for state in states] for kind in ("step", "exp_avg", "exp_avg_sq")}
        return {**named, "scale": self._scaler.tensors} if self._scaler else named

    def _recorded_as_fits(self) -> torch.cuda.CUDAGraph:
        while True:
            try:
                with self.lora.in_model(), _recomputing(self._diffusion.unet, self.recomputes):
                    return self._recorded()
            except torch.cuda.OutOfMemoryError:
                if self.recomputes:
                    raise
            self._take_less()

    def _take_less(self) -> None:
        if self.at_once > 1:
            self.at_once = (self.at_once + 1) // 2
        else:
            self.recomputes = True
        logger.warning(
            "out of GPU memory: %d pictures at once%s", self.at_once, ", activations recomputed" * self.recomputes
        )
        torch.cuda.empty_cache()

    def _recorded(self) -> torch.cuda.CUDAGraph:
        self.forget()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(REHEARSALS):
                self._step()
        torch.cuda.current_stream().wait_stream(aside)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        return graph

    def _step(self) -> None:
        count = len(self._latents)
        self.loss.zero_()
        for at in range(0, count, self.at_once):
            part = slice(at, min(at + self.at_once, count))
            loss = self._loss(part) * ((part.stop - at) / count)
            scaled = loss * self._scaler.scale if self._scaler else loss
            self._keep(torch.autograd.grad(scaled, self.lora.worn), first=at == 0)
            self.loss.add_(loss.detach())
        self._update()

    def _loss(self, part: slice) -> Tensor:
        latents, noise, timesteps = self._latents[part], self._noise[part], self._timesteps[part]
        kept = self._kept_variance[timesteps].view(-1, 1, 1, 1)
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
        text = self._text
        if text is None:
            text = encode_chunks(self._pieces, self._diffusion.text_encoder)[None].to(self._dtype)
        text = text.expand(len(latents), -1, -1)
        predicted = self._diffusion.unet(noisy.to(self._dtype), timesteps, text, return_dict=False)[0]
        return nn.functional.mse_loss(predicted.float(), noise)

    def _keep(self, gradients: Sequence[Tensor], first: bool) -> None:
        """Adds them up in float32, whatever type the networks compute in."""
        if first:
            torch._foreach_copy_(self._gradients, list(gradients))
            return
        for total, more in zip(self._gradients, gradients, strict=True):
            total.add_(more)

    def _update(self) -> None:
        if self._scaler:
            self._scaler.unscale(self._gradients)
        norm = nn.utils.clip_grad_norm_(self.lora.masters, self.numbers.clip_grad)
        if self._scaler:
            self._scaler.skip_unless_finite(norm, self._optimizer)
        self._optimizer.step()
        self.lora.wear()


class _LossScale:
    """What torch's GradScaler does, without waiting for the device: small gradients are lifted into float16's range,
    and a step whose gradients left it is skipped and the scale halved."""

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((), FIRST_LOSS_SCALE, device=device)
        self._good_steps = torch.zeros((), dtype=torch.int32, device=device)

    @property
    def tensors(self) -> list[Tensor]:
        return [self.scale, self._good_steps]

    def begin(self) -> None:
        self.scale.fill_(FIRST_LOSS_SCALE)
        self._good_steps.zero_()

    def unscale(self, gradients: list[Tensor]) -> None:
        torch._foreach_mul_(gradients, self.scale.reciprocal())

    def skip_unless_finite(self, norm: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Tells the (fused) optimizer whether to step, and sets the next step's scale."""
        overflown = (~torch.isfinite(norm)).float()
        optimizer.found_inf = overflown  # type: ignore[attr-defined]  # the name that torch's GradScaler uses, too
        torch._amp_update_scale_(self.scale, self._good_steps, overflown, 2.0, 0.5, GROWTH_INTERVAL)


@contextlib.contextmanager
def _recomputing(unet: UNet2DConditionModel, wanted: bool) -> Iterator[None]:
    """Within the block backward passes compute activations again instead of keeping them."""
    if wanted:
        unet.enable_gradient_checkpointing(_recomputed)
    try:
        yield
    finally:
        if wanted:
            unet.disable_gradient_checkpointing()


def _recomputed(block: nn.Module, *inputs: Any) -> Any:
    # Nothing here is random, and a recording cannot ask for the state of the random numbers.
    return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
