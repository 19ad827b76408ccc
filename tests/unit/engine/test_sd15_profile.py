"""The production profile from end to end on stand-in weights in the published formats, laid out as the catalogue says.

The stand-in networks are narrow and know nothing: what is tested is that files become the profile and that the
unchanged pipelines run on it. Faces are found by dlib: the stand-in detector sees coloured squares only.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from engine import lora, profiles, sd15_profile
from engine.__main__ import main
from engine.catalogue import Catalogue, load_catalogue
from engine.config import FewStepLora, PortraitConfig, TrainingConfig, fast_portrait
from engine.diffusion import Control, InpaintRequest
from engine.errors import MissingWeights, NoFaceInTemplate
from engine.images import grow_box, read_photo
from engine.models import sd15
from engine.models.dlib_faces import DlibDetector, DlibFaceId
from engine.portraits import PortraitReport, make_portraits
from engine.profiles import MiniProfile, load_profile
from engine.progress import silent
from engine.sd15_profile import Sd15Profile, for_small_memory
from engine.text_to_photo import Recipe, painted_template
from engine.training import train_subject
from engine.types import Face, HeadPose, Photo, SubjectFiles
from tests.stand_ins import sd15_files as stand_ins
from tests.stand_ins.content_check import write_content_check
from tests.stand_ins.ip_adapter import write_ip_adapter

PICTURES = MiniProfile("cpu")  # retouching and the like, where ModelScope's packages are not installed


class OnStandIns(Sd15Profile):
    """The profile itself, but with the narrow networks' numbers, dlib's faces and no ModelScope."""

    def files(self) -> sd15.Sd15Files:
        return replace(super().files(), config=self._models_dir / "config")

    detector = cached_property(lambda _: DlibDetector())  # type: ignore[assignment]
    recogniser = cached_property(lambda _: DlibFaceId())  # type: ignore[assignment]
    segmenter, retoucher, enhancer = PICTURES.segmenter, PICTURES.retoucher, PICTURES.enhancer

    def id_templates(self) -> list[Photo]:
        return super().id_templates()[:1]


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """The catalogue without its sizes, which narrow networks do not have."""
    data = load_catalogue().model_dump()
    for model in data["models"]:
        for file in model["files"]:
            file["bytes"] = None
    return Catalogue.model_validate(data)


@contextmanager
def any_size(catalogue: Catalogue) -> Iterator[None]:
    """Files of any size count as those of the catalogue."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (sd15, sd15_profile):
            patch.setattr(module, "load_catalogue", lambda: catalogue)
        yield


@pytest.fixture(scope="module")
def networks(models_dir: Path) -> stand_ins.Networks:
    return stand_ins.random_networks(models_dir / "config")


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue) -> Path:
    """What `models fetch` would leave, with the colour ControlNet, which an operator may add."""
    folder = tmp_path_factory.mktemp("models")
    config = stand_ins.write_config(folder / "config")
    networks = stand_ins.random_networks(config)

    def path(model_id: str) -> Path:
        return folder / model_id / catalogue.model(model_id).files[0].path

    stand_ins.write_single_file(path("sd15"), networks)
    stand_ins.write_vae(path("vae-ft-mse"), networks.vae)
    stand_ins.write_controlnet(path("controlnet-color"), networks.controlnet)
    stand_ins.write_controlnet(path("controlnet-tile"), networks.controlnet)
    for name in ("canny", "openpose"):
        networks.controlnet.save_pretrained(path(f"controlnet-{name}").parent, variant="fp16")
    for file in catalogue.model("clip-tokenizer").files:
        target = folder / "clip-tokenizer" / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(stand_ins.MINI_TOKENIZER / target.name, target)
    write_content_check(folder / "nsfw")
    return folder


