"""One optimizer step of the LoRA training. On a GPU the whole of it (text encoder, forward, backward, clipping, AdamW)
is one CUDA graph, recorded once: people's weights and pictures come and go in tensors that stay where they are.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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

Part = tuple[Tensor, list[Tensor]]

REHEARSALS = 3  # eager steps before the recording: libraries choose their algorithms and make their handles
FIRST_LOSS_SCALE = 2.0**14  # of float16; what it doubles after and halves by is torch's GradScaler's
GROWTH_INTERVAL = 2000


@dataclass(frozen=True)
class StepNumbers:
    """All that a recorded step has fixed in it."""

    rank: int
    alpha: int
    learning_rate: float
    up_rate: float
    snr_cap: float
    text_encoder_rate: float
    weight_decay: float
    clip_grad: float
    memory_gib: float
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
        self._places = torch.ones(numbers.batch_shape[0], 1, *numbers.batch_shape[2:], device=self._device)
        self._weights = _timestep_weights(self._kept_variance, numbers.snr_cap)
        self.loss = torch.zeros((), device=self._device)
        self._scaler = _LossScale(self._device) if self._dtype == torch.float16 else None
        self._gradients = [torch.zeros_like(master).detach() for master in self.lora.masters]
        self._optimizer = self._new_optimizer()
        self._rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._lanes = _lanes(numbers.batch_shape[0]) if self._device.type == "cpu" else None
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

    def __call__(
        self, latents: Tensor, noise: Tensor, timesteps: Tensor, places: Tensor | None = None, rate: float = 1.0
    ) -> None:
        """Trains on a batch (on the CPU, float32). On a GPU it returns while the step runs, after the one before it.

        `places` (n, 1, h, w) says how much each place's error counts, 1 on average; `rate` is of the learning rate.
        """
        pairs = [(self._latents, latents), (self._noise, noise), (self._timesteps, timesteps)]
        pairs += [] if places is None else [(self._places, places)]
        self._set_rate(rate)
        for place, given in pairs:
            place.copy_(given.pin_memory() if self._graph else given, non_blocking=True)
        if self._graph is None:
            self._step()
            return
        self._graph.replay()
        if self._before:
            self._before.synchronize()
        self._before = torch.cuda.Event()
        self._before.record()

    def saved(self) -> tuple[State, dict[str, Tensor]]:
        """Copies on the CPU of the weights, and of what the optimizer remembers."""
        named, masters = self._optimizer_tensors(), self.lora.masters
        copies = on_cpu([*masters, *(tensor for tensors in named.values() for tensor in tensors)])
        rest = iter(copies[len(masters) :])
        optimizer = {f"{kind}.{k}": next(rest) for kind, tensors in named.items() for k in range(len(tensors))}
        return self.lora.named(copies[: len(masters)]), optimizer

    def load(self, lora: State, optimizer_state: Mapping[str, Tensor]) -> None:
        """Goes on from where both were taken."""
        self.lora.load(lora)
        for kind, tensors in self._optimizer_tensors().items():
            for k, tensor in enumerate(tensors):
                tensor.copy_(optimizer_state[f"{kind}.{k}"])

    def _new_optimizer(self) -> torch.optim.AdamW:
        rate = self.numbers.learning_rate
        on_gpu = self._device.type == "cuda"
        groups: list[dict[str, Any]] = []
        for prefix, share in ((UNET, 1.0), (TEXT, self.numbers.text_encoder_rate)):
            masters = self.lora.masters_of(prefix)
            for own, factor in ((masters[::2], 1.0), (masters[1::2], self.numbers.up_rate)):
                # A tensor, because a recording reads it anew in every replay.
                lr: Any = torch.tensor(rate * share * factor, device=self._device) if on_gpu else rate * share * factor
                groups += [{"params": own, "lr": lr}] if own else []
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

    def _set_rate(self, share: float) -> None:
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * share)
            else:
                group["lr"] = rate * share

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
        at_once = min(self.at_once, -(-count // self._lanes.count)) if self._lanes else self.at_once
        parts = [slice(at, min(at + at_once, count)) for at in range(0, count, at_once)]
        self.loss.zero_()
        for number, (loss, gradients) in enumerate(
            self._lanes.all(self._part, parts) if self._lanes else map(self._part, parts)
        ):
            self._keep(gradients, first=number == 0)
            self.loss.add_(loss)
        self._update()

    def _part(self, part: slice) -> Part:
        """Its share of the loss, and the gradients of that."""
        loss = self._loss(part) * ((part.stop - part.start) / len(self._latents))
        scaled = loss * self._scaler.scale if self._scaler else loss
        return loss.detach(), self.lora.gradients(scaled)

    def _loss(self, part: slice) -> Tensor:
        latents, noise, timesteps = self._latents[part], self._noise[part], self._timesteps[part]
        kept = self._kept_variance[timesteps].view(-1, 1, 1, 1)
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
        text = self._text
        if text is None:
            text = encode_chunks(self._pieces, self._diffusion.text_encoder)[None].to(self._dtype)
        text = text.expand(len(latents), -1, -1)
        predicted = self._diffusion.unet(noisy.to(self._dtype), timesteps, text, return_dict=False)[0]
        errors = (predicted.float() - noise).square() * self._places[part]
        return (errors.mean((1, 2, 3)) * self._weights[timesteps]).mean()

    def _keep(self, gradients: list[Tensor], first: bool) -> None:
        """Adds them up in float32, whatever type the networks compute in."""
        if first:
            torch._foreach_copy_(self._gradients, gradients)
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


class _Lanes:
    """Threads that each compute a part of a batch: small operations do not keep the cores of a CPU busy together."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count)

    def all(self, compute: Callable[[slice], Part], parts: Sequence[slice]) -> list[Part]:
        """What `compute` makes of each part, in order."""
        cores = torch.get_num_threads()
        torch.set_num_threads(max(1, cores // self.count))
        try:
            return list(self._pool.map(compute, parts))
        finally:
            torch.set_num_threads(cores)


def _lanes(batch: int) -> _Lanes | None:
    count = min(batch, torch.get_num_threads())
    return _Lanes(count) if count > 1 else None


def _timestep_weights(kept_variance: Tensor, cap: float) -> Tensor:
    """(train steps,) how much a timestep's error counts, 1 on average: min(SNR, cap) / SNR, or all alike without a
    cap. Nearly clean pictures have the largest errors and the least to say of a face."""
    if cap == 0:
        return torch.ones_like(kept_variance)
    snr = kept_variance / (1 - kept_variance)
    weights = snr.clamp(max=cap) / snr
    return weights / weights.mean()


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
