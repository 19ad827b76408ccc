"""How fast a portrait is made: the real pipeline (`make_portraits`) in a warm process, and the plain way beside it.

All diffusion is of the published size, pictures are enlarged by Lanczos, which needs no download. What random weights
paint shows no face: the passes are run whole, and the pipeline goes on with the picture that went into them, a little
lighter. Faces are found by dlib on one core, or (`--faces insightface`) by InsightFace's code with networks of the
published architecture, as in production. Those have random weights too and say nothing, so the answers are dlib's,
remembered from the warm-up run of the same portrait: its time is in none of the seconds.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import platform
import tempfile
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine import lora
from engine.bench.faces import bench_faces
from engine.bench.measures import device_name, gpu_peak_gib, told
from engine.bench.plain_portrait import PlainDiffusion, plain_copy, pretended
from engine.bench.random_weights import random_diffusion
from engine.config import FewStepLora, PortraitConfig, fast_portrait
from engine.diffusion import Control, Diffusion, InpaintRequest, Painting, chosen_device
from engine.diffusion.capture import Graphs
from engine.diffusion.core import OnStep
from engine.errors import EngineError
from engine.images import write_jpeg
from engine.models.remembered_faces import RememberingDetector
from engine.portraits import make_portraits
from engine.profiles import MiniProfile
from engine.progress import silent
from engine.sd15_profile import Sd15Profile, for_small_memory
from engine.stages.reference import Traits
from engine.subject import FoundFaces
from engine.types import Rgb, SubjectFiles
from engine.warm_up import prepare

RANK, ALPHA = 128, 64  # of a subject's LoRA, as the reference trains it
FEW_STEP_RANK = 64
# The layers that LCM's LoRA of SD1.5 names: rank 64 on them makes a file of its size, 134.6 MB.
FEW_STEP_LAYERS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
)
CANVAS = 512

Json = dict[str, Any]


def run(options: argparse.Namespace) -> Json:
    """What `python -m engine bench portrait` prints. Seconds are wall clock, the GPU waited for, `cpu_s` those of
    all threads on the CPU; medians of `--repeats` warm runs."""
    if not options.random_weights:
        raise EngineError("portraits are measured with random weights so far: add --random-weights")
    device = chosen_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        profile = RandomProfile(Path(folder), device, options.tiny, options.faces)
        begin = time.perf_counter()
        subject = _subject(SubjectFiles(Path(folder) / "subject"), profile)
        base = profile.portrait
        cases = {
            "1 portrait": base,
            "4 candidates": base.with_changes(candidates=4),
            "fast": fast_portrait(base),
        }
        result: Json = {
            "device": device_name(device),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "canvas": profile.training.resolution,
            "faces": profile.about_faces,
            "load_s": round(time.perf_counter() - begin, 2),
            "load_gib": gpu_peak_gib(device),
            # As a worker does at its start; what then is left is each case's `warm_up_s`.
            "prepare_s": _prepared(profile, base, (1, 4)),
            "prepare_fast_s": _prepared(profile, cases["fast"], (1,)),
            "cases": {
                name: _measured(name, profile, subject, config, options.repeats) for name, config in cases.items()
            },
        }
        result["accuracy"] = _accuracy(profile.painter, profile.training.resolution)
        profile.painter = for_small_memory(profile.painter)
        result["small_memory"] = _measured("small memory", profile, subject, base, options.repeats)
        # The pipeline of the plain way loads the LoRA by itself.
        loaded = subject.lora.rename(subject.folder / "plain.safetensors")
        profile.painter = PlainDiffusion.copied(profile.painter, loaded, base.lora_weight)
        result["plain_way"] = _measured("plain way", profile, subject, base, options.repeats)
        return result


class RandomProfile(Sd15Profile):
    """The profile sd15 without a download: its numbers and pipeline, random networks, the faces of `bench_faces`."""

    def __init__(self, folder: Path, device: str, tiny: bool, faces: str = "dlib") -> None:
        super().__init__(folder, None, device)
        self.folder = folder
        self.portrait = self.portrait.with_changes(color_weight=PortraitConfig().color_weight)
        if tiny:
            self.training = self.training.with_changes(resolution=128)
            self.portrait = self.portrait.with_changes(first_steps=5, second_steps=7)
        pictures = MiniProfile("cpu")
        self.faces, self.about_faces = bench_faces(faces, folder, device, tiny)
        self.start_anew()
        self._fuser, self._enhancer = pictures.fuser, pictures.enhancer
        self.painter: Diffusion = _Whole.of(random_diffusion(device, tiny=tiny))

    def start_anew(self) -> None:
        """No face of an earlier portrait is remembered, none is counted."""
        self._detector = RememberingDetector(self.faces)
        self.faces.seconds, self.faces.calls = 0.0, 0

    detector = property(lambda self: self._detector)  # type: ignore[assignment]
    recogniser = property(lambda self: self.faces)  # type: ignore[assignment]
    fuser = property(lambda self: self._fuser)  # type: ignore[assignment]
    enhancer = property(lambda self: self._enhancer)  # type: ignore[assignment]
    diffusion = property(lambda self: self.painter)  # type: ignore[assignment]
    content_check = None  # type: ignore[assignment]

    def few_step_file(self, wanted: FewStepLora) -> Path:
        return self.folder / f"{wanted}.safetensors"


class _Whole(Diffusion):
    """Paints; the pipeline goes on with pretended pictures."""

    @staticmethod
    def of(diffusion: Diffusion) -> _Whole:
        return _Whole(**{part.name: getattr(diffusion, part.name) for part in fields(Diffusion)})

    def painting(self, request: InpaintRequest, on_step: OnStep = lambda done, total: None) -> Painting:
        painted, shown = super().painting(request, on_step), pretended(request)

        def made() -> list[Rgb]:
            assert len(painted.pictures) == request.count  # waited for when a real portrait would
            return shown.pictures

        return Painting(shown.unchanged, made)


def _subject(files: SubjectFiles, profile: RandomProfile) -> SubjectFiles:
    """The people of all ID pictures but the first as one subject, with a LoRA of the published size."""
    faces, embeddings, traits = {}, {}, {}
    for number, photo in enumerate(profile.id_templates()[1:], start=1):
        name = f"{number:02}.jpg"
        write_jpeg(files.references / name, photo.rgb)
        faces[name] = profile.detector(photo.rgb)[0]
        embeddings[name] = profile.recogniser.embed(photo.rgb, faces[name])
        traits[name] = Traits.of(photo.rgb, faces[name])
    info = {
        "profile": profile.name,
        "recogniser": profile.recogniser.name,
        "found": FoundFaces(faces, embeddings, traits).as_json(),
    }
    files.info.write_text(json.dumps(info), encoding="utf-8")
    tiny = profile.training.resolution < CANVAS
    diffusion = profile.painter
    places = lora.modules(diffusion)
    layers = {name: model.get_submodule(path) for name, (model, path) in places.items()}
    lora.save_kohya(files.lora, _random_lora(layers, 4 if tiny else RANK, ALPHA), {})
    few = {
        lora.UNET + path.replace(".", "_"): module
        for path, module in diffusion.unet.named_modules()
        if path.endswith(FEW_STEP_LAYERS)
    }
    for which in (FewStepLora.LCM, FewStepLora.HYPER_SD):
        lora.save_kohya(profile.few_step_file(which), _random_lora(few, 4 if tiny else FEW_STEP_RANK, 1), {})
    return files


def _random_lora(layers: Mapping[str, nn.Module], rank: int, alpha: float) -> lora.State:
    generator = torch.Generator().manual_seed(0)
    state: lora.State = {}
    for name, layer in layers.items():
        weight: Tensor = layer.get_parameter("weight")
        out, into, *kernel = weight.shape
        state[name + lora.DOWN] = torch.randn(rank, into, *kernel, generator=generator) / rank
        state[name + lora.UP] = torch.randn(out, rank, *(1 for _ in kernel), generator=generator) * 0.01
        state[name + lora.ALPHA] = torch.tensor(float(alpha))
    return state


def _prepared(profile: RandomProfile, config: PortraitConfig, candidates: tuple[int, ...]) -> float:
    profile.portrait = config
    begin = time.perf_counter()
    prepare(profile, False, candidates)
    return round(time.perf_counter() - begin, 2)


def _measured(case: str, profile: RandomProfile, subject: SubjectFiles, config: PortraitConfig, repeats: int) -> Json:
    template = profile.id_templates()[0]
    runs: list[Json] = []
    if profile.painter.device.type != "cpu":
        gc.collect()
        torch.cuda.empty_cache()
        gpu_peak_gib("cuda")
    for _ in range(repeats + 1):
        profile.start_anew()
        asked = profile.faces.asked
        begin, busy = time.perf_counter(), time.process_time()
        report = make_portraits(subject, template, profile, config, silent)
        seconds, busy = time.perf_counter() - begin, time.process_time() - busy
        stages = {"faces (in all stages)": profile.faces.seconds, **report.seconds}
        counts = {"faces": profile.faces.calls, "asked": profile.faces.asked - asked}
        runs.append({"seconds": seconds, "cpu": busy, "stages": stages, **counts})
    warm = runs[1:]
    figures = {
        "template": list(template.rgb.shape[1::-1]),
        "warm_up_s": round(runs[0]["seconds"] - median(run["seconds"] for run in warm), 2),
        "seconds": round(median(run["seconds"] for run in warm), 3),
        "cpu_s": round(median(run["cpu"] for run in warm), 3),
        "runs": [round(run["seconds"], 3) for run in warm],
        "stages": {name: round(median(run["stages"][name] for run in warm), 3) for name in warm[0]["stages"]},
        "without_faces_s": round(median(run["seconds"] - run["stages"]["faces (in all stages)"] for run in warm), 3),
        "face_calls": warm[0]["faces"],
        "waits_for_dlib_in_told_faces": max(run["asked"] for run in warm),
        "peak_gib": gpu_peak_gib(profile.painter.device.type),
    }
    return told(case, figures)


def _accuracy(painter: Diffusion, side: int) -> Json:
    """Levels of 255 by which a pass differs from the same pass without recordings, and from one of
    diffusers' own layers in float32."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    controls = tuple(Control(name, picture, 0.5) for name in ("canny", "pose", "color"))
    # No weights in the prompt: they keep a mean that of a text encoder with random weights is nought but rounding.
    request = InpaintRequest(picture, None, "a face", "", 20, 0.45, 7.0, controls)
    parts = {part.name: getattr(painter, part.name) for part in fields(Diffusion)}
    ours = Diffusion(**parts)
    eager = Diffusion(**{**parts, "graphs": Graphs(recording=False)})
    single = Diffusion(
        plain_copy(ours.unet, torch.float32),
        plain_copy(ours.vae, torch.float32),
        copy.deepcopy(ours.text_encoder).float(),
        ours.tokenizer,
        {control.name: plain_copy(ours.controlnets[control.name], torch.float32) for control in controls},
        ours.scheduler_config,
        Graphs(recording=False),
    )
    (result,) = ours.inpaint(request)
    return {name: _levels(result, other.inpaint(request)[0]) for name, other in (("eager", eager), ("float32", single))}


def _levels(a: Rgb, b: Rgb) -> Json:
    away = np.abs(a.astype(int) - b)
    return {"most": int(away.max()), "mean": round(float(away.mean()), 3)}
