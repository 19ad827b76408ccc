"""LoRA on a diffusion model: put in, take out, save, load, merge. The base weights are never changed.

In memory and on disk a LoRA is one flat mapping in the layout that web UIs know (kohya): per module
`lora_unet_<path with _>` or `lora_te_text_model_<path with _>` the three tensors `.lora_down.weight` (rank, in),
`.lora_up.weight` (out, rank) and `.alpha`; the module's weights change by alpha / rank * up @ down.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from engine.errors import EngineError
from engine.images import write_whole
from engine.types import SubjectFiles

if TYPE_CHECKING:
    from engine.diffusion import Diffusion

logger = logging.getLogger(__name__)

UNET, TEXT = "lora_unet_", "lora_te_text_model_"
DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
ROUNDS = 4  # of merging: eight checkpoints of the small model then lose 1.453 % of their norm, at best 1.450 %
AT_ONCE = 2**25  # numbers of weights that are changed at once: 128 MiB in float32
HALF_MOST = torch.finfo(torch.float16).max
FACTOR_NAMES = {  # what diffusers called the two factors over time
    ".lora_A.weight": DOWN,
    ".lora_B.weight": UP,
    ".lora.down.weight": DOWN,
    ".lora.up.weight": UP,
}

State = dict[str, Tensor]


class UnknownLora(EngineError):
    """A file is no LoRA for this kind of model."""


def modules(diffusion: Diffusion, with_text: bool = True) -> dict[str, tuple[nn.Module, str]]:
    """By kohya name the modules that a LoRA acts on: linear layers and 1x1 convolutions inside transformers."""
    unet = unet_modules(diffusion.unet)
    text = {
        TEXT + path.removeprefix("text_model.").replace(".", "_"): (diffusion.text_encoder, path)
        for path, module in diffusion.text_encoder.named_modules()
        if "encoder.layers." in path and _is_linear(module)
    }
    return {**unet, **text} if with_text else unet


def unet_modules(unet: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Those of the UNet alone."""
    return {
        UNET + path.replace(".", "_"): (unet, path)
        for path, module in unet.named_modules()
        if ".attentions." in path and _is_linear(module)
    }


@contextmanager
def applied(diffusion: Diffusion, lora: Path | State, weight: float) -> Iterator[None]:
    """Within the block the model works with `lora` (a file or a state) at `weight`; afterwards as before, bit for bit.

    It is added to the weights in place: it costs nothing per step, and what remembers their addresses (CUDA graphs)
    stays valid from one person to the next. Every layer that it names takes part, convolutions too (few-step LoRAs).
    """
    state = load_kohya(lora, diffusion.device) if isinstance(lora, Path) else lora
    layers = _layers(diffusion)
    weights = {name: layers[name].weight for name in names(state) if name in layers}
    if not weights:
        raise UnknownLora("the LoRA was made for another kind of model: none of its layers exist in this one")
    if len(weights) < len(names(state)):
        logger.warning(
            "%d of %d LoRA layers do not exist in this model", len(names(state)) - len(weights), len(weights)
        )
    before: list[tuple[list[Tensor], list[Tensor]]] = []
    try:
        with torch.no_grad():
            for alike in _alike(state, weights):
                own = [weights[name] for name in alike]
                kept = torch.stack(own)
                before.append((own, list(kept.unbind())))
                changes = _changes(state, alike, weight, kept.device).view(kept.shape)
                torch._foreach_add_(own, list(changes.unbind()))
        yield
    finally:
        with torch.no_grad():
            for own, unchanged in before:
                torch._foreach_copy_(own, unchanged)


def names(lora: State) -> list[str]:
    """The kohya names of the modules in a LoRA, in order."""
    return [key.removesuffix(DOWN) for key in lora if key.endswith(DOWN)]


