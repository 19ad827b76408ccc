"""A worker that made itself ready: people's first training and first portraits then record nothing.

The networks of the published architecture, narrow and random, behind the worker's own runner; recordings are counted,
on a CPU as they would be made on CUDA. A key that drifts apart from that of the jobs fails here.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from engine import warm_up
from engine.bench.portrait import RandomProfile
from engine.config import FewStepLora, fast_portrait
from engine.diffusion import chosen_device
from engine.diffusion.capture import MOST
from engine.lora_layers import TrainableLora
from engine.models.ip_adapter import IpAdapterFace
from engine.profiles import MiniProfile
from engine.progress import Progress
from engine.sample import sample_selfies
from engine.stages import train_lora
from gpu_worker import engine_jobs
from gpu_worker.contract.events import PortraitResult, TrainResult
from gpu_worker.contract.jobs import MORE_CANDIDATES, MakePortraits, PhotoRef, TrainSubject
from gpu_worker.engine_child import Runner
from gpu_worker.engine_messages import Expected, Run
from tests.stand_ins.ip_adapter import write_ip_adapter
from tests.stand_ins.recorder import CountingGraphs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def tell(progress: Progress) -> None:
    pass


class Narrow(RandomProfile):
    """As a worker has it, with few steps; `ip_adapter` takes part in first looks, as where its weights are there."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, chosen_device("auto"), tiny=True)
        pictures = MiniProfile("cpu")
        self.segmenter, self.retoucher = pictures.segmenter, pictures.retoucher
        self.graphs = self.painter.graphs = CountingGraphs()
        (folder / "ip" / "models").mkdir(parents=True)
        adapter = write_ip_adapter(folder / "ip", self.painter.unet)
        self.ip_adapter = IpAdapterFace(*adapter, self.painter.unet)
        self.first_look = self.portrait.with_changes(ip_adapter_weight=0.6)
        self.training = self.training.with_changes(
            **{"rank": 4, "variants": 1, "steps_per_photo": 1, "max_steps": 2, "validation_steps": 1},
            **{"validation_denoise_steps": 3},
        )

    @property
    def step(self) -> object:
        return self.painter.kept.get(train_lora.KEPT)


def renders(profile: RandomProfile, expected: Expected, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setattr(engine_jobs, "load_profile", lambda name, device: profile)
    monkeypatch.setattr(warm_up, "_free_gib", lambda device: 40.0)
    return engine_jobs.load_renders("sd15", "cpu", expected)


def training(folder: Path) -> Run:
    refs = []
    (folder / "photos").mkdir(parents=True)
    for number, rgb in enumerate(sample_selfies()[:5]):
        ref = PhotoRef(photo_id=f"photo{number}", key=f"users/u1/photos/photo{number}.jpg")
        small = cv2.resize(rgb, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
        assert cv2.imwrite(str(folder / "photos" / f"{ref.photo_id}.jpg"), small[:, :, ::-1])
        refs.append(ref)
    for name in ("out", "checkpoints"):
        (folder / name).mkdir()
    job = TrainSubject(job_id="job001", subject_id="subj01", photos=tuple(refs), output_prefix="users/u1/s", seed=77)
    return Run(number=1, job=job, folder=folder, prefix="users/u1/s/1-1")


def portrait(folder: Path, subject: Path, template: Path, count: int, style: str = "natural") -> Run:
    (folder / "out").mkdir(parents=True)
    (folder / "subjects").mkdir()
    (folder / "subjects" / "subj01").symlink_to(subject)
    (folder / "template.jpg").symlink_to(template)
    job = MakePortraits.model_validate(
        {
            **{
                "job_id": "job002",
                "subject_id": "subj01",
                "subject_prefix": "users/u1/s/1-1",
                "template_key": "t/t.jpg",
            },
            **{"output_prefix": "users/u1/j", "count": count, "seed": 5, "style": style},
        }
    )
    return Run(number=2, job=job, folder=folder, prefix="users/u1/j/1-1")


def test_after_it_was_made_ready_a_first_training_and_first_portraits_record_nothing(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = Narrow(tmp_path / "profile")
    expected = Expected(trainings=True, candidates=(1, MORE_CANDIDATES))
    run = renders(profile, expected, monkeypatch)
    made, step = list(profile.graphs.made), profile.step
    assert step is not None
    # The autoencoder's two ways, prompts of two lengths, a checkpoint's and the merged LoRA's renders, a first look's
    # two passes, a portrait's, and the first pass of several candidates.
    assert len(made) == len(profile.graphs) == MOST - 6, "none is forgotten, and there is room for two other canvases"

    trained = run(training(tmp_path / "training"), tell)
    assert isinstance(trained, TrainResult)
    assert profile.graphs.made == made
    assert profile.step is step
    template = sorted((shared_data / "templates").glob("*.jpg"))[0]
    for number, (count, style) in enumerate([(1, "natural"), (MORE_CANDIDATES, "natural"), (1, "strict")]):
        subject = tmp_path / "training" / "out"
        result = run(portrait(tmp_path / f"portrait{number}", subject, template, count, style), tell)
        assert isinstance(result, PortraitResult)
    assert profile.graphs.made == made


def test_each_process_makes_ready_only_what_its_queue_needs(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fast portraits too, where they are configured."""
    painting = Narrow(tmp_path / "painting")
    painting.portrait = fast_portrait(painting.portrait, FewStepLora.LCM)
    few_step = TrainableLora.of(painting.painter, 1, 1, text_encoder=False).state()
    monkeypatch.setattr(painting, "few_step_lora", lambda wanted: few_step)
    run = renders(painting, Expected(candidates=(1,)), monkeypatch)
    made = list(painting.graphs.made)
    assert painting.step is None
    assert len(made) == 5, "the autoencoder's two ways, the prompt and two passes"
    subject = tmp_path / "subject"
    (subject / "references").mkdir(parents=True)
    template = sorted((shared_data / "templates").glob("*.jpg"))[0]
    (subject / "references" / "1.jpg").symlink_to(template)
    assert isinstance(run(portrait(tmp_path / "job", subject, template, 1), tell), PortraitResult)
    assert painting.graphs.made == made
