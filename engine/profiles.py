"""Which model does which stage: a profile names them all and builds each when it is first used.

The stages, their order and their code are the same for every profile. Nothing here imports torch before `diffusion` is
asked for, so that photos can be inspected by a process that has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from engine.config import FewStepLora, PortraitConfig, TrainingConfig
from engine.crop import Crop, chip_crop
from engine.errors import MissingWeights
from engine.parsing import FaceParts, parse_by_landmarks
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
    from engine.models.ip_adapter import IpAdapterFace
    from engine.stages.control import ControlPictures

PROFILES = ("mini", "sd15")
ID_TEMPLATES = Path(__file__).parent / "id_templates"


@dataclass(frozen=True)
class FromWords:
    """How a profile paints whole pictures from words. `chip`: the one square canvas that it knows, with the face in its
    canonical place; what comes out is doubled in size `doublings` times."""

    positive: str = ""  # added to every recipe's words
    negative: str = ""
    most_guidance: float = 30.0
    chip: int | None = None
    doublings: int = 0


class Profile(Protocol):
    """The models of one product and the numbers that suit them."""

    name: str
    training: TrainingConfig
    portrait: PortraitConfig
    first_look: PortraitConfig  # for a person of whom nothing was learned yet
    whole_side: int  # px, longer side of the canvas for a whole picture
    from_words: FromWords
    positive: str  # what is added to every prompt, after the subject's trigger and the caller's words
    negative: str

    @property
    def detector(self) -> FaceDetector: ...
    @property
    def recogniser(self) -> FaceRecogniser: ...
    @property
    def segmenter(self) -> Segmenter: ...
    @property
    def retoucher(self) -> Retoucher: ...
    @property
    def enhancer(self) -> Enhancer: ...
    @property
    def fuser(self) -> FaceFuser: ...
    @property
    def diffusion(self) -> Diffusion: ...
    @property
    def control_pictures(self) -> ControlPictures: ...
    @property
    def ip_adapter(self) -> IpAdapterFace | None:
        """Asked for where a weight is above 0. None: the profile knows none."""
        ...

    @property
    def film_lora(self) -> Path | None:
        """Asked for where its weight is above 0. None: the profile knows none."""
        ...

    @property
    def content_check(self) -> ContentChecker | None:
        """None: what is delivered is not looked at."""
        ...

    def parse(self, rgb: Rgb, face: Face) -> FaceParts:
        """The parts of `face` that masks are made of."""
        ...

    def portrait_crop(self, rgb: Rgb, face: Face) -> Crop:
        """The canvas on which a face of `rgb` is learned and diffused."""
        ...

    def few_step_lora(self, wanted: FewStepLora) -> State:
        """That LoRA. Raises MissingWeights."""
        ...

    def id_templates(self) -> list[Photo]:
        """The pictures that validation renders are made on."""
        ...


def load_profile(name: str = "mini", device: str = "auto") -> Profile:
    """The profile of that name. `device`: "auto" takes a GPU if there is one.

    Raises ValueError for unknown names and MissingWeights when the profile's files are not there.
    """
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}: choose one of {', '.join(PROFILES)}")
    if name == "mini":
        return MiniProfile(device)
    from engine.sd15_profile import load_sd15_profile

    return load_sd15_profile(device)


def read_id_templates() -> list[Photo]:
    """The ID photos that come with the package: women and men by turns."""
    from engine.images import read_photo

    return [read_photo(path) for path in sorted(ID_TEMPLATES.glob("*.jpg"))]


class MiniProfile:
    """Everything that runs on a CPU and comes with the package: dlib, classical image work, the small diffusion."""

    name = "mini"
    whole_side = 256
    ip_adapter: IpAdapterFace | None = None
    film_lora: Path | None = None
    from_words = FromWords(most_guidance=2.0, chip=128, doublings=2)
    content_check: ContentChecker | None = None  # 128 pixels of painted face; a check would outweigh all other networks
    positive = ""
    negative = ""

    def __init__(self, device: str = "auto") -> None:
        self._device = device
        self.training = TrainingConfig(
            resolution=128,
            # For a small model, and a hundredth of the reference's image passes: docs/mini-model.md says why.
            rank=64,
            alpha=64,
            batch=4,
            accumulation=1,
            learning_rate=1e-3,
            up_rate=4.0,
            cool_down=0.4,
            snr_cap=1.0,
            face_weight=2.0,
            text_encoder_rate=0.0,
            variants=1,
            steps_per_photo=32,
            max_steps=160,
            validation_steps=80,
            validation_denoise_steps=14,
            validation_guidance=1.0,  # 1.5, 3 and 4 paint faces as like, for twice the time
            merge_best=4,
            validation_negative="",  # it knows none of the reference's words, and they triple the context
        )
        # Landmark fusion keeps the template's light by itself: mixing it with the template would show two faces. What
        # this small diffusion paints is less like a person than a photo of them is, so more of the second fusion stays.
        # Its LoRAs bring along the tint of the photos.
        self.portrait = PortraitConfig(fusion_before_ratio=1.0, fusion_after_ratio=0.85, hold_colours=True)
        self.first_look = self.portrait.with_changes(  # the small diffusion paints nobody that it did not learn
            first_diffusion=False, second_diffusion=False, super_resolution=False
        )

    @cached_property
    def detector(self) -> FaceDetector:
        from engine.models.dlib_faces import DlibDetector
        from engine.models.remembered_faces import RememberingDetector

        return RememberingDetector(DlibDetector())

    @cached_property
    def recogniser(self) -> FaceRecogniser:
        from engine.models.dlib_faces import DlibFaceId

        return DlibFaceId()

    @cached_property
    def segmenter(self) -> Segmenter:
        from engine.models.grabcut import GrabCut

        return GrabCut()

    @cached_property
    def retoucher(self) -> Retoucher:
        from engine.models.retouch import EdgePreservingRetoucher

        return EdgePreservingRetoucher()

    @cached_property
    def enhancer(self) -> Enhancer:
        from engine.models.lanczos import LanczosEnhancer

        return LanczosEnhancer()

    @cached_property
    def fuser(self) -> FaceFuser:
        from engine.models.landmark_fusion import LandmarkFuser

        return LandmarkFuser()

    @cached_property
    def diffusion(self) -> Diffusion:
        from engine.diffusion import Diffusion, chosen_device
        from engine.mini.model import load_mini

        parts = load_mini(device=chosen_device(self._device))
        return Diffusion(
            parts.unet, parts.vae, parts.text_encoder, parts.tokenizer, parts.controlnets, dict(parts.scheduler.config)
        )

    @cached_property
    def control_pictures(self) -> ControlPictures:
        from engine.models.mini_controls import MiniControls

        return MiniControls()

    def parse(self, rgb: Rgb, face: Face) -> FaceParts:
        return parse_by_landmarks(rgb, face)

    def portrait_crop(self, rgb: Rgb, face: Face) -> Crop:
        return chip_crop(face, self.training.resolution)

    def id_templates(self) -> list[Photo]:
        return read_id_templates()

    def few_step_lora(self, wanted: FewStepLora) -> State:
        raise MissingWeights(f"there is no {wanted} for the small diffusion: leave few_step_lora at none")
