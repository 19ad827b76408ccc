"""The production profile: Stable Diffusion 1.5 with ControlNets, InsightFace and ModelScope's networks, all from the
catalogue's folder.

Environment variables say where: PORTRAIT_MODELS_DIR, the folder of the models, and PORTRAIT_MODELS_CHECKPOINT, any
SD1.5 file or diffusers folder instead of the catalogue's; and how: PORTRAIT_FEW_STEP_LORA (lcm-lora or hyper-sd-lora)
for fast portraits, PORTRAIT_SMALL_GPU=1 for a card of 8 GiB. The reference's film-look LoRA takes part only where
`film_lora_weight` asks for it: its licence is unstated, and a LoRA that every portrait goes through changes faces too.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from engine.catalogue import DEFAULT_SET, default_models_dir, load_catalogue
from engine.config import FewStepLora, PortraitConfig, TrainingConfig, fast_portrait
from engine.crop import Crop, box_crop
from engine.errors import MissingWeights
from engine.models import torchvision_shim
from engine.parsing import FaceParts, parse_by_landmarks
from engine.profiles import FromWords, read_id_templates
from engine.types import (
    ContentChecker,
    Enhancer,
    Face,
    FaceDetector,
    FaceFuser,
    FaceRecogniser,
    Photo,
    Retoucher,
    Rgb,
    Segmenter,
)

if TYPE_CHECKING:
    from engine.diffusion import Diffusion
    from engine.lora import State
    from engine.models.insightface_faces import InsightFaceFaces
    from engine.models.ip_adapter import IpAdapterFace
    from engine.models.sd15 import Sd15Components, Sd15Files
    from engine.stages.control import ControlPictures

PACKAGES = {  # by extra of this project, what only that extra brings
    "production": ("insightface", "modelscope"),
    "cpu` or `gpu": ("onnxruntime",),
    "modelscope": ("addict", "datasets", "einops", "simplejson", "torchvision"),
}
# Side of every canvas over the face box. The reference shows three boxes at 512 pixels, which leaves a face of 130 by
# 170: an eye is four latents wide, and the autoencoder alone breaks it. Two boxes give the face more than twice the
# pixels and still show hair and neck, with room for the widest mask. Training and portraits share the scale, so that
# the LoRA paints faces at the size at which it learned them.
CANVAS_SCALE = 2.0
SMALL_GIB = 7.0  # of a card of 8 GiB, for a training: the rest is CUDA's own and the screen's

# The reference's terms and weights for photos.
POSITIVE = (
    "(cloth:1.5), (best quality), (realistic, photo-realistic:1.3), (beautiful eyes:1.3), (sparkling eyes:1.3), "
    "(beautiful mouth:1.3), finely detail, light smile, extremely detailed CG unity 8k wallpaper, huge filesize, "
    "best quality, realistic, photo-realistic, ultra high res, raw photo, put on makeup"
)
NEGATIVE = (
    "(bags under the eyes:1.5), (bags under eyes:1.5), (earrings:1.3), (glasses:1.2), (naked:1.5), (nsfw:1.5), nude, "
    "breasts, penis, cum, (over red lips:1.3), (bad lips:1.3), (bad ears:1.3), (bad hair:1.3), (bad teeth:1.3), "
    "(worst quality:2), (low quality:2), (normal quality:2), lowres, watermark, badhand, bad anatomy, bad hands, mural"
)
# The reference's for pictures from words.
PAINT_POSITIVE = (
    "(cloth:1.0), (best quality), (realistic, photo-realistic:1.3), film photography, minor acne, (portrait:1.1), "
    "(indirect lighting), extremely detailed CG unity 8k wallpaper, huge filesize, best quality, realistic, "
    "photo-realistic, ultra high res, raw photo, look at viewer"
)
PAINT_NEGATIVE = (
    "(nsfw:1.5), (huge breast:1.5), nude, breasts, penis, cum, bokeh, cgi, illustration, cartoon, deformed, distorted, "
    "disfigured, poorly drawn, bad anatomy, wrong anatomy, ugly, blurry, noisy, log, text, (worst quality:2), "
    "(low quality:2), (normal quality:2), lowres, watermark, badhand"
)


def load_sd15_profile(device: str = "auto") -> Sd15Profile:
    """The profile as the environment describes it. Networks are read when they are first asked for.

    Raises MissingWeights, with one sentence that says what to run or to install, before anything is read.
    """
    models_dir = default_models_dir()
    own = os.environ.get("PORTRAIT_MODELS_CHECKPOINT")
    checkpoint = Path(own) if own else None
    _require_weights(models_dir, checkpoint)
    _require_packages()
    return Sd15Profile(models_dir, checkpoint, device)


class Sd15Profile:
    """The models of the catalogue's set `sd15` in `models_dir`; `checkpoint` replaces the base. What is missing there
    is a MissingWeights when it is first asked for."""

    name = "sd15"
    from_words = FromWords(PAINT_POSITIVE, PAINT_NEGATIVE)
    whole_side = 768  # the reference's shorter side; it shrinks long pictures further
    positive = POSITIVE
    negative = NEGATIVE

    def __init__(self, models_dir: Path, checkpoint: Path | None = None, device: str = "auto") -> None:
        self._models_dir, self._checkpoint, self._device = models_dir, checkpoint, device
        self._catalogue = load_catalogue()
        self._few_step_loras: dict[FewStepLora, State] = {}
        self._is_small_gpu = bool(os.environ.get("PORTRAIT_SMALL_GPU"))
        self.training = TrainingConfig(crop_scale=CANVAS_SCALE, memory_gib=SMALL_GIB if self._is_small_gpu else 0)
        # Landmark fusion keeps the template's light by itself: mixing it with the template would show two faces. The
        # reference's 0.6 belongs to its own fusion network.
        self.portrait = PortraitConfig(fusion_before_ratio=1.0)
        if self._catalogue.model("controlnet-color").missing(models_dir):
            self.portrait = self.portrait.with_changes(color_weight=0)
        few_steps = FewStepLora(os.environ.get("PORTRAIT_FEW_STEP_LORA") or FewStepLora.NONE)
        if few_steps is not FewStepLora.NONE:
            self.portrait = fast_portrait(self.portrait, few_steps)
        if self._catalogue.model("ip-adapter-face").missing(models_dir):
            self.first_look = self.portrait.with_changes(first_diffusion=False, second_diffusion=False)
        else:
            self.first_look = self.portrait.with_changes(ip_adapter_weight=0.6)

    @cached_property
    def detector(self) -> FaceDetector:
        from engine.models.remembered_faces import RememberingDetector

        return RememberingDetector(self._faces.detector)

    @cached_property
    def recogniser(self) -> FaceRecogniser:
        return self._faces.recogniser

    @cached_property
    def segmenter(self) -> Segmenter:
        from engine.models.modelscope_saliency import U2NetSegmenter

        return U2NetSegmenter(self._folder("u2net-saliency"), self._torch_device)

    @cached_property
    def retoucher(self) -> Retoucher:
        device = self._torch_device
        from engine.models.modelscope_retouch import AbpnRetoucher

        return AbpnRetoucher(self._folder("skin-retouching"), device)

    @cached_property
    def enhancer(self) -> Enhancer:
        from engine.models.modelscope_enhance import gpen

        return gpen(self._folder("gpen"), self._torch_device)

    @cached_property
    def fuser(self) -> FaceFuser:
        """Landmarks, not the reference's network: that one brings a second framework and a non-commercial licence."""
        from engine.models.landmark_fusion import LandmarkFuser

        return LandmarkFuser()

    @cached_property
    def diffusion(self) -> Diffusion:
        device = self._torch_device
        from engine.diffusion import Diffusion

        parts = _loaded(self.files(), device)
        diffusion = Diffusion(
            parts.unet, parts.vae, parts.text_encoder, parts.tokenizer, parts.controlnets, parts.scheduler_config
        )
        return for_small_memory(diffusion) if self._is_small_gpu else diffusion

    @cached_property
    def control_pictures(self) -> ControlPictures:
        from engine.models.sd15_controls import Sd15Controls

        return Sd15Controls()

    @cached_property
    def ip_adapter(self) -> IpAdapterFace | None:
        from engine.models.ip_adapter import IpAdapterFace

        weights = self._catalogue.locate_file("ip-adapter-face", self._models_dir)
        encoder = self._folder("ip-adapter-face") / "models" / "image_encoder"
        return IpAdapterFace(weights, encoder, self.diffusion.unet)

    @property
    def film_lora(self) -> Path | None:
        return self._catalogue.locate_file("film-lora", self._models_dir)

    @cached_property
    def content_check(self) -> ContentChecker | None:
        device = self._torch_device
        from engine.models.content_check import ContentCheck

        return ContentCheck(self._folder("nsfw"), device)

    def files(self) -> Sd15Files:
        """Where the diffusion's networks lie."""
        from engine.models.sd15 import sd15_files

        return sd15_files(self._models_dir, self._checkpoint)

    def parse(self, rgb: Rgb, face: Face) -> FaceParts:
        return parse_by_landmarks(rgb, face)

    def portrait_crop(self, rgb: Rgb, face: Face) -> Crop:
        """A square: what the model was trained on, and its side is a multiple of 64."""
        side = self.training.resolution
        return box_crop(face, self.training.crop_scale, (side, side))

    def few_step_lora(self, wanted: FewStepLora) -> State:
        """Read once, and kept where the diffusion is: every fast portrait takes the same one."""
        from engine.lora import load_kohya

        if wanted not in self._few_step_loras:
            self._few_step_loras[wanted] = load_kohya(self.few_step_file(wanted), self.diffusion.device)
        return self._few_step_loras[wanted]

    def few_step_file(self, wanted: FewStepLora) -> Path:
        """Raises MissingWeights."""
        return self._catalogue.locate_file(wanted, self._models_dir)

    def id_templates(self) -> list[Photo]:
        return read_id_templates()

    @cached_property
    def _faces(self) -> InsightFaceFaces:
        import onnxruntime

        from engine.models.insightface_faces import CPU, CUDA, InsightFaceFaces

        has_cuda = self._device != "cpu" and CUDA[0][0] in onnxruntime.get_available_providers()
        return InsightFaceFaces(self._folder("buffalo_l"), CUDA if has_cuda else CPU)

    @cached_property
    def _torch_device(self) -> str:
        torchvision_shim.install()  # before anything imports diffusers
        from engine.diffusion import chosen_device

        return chosen_device(self._device)

    def _folder(self, model_id: str) -> Path:
        return self._catalogue.locate(model_id, self._models_dir)


