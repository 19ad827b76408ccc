"""Figure 1, box "LoRA training": noise prediction on cached latents, with checkpoints that resume exactly.

All randomness of a step comes from (seed, step), so a checkpoint holds the weights and the optimizer and nothing else.
While a checkpoint is yielded, the model carries its weights.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from engine import lora
from engine.config import TrainingConfig
from engine.images import write_whole
from engine.lora_step import LoraStep, StepNumbers
from engine.types import Points, Rgb

if TYPE_CHECKING:
    from engine.diffusion import Diffusion

ENCODED_AT_ONCE = 8
TRAIN_TIMESTEPS = 1000
FEATURE_REACH = 0.047  # of the canvas: how far around brows, eyes, nose and mouth errors count more
RESUME = "resume.safetensors"  # the step and the optimizer's state of the last checkpoint
LAYOUT = 2  # of the files
KEPT = "training"  # the recorded step's name among what the diffusion keeps

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class TrainingSet:
    """`latents` (photos, variants, channels, height, width) float32 on the CPU, how much each place's error counts
    (photos, 1, height, width), the caption of them all, and a digest of the pictures that they were made of."""

    latents: Tensor
    places: Tensor
    caption: str
    digest: str


@dataclass(frozen=True)
class Checkpoint:
    step: int
    file: Path
    written: Future[None] | None = None  # None: the file is there

    @property
    def weights(self) -> lora.State:
        """Read from the file, float32."""
        if self.written:
            self.written.result()
        return load_file(self.file)


def training_set(
    crops: Sequence[Rgb],
    caption: str,
    diffusion: Diffusion,
    config: TrainingConfig,
    landmarks: Sequence[Points] | None = None,
) -> TrainingSet:
    """Encodes each crop once per variant; the autoencoder is not needed again until validation.

    `landmarks` are the 68 of each crop's face; without them every place counts alike.
    """
    rng = np.random.default_rng(config.seed)
    pictures = [varied(crop, k, rng, config.mirror) for crop in crops for k in range(config.variants)]
    batches = [pictures[at : at + ENCODED_AT_ONCE] for at in range(0, len(pictures), ENCODED_AT_ONCE)]
    latents = torch.cat([diffusion.encode_image(batch).float().cpu() for batch in batches])
    digest = hashlib.sha256(b"".join(crop.tobytes() for crop in crops)).hexdigest()
    places = torch.ones(len(crops), 1, *latents.shape[2:])
    if landmarks is not None:
        places += config.face_weight * torch.stack(
            [face_places(p, diffusion.grid, places.shape[2:]) for p in landmarks]
        )
        places /= places.mean((2, 3), keepdim=True)
    return TrainingSet(latents.reshape(len(crops), config.variants, *latents.shape[1:]), places, caption, digest)


def face_places(landmarks: Points, grid: int, shape: Sequence[int]) -> Tensor:
    """(1, height, width) in 0..1 for latents of that `shape`: 1 near brows, eyes, nose and mouth, of 68 landmarks in
    pixels of a canvas with `grid` pixels a latent."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] * grid + (grid - 1) / 2
    features = np.asarray(landmarks[17:], np.float64)
    squared = (rows[..., None] - features[:, 1]) ** 2 + (columns[..., None] - features[:, 0]) ** 2
    reach = FEATURE_REACH * shape[0] * grid
    near = np.minimum(1, 1.3 * np.exp(-squared.min(-1) / (2 * reach**2)))
    return torch.from_numpy(near).float()[None]


def varied(crop: Rgb, variant: int, rng: np.random.Generator, mirror: bool) -> Rgb:
    """The crop itself (variant 0), or a copy moved, turned, scaled and relit as another shot might be."""
    if variant == 0:
        return crop
    height, width = crop.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-5, 5), rng.uniform(0.94, 1.1))
    matrix[:, 2] += rng.uniform(-0.03, 0.03, 2) * (width, height)
    moved = cv2.warpAffine(crop, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    if mirror and variant % 2:
        moved = moved[:, ::-1]
    lit = moved * rng.uniform(0.9, 1.1) * rng.uniform(0.97, 1.03, 3) + rng.uniform(-8, 8)
    return np.rint(lit).clip(0, 255).astype(np.uint8)


def checkpoints(
    data: TrainingSet, steps: int, diffusion: Diffusion, config: TrainingConfig, folder: Path, on_step: OnStep
) -> Generator[Checkpoint]:
    """Trains up to `steps` and yields every checkpoint in order, those of an earlier run of the same training too.

    `folder` belongs to this training alone; what another set of photos or numbers left in it is thrown away. Whatever
    `on_step` raises ends the training; the folder then holds all up to the last checkpoint.
    """
    with _begun(data, diffusion, config) as step:
        yield from _course(step, data, steps, config, folder, on_step)


@contextmanager
def rehearsed(data: TrainingSet, diffusion: Diffusion, config: TrainingConfig) -> Iterator[lora.State]:
    """Within the block the model is as at a checkpoint of a training of these numbers, one step old. Nothing is written
    and nothing of `data` stays; what the step had to record does."""
    with _begun(data, diffusion, config) as step:
        step(*_batch(data, 0, config))
        yield step.lora.state()


@contextmanager
def _begun(data: TrainingSet, diffusion: Diffusion, config: TrainingConfig) -> Iterator[LoraStep]:
    """Within the block the model carries a new LoRA, which the step trains."""
    with _memory_of(config, diffusion):
        step = _step_of(diffusion, config, tuple(data.latents.shape[2:]), data.caption)
        try:
            with step.lora.in_model():
                step.begin(config.seed)
                yield step
        finally:
            step.forget()
            if config.memory_gib:  # where memory is scarce, portraits get it back
                diffusion.kept.pop(KEPT, None)


def _course(
    step: LoraStep, data: TrainingSet, steps: int, config: TrainingConfig, folder: Path, on_step: OnStep
) -> Generator[Checkpoint]:
    writer = ThreadPoolExecutor(1)  # the next steps run while a checkpoint is written
    written: Future[None] | None = None
    done = 0
    try:
        for saved, optimizer_state in _resumed(folder, _fingerprint(data, steps, config)):
            step.load(saved.weights, optimizer_state)
            done = saved.step
            yield saved
        while done < steps:
            step(*_batch(data, done, config), _rate(done, steps, config.cool_down))
            done += 1
            if done % config.validation_steps == 0 or done == steps:
                if written:
                    written.result()  # the copies of the one before have their memory for the next ones
                written = writer.submit(_save, folder, done, *step.saved())
                yield Checkpoint(done, _lora_file(folder, done), written)
            on_step(done, steps)
        if written:
            written.result()
    finally:
        writer.shutdown()


@contextmanager
def _memory_of(config: TrainingConfig, diffusion: Diffusion) -> Iterator[None]:
    """Within the block this process holds at most `memory_gib` of the GPU."""
    if not config.memory_gib or diffusion.device.type != "cuda":
        yield
        return
    whole = torch.cuda.get_device_properties(diffusion.device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, config.memory_gib * 2**30 / whole), diffusion.device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, diffusion.device)