def merge(states: Sequence[State], weights: Sequence[float], device: torch.device | str = "cpu") -> State:
    """The weighted sum of the weight UPDATES up @ down, as one LoRA of the first one's rank, worked out on `device`
    and left there, in float32.

    Averaging the factors one by one, as the reference does, gives products of unlike checkpoints. Here the factors are
    laid side by side, which is exact, and cut back to the rank (`_cut_to_rank`).
    """
    result: State = {}
    for alike in _grouped(names(states[0]), _sizes(states[0]).__getitem__):
        first, alpha = states[0][alike[0] + DOWN], _alpha(states[0], alike[0])
        rank, ups, downs = first.shape[0], [], []
        for lora, weight in zip(states, weights, strict=True):
            scales = [weight * _alpha(lora, name) / lora[name + DOWN].shape[0] for name in alike]
            up, down = (torch.stack([lora[name + part].flatten(1) for name in alike]) for part in (UP, DOWN))
            ups.append(up.to(device, torch.float32) * torch.tensor(scales, device=device)[:, None, None])
            downs.append(down.to(device, torch.float32))
        left, right = _cut_to_rank(torch.cat(ups, 2), torch.cat(downs, 1), rank)
        for k, name in enumerate(alike):
            result[name + DOWN] = right[k].reshape(rank, *first.shape[1:])
            result[name + UP] = (left[k] * (rank / alpha)).reshape(states[0][name + UP].shape)
            result[name + ALPHA] = torch.tensor(alpha)
    return {key: result[key] for name in names(states[0]) for key in (name + DOWN, name + UP, name + ALPHA)}


def save_kohya(path: Path, lora: State, metadata: Mapping[str, str], dtype: torch.dtype = torch.float16) -> None:
    """Writes a LoRA file that web UIs and diffusers load. A reader never sees half a file."""
    tensors = {key: value.to(dtype).contiguous() for key, value in lora.items()}
    first = names(lora)[0]
    described = {  # what web UIs show of the file
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(lora[first + DOWN].shape[0]),
        "ss_network_alpha": str(_alpha(lora, first)),
        **metadata,
    }
    plain = save(tensors)
    described["sshs_model_hash"] = hashlib.sha256(plain).hexdigest()
    write_whole(path, *_described_file(plain, described))