def for_small_memory(diffusion: Diffusion) -> Diffusion:
    """The same networks for a card of 8 GiB: ControlNets on the card only for their pass, nothing is recorded (what is
    recorded must not move). It is slower."""
    from engine.diffusion.capture import Graphs

    for network in diffusion.controlnets.values():
        network.to("cpu")
    return replace(diffusion, graphs=Graphs(recording=False), controls_rest=True)


def _loaded(files: Sd15Files, device: str) -> Sd15Components:
    import torch

    from engine.models.sd15 import load_sd15_components, settle

    # On a GPU first as the files are published: nothing is rounded twice.
    parts = load_sd15_components(files, torch.float32 if device == "cpu" else torch.float16, device)
    settle(parts, device)
    return parts


def _require_weights(models_dir: Path, checkpoint: Path | None) -> None:
    if checkpoint is not None and not checkpoint.exists():
        raise MissingWeights(f"{checkpoint} is not there: PORTRAIT_MODELS_CHECKPOINT must name an SD1.5 file or folder")
    catalogue = load_catalogue()
    unneeded = {"sd15"} if checkpoint else set()
    missing = catalogue.what_is_missing((i for i in catalogue.sets[DEFAULT_SET] if i not in unneeded), models_dir)
    if missing:
        raise MissingWeights(f"the profile sd15 looks into {models_dir}: {missing}")


def _require_packages() -> None:
    for extra, packages in PACKAGES.items():
        absent = [package for package in packages if find_spec(package) is None]
        if absent:
            raise MissingWeights(
                f"the profile sd15 needs {', '.join(absent)}: install the extra `{extra}` of this project"
            )