def _step_of(diffusion: Diffusion, config: TrainingConfig, latent: tuple[int, ...], caption: str) -> LoraStep:
    """The recorded step: the one of the training before where its numbers are the same, whoever was trained."""
    numbers = StepNumbers.of(config, (config.batch * config.accumulation, *latent), caption)
    kept = diffusion.kept.get(KEPT)
    if kept is None or kept.numbers != numbers:
        diffusion.kept.pop(KEPT, None)
        del kept  # its memory is free before the new one takes its own
        diffusion.kept[KEPT] = LoraStep(diffusion, numbers)
    step: LoraStep = diffusion.kept[KEPT]
    return step


def _rate(done: int, steps: int, cool_down: float) -> float:
    """Share of the learning rate: 1, at the end falling in a straight line."""
    return min(1.0, (steps - done) / max(1.0, cool_down * steps))


def _batch(data: TrainingSet, number: int, config: TrainingConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, noise, timesteps and places of a step. Every photo comes equally often, every timestep range too."""
    count, seed = config.batch * config.accumulation, config.seed
    draw = torch.Generator().manual_seed(seed * 1_000_003 + number)
    photos = torch.tensor([_photo_at(number * count + k, len(data.latents), seed) for k in range(count)])
    variants = torch.randint(data.latents.shape[1], (count,), generator=draw)
    latents = data.latents[photos, variants]
    noise = torch.randn(latents.shape, generator=draw)
    strata = (torch.arange(count) + torch.rand(count, generator=draw)) / count
    return latents, noise, (strata * TRAIN_TIMESTEPS).long(), data.places[photos]


def _photo_at(place: int, photos: int, seed: int) -> int:
    """Which photo stands at `place` of the endless row of shuffled epochs."""
    epoch, position = divmod(place, photos)
    shuffled = torch.randperm(photos, generator=torch.Generator().manual_seed(seed * 7919 + epoch))
    return int(shuffled[position])


def _fingerprint(data: TrainingSet, steps: int, config: TrainingConfig) -> str:
    """Of everything that decides the weights, and of the files' layout."""
    return json.dumps([LAYOUT, config.model_dump(mode="json"), steps, data.caption, data.digest])


def _lora_file(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06}.safetensors"


def _save(folder: Path, step: int, weights: lora.State, optimizer_state: dict[str, Tensor]) -> None:
    """The LoRA first: whoever finds the optimizer's state finds the LoRA of that step too."""
    _write(_lora_file(folder, step), weights)
    _write(folder / RESUME, {"at": torch.tensor(float(step)), **optimizer_state})


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file of float32 tensors, written from where they lie: the library's own function copies them three
    times and lets no other thread run meanwhile, while a GPU waits for its next step."""
    header: dict[str, Any] = {}
    pieces, end = [], 0
    for name, tensor in tensors.items():
        pieces.append(tensor.float().contiguous().reshape(-1).numpy().view(np.uint8).data)
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [end, end + len(pieces[-1])]}
        end += len(pieces[-1])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    write_whole(path, len(text).to_bytes(8, "little") + text, *pieces)


def _resumed(folder: Path, fingerprint: str) -> list[tuple[Checkpoint, dict[str, Tensor]]]:
    """The checkpoints of an earlier run, each with the last one's optimizer state; a foreign folder is emptied."""
    described = folder / "training.json"
    if not described.is_file() or described.read_text(encoding="utf-8") != fingerprint:
        shutil.rmtree(folder, ignore_errors=True)
        write_whole(described, fingerprint.encode())
        return []
    if not (folder / RESUME).is_file():
        return []
    optimizer_state = load_file(folder / RESUME)
    last = int(optimizer_state.pop("at"))
    found = [(int(path.stem.removeprefix("step-")), path) for path in sorted(folder.glob("step-*.safetensors"))]
    return [(Checkpoint(step, path), optimizer_state) for step, path in found if step <= last]