@pytest.fixture(scope="module")
def profile(models_dir: Path, catalogue: Catalogue) -> OnStandIns:
    with any_size(catalogue):
        profile = OnStandIns(models_dir, None, "cpu")
        _ = profile.diffusion
    profile.training = profile.training.with_changes(
        resolution=128, rank=4, alpha=2, variants=1, max_steps=2, validation_steps=1, validation_denoise_steps=2
    )
    return profile


@pytest.fixture(scope="module")
def subject(profile: OnStandIns, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> SubjectFiles:
    folder = tmp_path_factory.mktemp("trained")
    photos = sorted((shared_data / "selfies" / "a").glob("*.jpg"))
    report = train_subject(photos, folder / "subject", profile, profile.training, silent, folder / "steps")
    assert report.steps == 2
    return SubjectFiles(folder / "subject")


def test_the_numbers_are_the_references_and_the_face_gets_half_the_canvas(tmp_path: Path) -> None:
    profile = Sd15Profile(tmp_path, None, "cpu")
    assert profile.training.with_changes(crop_scale=3) == TrainingConfig()
    assert profile.portrait.with_changes(fusion_before_ratio=0.6, color_weight=0.85) == PortraitConfig()
    photo = np.zeros((400, 600, 3), np.uint8)
    points = np.zeros((68, 2), np.float32)
    face = Face((250, 150, 350, 250), points[:5], points, 1.0, HeadPose(0, 0, 0))
    crop = profile.portrait_crop(photo, face)
    assert crop.size == (512, 512)
    assert crop.moved_face(face).width == pytest.approx(256)
    assert crop.cut(photo).shape == (512, 512, 3)


def test_the_catalogues_folder_becomes_the_diffusion(profile: OnStandIns) -> None:
    assert set(profile.diffusion.controlnets) == {"canny", "pose", "tile", "color"}
    assert profile.diffusion.tokenizer.model_max_length == 77
    states = profile.diffusion.encode_text([profile.positive, profile.negative])
    assert states.shape[0] == 2
    assert states.shape[1] % 77 == 0
    assert states.shape[1] > 77  # longer than one context: nothing is cut off


def test_a_training_writes_a_subject_whose_lora_diffusers_loads(
    subject: SubjectFiles, models_dir: Path, networks: stand_ins.Networks, tmp_path: Path
) -> None:
    info = json.loads(subject.info.read_text())
    assert (info["profile"], info["rank"]) == ("sd15", 4)
    folder = stand_ins.write_folder(tmp_path / "folder", models_dir / "config", networks)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    pipeline.load_lora_weights(str(subject.lora), adapter_name="person")
    loaded = {name for of in pipeline.get_list_adapters().values() for name in of}
    assert loaded == {"person"}
    layers = sum(
        name.endswith("lora_A.person")
        for part in (pipeline.unet, pipeline.text_encoder)
        for name, _ in part.named_modules()
    )
    assert layers == len(lora.names(lora.load_kohya(subject.lora)))


def test_a_portrait_runs_and_changes_nothing_outside_the_mask(
    profile: OnStandIns, subject: SubjectFiles, shared_data: Path
) -> None:
    template = read_photo(shared_data / "templates" / "8.jpg")
    config = profile.portrait.with_changes(first_steps=3, second_steps=4, super_resolution=False)
    report = make_portraits(subject, template, profile, config)
    assert report.changed_outside_mask == 0
    assert report.portrait.shape == template.rgb.shape
    rows, columns = np.nonzero((report.portrait != template.rgb).any(-1))
    left, top, right, bottom = grow_box(profile.detector(template.rgb)[0].box_xyxy, 2.1)
    assert left <= columns.min() < columns.max() <= right
    assert top <= rows.min() < rows.max() <= bottom
    assert not any("LoRA" in note or "switched off" in note for note in report.notes)


def test_a_fast_portrait_takes_few_steps_and_no_negative_branch(
    profile: OnStandIns, subject: SubjectFiles, networks: stand_ins.Networks, models_dir: Path, shared_data: Path
) -> None:
    """With LCM's LoRA in the layout in which it is published: kohya's names, 3x3 convolutions and time projections."""
    path = models_dir / "lcm-lora" / "pytorch_lora_weights.safetensors"
    stand_ins.write_few_step_lora(path, networks)
    named = set(lora.names(lora.load_kohya(path)))
    assert {"lora_unet_down_blocks_0_resnets_0_conv1", "lora_unet_up_blocks_0_upsamplers_0_conv"} < named
    config = fast_portrait(profile.portrait).with_changes(super_resolution=False)
    seen: list[tuple[int, ...]] = []
    unet = profile.diffusion.unet
    weight = unet.down_blocks[0].resnets[0].conv1.weight
    before, during = weight.clone(), []
    hook = unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    other = unet.register_forward_pre_hook(lambda *_: during.append(weight.clone()))
    report = make_portraits(subject, read_photo(shared_data / "templates" / "8.jpg"), profile, config)
    hook.remove()
    other.remove()
    assert [shape[0] for shape in seen] == [1] * (4 + 2)
    assert not torch.equal(during[0], before)
    assert torch.equal(weight, before)
    assert report.changed_outside_mask == 0


def test_a_missing_few_step_lora_is_a_sentence(profile: OnStandIns) -> None:
    with pytest.raises(MissingWeights, match="models fetch hyper-sd-lora"):
        profile.few_step_lora(FewStepLora.HYPER_SD)
    with pytest.raises(MissingWeights, match="leave few_step_lora at none"):
        PICTURES.few_step_lora(FewStepLora.LCM)


def test_the_environment_asks_for_fast_portraits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTRAIT_FEW_STEP_LORA", "hyper-sd-lora")
    config = Sd15Profile(tmp_path, None, "cpu").portrait
    assert (config.few_step_lora, config.first_steps, config.guidance) == (FewStepLora.HYPER_SD, 4, 1.0)


def test_the_environment_keeps_trainings_within_a_small_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Sd15Profile(tmp_path, None, "cpu").training.memory_gib == 0
    monkeypatch.setenv("PORTRAIT_SMALL_GPU", "1")
    assert 6 < Sd15Profile(tmp_path, None, "cpu").training.memory_gib < 7.5, "of 8, less CUDA's own half"


def test_a_small_gpu_paints_the_same(profile: OnStandIns, shared_data: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    controls = (Control("canny", picture, 0.5), Control("tile", picture, 0.7))
    request = InpaintRequest(picture, None, "a face", "blurry", 4, 0.6, 5.0, controls)
    expected = profile.diffusion.inpaint(request)
    small = for_small_memory(profile.diffusion)
    assert np.array_equal(small.inpaint(request), expected)
    assert small.controls_rest


def test_a_film_look_and_a_face_prompt_take_part_when_they_are_asked_for(
    models_dir: Path,
    tmp_path: Path,
    catalogue: Catalogue,
    networks: stand_ins.Networks,
    subject: SubjectFiles,
    shared_data: Path,
) -> None:
    for entry in models_dir.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    write_ip_adapter(tmp_path / "ip-adapter-face", networks.unet)
    film = catalogue.model("film-lora").files[0].path
    stand_ins.write_kohya_lora(tmp_path / "film-lora" / film, networks, rank=4, alpha=4)
    with any_size(catalogue):
        profile = OnStandIns(tmp_path, None, "cpu")
        assert profile.first_look.ip_adapter_weight == 0.6
        _ = profile.diffusion
        profile.training = profile.training.with_changes(resolution=128)
        changes = {"first_steps": 3, "second_diffusion": False, "super_resolution": False, "fusion_after": False}
        template = read_photo(shared_data / "templates" / "8.jpg", 500)

        def made(**wanted: float) -> PortraitReport:
            return make_portraits(subject, template, profile, profile.portrait.with_changes(**changes, **wanted))

        seeds = [made(), made(film_lora_weight=0.65), made(ip_adapter_weight=0.3)]
    assert all(report.changed_outside_mask == 0 for report in seeds)
    assert not any("IP-Adapter" in note or "film" in note for report in seeds for note in report.notes)
    assert all(report.content_check == "vit-nsfw" for report in seeds)


def test_a_template_is_painted_from_words_at_the_recipes_size(profile: OnStandIns) -> None:
    """The stand-in paints no face: it is tried four times and told."""
    steps: list[int] = []
    recipe = Recipe(prompt="a woman in the rain", width=130, height=190, steps=2)
    with pytest.raises(NoFaceInTemplate, match="4 pictures"):
        painted_template(recipe, profile, on_step=lambda done, total: steps.append(done))
    assert len(steps) >= 4


def test_a_portrait_runs_without_the_colour_network(
    models_dir: Path, tmp_path: Path, catalogue: Catalogue, subject: SubjectFiles, shared_data: Path
) -> None:
    for entry in models_dir.iterdir():
        if entry.name != "controlnet-color":
            (tmp_path / entry.name).symlink_to(entry)
    with any_size(catalogue):
        profile = OnStandIns(tmp_path, None, "cpu")
        assert set(profile.diffusion.controlnets) == {"canny", "pose", "tile"}
    assert profile.portrait.color_weight == 0
    profile.training = profile.training.with_changes(resolution=128)
    no_fusion = {"fusion_before": False, "fusion_after": False}
    config = profile.portrait.with_changes(first_steps=3, second_diffusion=False, super_resolution=False, **no_fusion)
    report = make_portraits(subject, read_photo(shared_data / "templates" / "8.jpg"), profile, config)
    assert report.changed_outside_mask == 0


def test_missing_weights_are_one_sentence_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTRAIT_MODELS_DIR", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"11 models are missing .* models fetch sd15 .* gpen nsfw`$") as raised:
        load_profile("sd15", "cpu")
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)
    (tmp_path / "own.safetensors").touch()
    monkeypatch.setenv("PORTRAIT_MODELS_CHECKPOINT", str(tmp_path / "own.safetensors"))
    with pytest.raises(MissingWeights, match=r"10 models are missing .* models fetch clip-tokenizer"):
        load_profile("sd15", "cpu")
    monkeypatch.setenv("PORTRAIT_MODELS_CHECKPOINT", str(tmp_path / "absent.safetensors"))
    with pytest.raises(MissingWeights, match=r"absent\.safetensors is not there"):
        load_profile("sd15", "cpu")


def test_a_missing_extra_is_a_sentence_that_names_it(
    tmp_path: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTRAIT_MODELS_DIR", str(tmp_path))
    for model_id in catalogue.sets["sd15"]:
        for file in catalogue.model(model_id).files:
            (tmp_path / model_id / file.path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / model_id / file.path).touch()
    monkeypatch.setattr(sd15_profile, "load_catalogue", lambda: catalogue)
    monkeypatch.setattr(sd15_profile, "PACKAGES", {"modelscope": ("json", "no_such_package")})
    with pytest.raises(MissingWeights, match="needs no_such_package: install the extra `modelscope`"):
        load_profile("sd15", "cpu")
    monkeypatch.setattr(sd15_profile, "PACKAGES", {})
    assert load_profile("sd15", "cpu").name == "sd15"


def test_the_command_line_ends_with_that_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORTRAIT_MODELS_DIR", str(tmp_path))
    status = main(["portrait", str(tmp_path), "t.jpg", "o.jpg", "--profile", "sd15"])
    out, err = capfd.readouterr()
    assert (status, out) == (1, "")
    assert "python -m engine models fetch" in err
    assert len(err.splitlines()) == 1


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="mini, sd15"):
        load_profile("sdxl")
    assert profiles.PROFILES == ("mini", "sd15")