def load_kohya(path: Path, device: torch.device | str = "cpu") -> State:
    """A LoRA file, of web UIs or of diffusers, as float32 state, its factors on `device`. Raises `UnknownLora` when it
    is none."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UnknownLora(f"{path.name} is no safetensors file") from error
    renamed = {_kohya_key(key): value for key, value in tensors.items()}
    lora = {key: value for key, value in renamed.items() if key.startswith((UNET, TEXT))}
    if not names(lora) or any(name + UP not in lora for name in names(lora)):
        raise UnknownLora(f"{path.name} holds no LoRA for a Stable Diffusion 1 model")
    if others := sorted({key.rpartition(".")[2] for key in lora if not key.endswith((DOWN, UP, ALPHA))}):
        raise UnknownLora(f"{path.name} is of another kind than LoRA: it has {', '.join(others)[:80]!r}")
    if not all(_fits(lora, name) for name in names(lora)):
        raise UnknownLora(f"{path.name} is broken: its matrices do not fit together, or an alpha is none")
    alphas = {key: value.float().reshape(()) for key, value in lora.items() if key.endswith(ALPHA)}
    factors = {key: value for key, value in lora.items() if key not in alphas}
    on_device, most = _in_one_piece(list(factors.values()), torch.device(device))
    if not most <= HALF_MOST:  # so is "not a number"
        raise UnknownLora(f"{path.name} is broken: it holds numbers that half precision cannot hold")
    return dict(zip(factors, on_device, strict=True)) | alphas


def export_file(subject: Path, file: Path, diffusion: Diffusion | None = None) -> dict[str, Any]:
    """Writes a subject's LoRA to `file`: for web UIs, or with diffusers' own names if the model is given."""
    lora = load_kohya(SubjectFiles(subject).lora)
    if diffusion is None:
        save_kohya(file, lora, {})
    else:
        write_whole(file, save(_to_diffusers(lora, modules(diffusion)), {"format": "pt"}))
    return _described(file, lora)


def import_file(file: Path, subject: Path) -> dict[str, Any]:
    """Makes a LoRA file of another program, in kohya's or diffusers' layout, the LoRA of the subject in that folder."""
    lora = load_kohya(file)
    save_kohya(SubjectFiles(subject).lora, lora, {})
    return _described(SubjectFiles(subject).lora, lora)


def _described(file: Path, lora: State) -> dict[str, Any]:
    first = names(lora)[0]
    rank, alpha = lora[first + DOWN].shape[0], _alpha(lora, first)
    return {"file": str(file), "modules": len(names(lora)), "rank": rank, "alpha": alpha}


def _to_diffusers(lora: State, places: Mapping[str, tuple[nn.Module, str]]) -> State:
    """Diffusers' (peft's) names. They carry no alpha, so it goes into the up matrices."""
    result: State = {}
    for name in names(lora):
        path = places[name][1].removeprefix("text_model.")
        path = f"unet.{path}" if name.startswith(UNET) else f"text_encoder.text_model.{path}"
        scale = _alpha(lora, name) / lora[name + DOWN].shape[0]
        result[path + ".lora_A.weight"] = lora[name + DOWN].half().contiguous()
        result[path + ".lora_B.weight"] = (lora[name + UP] * scale).half().contiguous()
    return result


def _fits(lora: State, name: str) -> bool:
    """Whether a module's matrices can be multiplied, and its alpha is one."""
    down, up, alpha = lora[name + DOWN], lora[name + UP], lora.get(name + ALPHA, torch.ones(()))
    if down.dim() not in (2, 4) or up.dim() != down.dim() or alpha.numel() != 1 or not 0 < alpha.item() <= HALF_MOST:
        return False
    if down.numel() == 0 or up.numel() == 0:
        return False
    return up.shape[1] == down.shape[0] and all(side == 1 for side in up.shape[2:])


def _in_one_piece(tensors: Sequence[Tensor], device: torch.device) -> tuple[list[Tensor], float]:
    """The tensors in float32 on `device`, and their largest absolute value (not a number if any is none).

    They travel together, in the file's type: eight hundred transfers take a tenth of a second, one takes a few
    milliseconds. So do eight hundred copies before it, each of which waits for Python's lock.
    """
    kinds = {tensor.dtype for tensor in tensors}
    kind = kinds.pop() if kinds in ({torch.float16}, {torch.bfloat16}) else torch.float32
    sizes = [tensor.numel() for tensor in tensors]
    flat = torch.empty(sum(sizes), dtype=kind, pin_memory=device.type == "cuda")
    torch.cat([tensor.flatten() for tensor in tensors], out=flat)
    whole = flat.to(device).float()
    parts = [part.view(tensor.shape) for part, tensor in zip(whole.split(sizes), tensors, strict=True)]
    return parts, float(torch.linalg.vector_norm(whole, math.inf))


def _kohya_key(key: str) -> str:
    """The kohya key of a tensor in diffusers' layout; a key of any other layout stays as it is."""
    for theirs, ours in FACTOR_NAMES.items():
        if key.endswith(theirs):
            path = key.removesuffix(theirs)
            if path.startswith("unet."):
                return UNET + path.removeprefix("unet.").replace(".", "_") + ours
            if path.startswith("text_encoder."):
                inner = path.removeprefix("text_encoder.").removeprefix("text_model.")
                return TEXT + inner.replace(".", "_") + ours
    return key


def _described_file(file: bytes, metadata: Mapping[str, str]) -> tuple[bytes, memoryview]:
    """A safetensors file with metadata, in two pieces. Its keys are in order (the library shuffles them): one LoRA, one
    sequence of bytes."""
    end = 8 + int.from_bytes(file[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(file[8:end])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors shall lie on multiples of eight
    return len(text).to_bytes(8, "little") + text, memoryview(file)[end:]


def _alpha(lora: State, name: str) -> float:
    """Files without alpha mean alpha = rank."""
    alpha = lora.get(name + ALPHA)
    return float(alpha) if alpha is not None else float(lora[name + DOWN].shape[0])


def _layers(diffusion: Diffusion) -> dict[str, nn.Linear | nn.Conv2d]:
    """By kohya name every layer that a LoRA can change."""
    unet = {UNET + path.replace(".", "_"): layer for path, layer in _layers_of(diffusion.unet)}
    text = {
        TEXT + path.removeprefix("text_model.").replace(".", "_"): layer
        for path, layer in _layers_of(diffusion.text_encoder)
    }
    return unet | text


def _layers_of(model: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """By path. `named_modules` takes several times as long: it hands every module up through all that hold it."""
    modules = [("", model)]
    for path, module in modules:  # grows as it is walked
        if isinstance(module, nn.Linear | nn.Conv2d):
            yield path.removeprefix("."), module
        modules += [(f"{path}.{name}", part) for name, part in module._modules.items() if part is not None]


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))


def _alike(lora: State, weights: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """The kohya names of `weights`, those together whose weights and factors are alike, as many as memory is meant
    for: 264 modules are changed by some hundred calls instead of two thousand, each of which hands Python's lock to the
    threads that fuse faces meanwhile."""
    size = _sizes(lora)

    def kind(name: str) -> Hashable:
        return weights[name].shape, weights[name].dtype, weights[name].device, size[name]

    for alike in _grouped(weights, kind):
        most = max(1, AT_ONCE // weights[alike[0]].numel())
        yield from (alike[begin : begin + most] for begin in range(0, len(alike), most))


def _changes(lora: State, alike: Sequence[str], weight: float, device: torch.device) -> Tensor:
    """(n, out, in) what `lora` adds to the weights of those modules, in float32; kernels are flat in it."""
    up, down = (torch.stack([lora[name + part] for name in alike]).flatten(2) for part in (UP, DOWN))
    up, down = (factor.to(device, torch.float32) for factor in (up, down))
    return up * (weight * _alpha(lora, alike[0]) / down.shape[1]) @ down


def _sizes(lora: State) -> dict[str, Hashable]:
    """Of each module; those that agree in it can be worked on together."""
    all_names = names(lora)
    written = [name for name in all_names if name + ALPHA in lora]
    alphas = torch.stack([lora[name + ALPHA] for name in written]).tolist() if written else []
    known = dict(zip(written, alphas, strict=True))
    return {
        name: (down.shape, lora[name + UP].shape, known.get(name, float(down.shape[0])))
        for name in all_names
        for down in (lora[name + DOWN],)
    }


def _grouped(all_names: Iterable[str], kind: Callable[[str], Hashable]) -> list[list[str]]:
    """Those of one kind together."""
    groups: dict[Hashable, list[str]] = {}
    for name in all_names:
        groups.setdefault(kind(name), []).append(name)
    return list(groups.values())


def _cut_to_rank(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(n, out, rank) and (n, rank, in) whose products come as near to `left @ right` as that rank allows, but for a
    few thousandths of the error that is left.

    Subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4): a few products find what checkpoints of one
    training have in common, where a singular value decomposition of every module takes half a minute.
    """
    drawn = torch.randn(right.shape[1], rank, generator=torch.Generator().manual_seed(0))
    basis = right.mT @ drawn.to(right.device)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(right.mT @ (left.mT @ (left @ (right @ basis))))[0]
    image = left @ (right @ basis)
    length = image.norm(dim=1, keepdim=True).sqrt()  # shared by both factors: half precision has to hold them
    lacking = rank - basis.shape[2]  # of a module smaller than the rank
    new_left = nn.functional.pad(image / length.clamp(min=torch.finfo(length.dtype).tiny), (0, lacking))
    new_right = nn.functional.pad((basis * length).mT, (0, 0, 0, lacking))
    return new_left, new_right
