"""Every number of the two pipelines, with its range, reason and source.

The defaults are the reference system's (EasyPhoto, arXiv 2310.04672) unless the comment says otherwise. A profile may
replace some of them (`engine/profiles.py`); the code path is the same.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

TRIGGER = "easyphoto_face, easyphoto, 1person"
MIN_PHOTOS = 5
MAX_PHOTOS = 20


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def with_changes(self, **changes: Any) -> Any:
        """A checked copy: ranges hold for the changed values too."""
        return type(self).model_validate({**self.model_dump(), **changes})


class ScoreAgainst(StrEnum):
    """Which photos validation renders are compared to."""

    HELD_OUT = "held_out"  # photos that the LoRA never saw
    TRAINING = "training"  # the reference's way, which rewards copying


class PhotoLimits(Config):
    """Beyond the first number a photo is refused, beyond the second one warned about."""

    width_px: tuple[float, float] = (48, 80)
    sharpness: tuple[float, float] = (0.2, 0.7)
    light_tone: tuple[float, float] = (60, 90)  # too dark below
    middle_tone: tuple[float, float] = (18, 32)  # too dark below
    clipped: tuple[float, float] = (0.4, 0.28)  # too bright above
    dark_tone: tuple[float, float] = (170, 140)  # too bright (washed out) above
    yaw_deg: tuple[float, float] = (42, 32)
    pitch_deg: tuple[float, float] = (38, 30)
    eye_light: tuple[float, float] = (0.45, 0.6)  # dark glasses below (engine/occlusion.py)
    mouth_contrast: tuple[float, float] = (0.07, 0.1)  # covered below
    lower_face_tint: tuple[float, float] = (26, 20)  # covered above


class TrainingConfig(Config):
    """LoRA training of one subject (figure 1)."""

    resolution: Annotated[int, Field(ge=64, le=1024)] = 512
    validation_steps: Annotated[int, Field(ge=1, le=1000)] = 100  # also the checkpoint interval
    max_steps: Annotated[int, Field(ge=1, le=10_000)] = 800
    steps_per_photo: Annotated[int, Field(ge=1, le=1000)] = 200
    batch: Annotated[int, Field(ge=1, le=32)] = 1
    accumulation: Annotated[int, Field(ge=1, le=64)] = 4
    # Without effect: latents are made once and kept, nothing is left to load. Here because the reference has it.
    dataloader_workers: Annotated[int, Field(ge=0, le=32)] = 0
    # GiB of the GPU that the process may hold while it trains; 0: all that there is. A batch that does not fit is taken
    # in parts, then activations are computed twice: slower, but the same training. Costs: docs/performance.md.
    memory_gib: Annotated[float, Field(ge=0)] = 0
    learning_rate: Annotated[float, Field(gt=0, le=1e-2)] = 1e-4
    up_rate: Annotated[float, Field(ge=1, le=64)] = 1.0  # of the up matrices, times the others' (LoRA+, Hayou 2024)
    cool_down: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of the steps over which the rate falls to 0 at the end
    snr_cap: Annotated[float, Field(ge=0, le=100)] = 0.0  # min-SNR weights (Hang 2023); 0: every timestep alike
    face_weight: Annotated[float, Field(ge=0, le=10)] = 0.0  # how much more an error on brows, eyes, nose, mouth counts
    text_encoder_rate: Annotated[float, Field(ge=0, le=1)] = 0.5  # of learning_rate; 0: text encoder left out
    rank: Annotated[int, Field(ge=1, le=256)] = 128
    alpha: Annotated[int, Field(ge=1, le=256)] = 64
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-2
    clip_grad: Annotated[float, Field(gt=0)] = 1.0
    min_photos: Annotated[int, Field(ge=2, le=MAX_PHOTOS)] = MIN_PHOTOS
    held_out_share: Annotated[float, Field(ge=0, lt=1)] = 0.2  # at least one photo is kept out
    crop_scale: Annotated[float, Field(ge=1, le=5)] = 3.0  # side of the training crop over the face box
    keep_hair: bool = True
    trigger: str = TRIGGER
    variants: Annotated[int, Field(ge=1, le=64)] = 8  # cached latents per photo, each a little moved, turned and relit
    mirror: bool = False  # the reference mirrors half of them; faces are not symmetric
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 12345
    # validation renders, figure 1 "validation"
    validation_strength: Annotated[float, Field(gt=0, le=1)] = 0.65
    validation_denoise_steps: Annotated[int, Field(ge=1, le=150)] = 20
    validation_guidance: Annotated[float, Field(ge=1, le=30)] = 9.0
    score_against: ScoreAgainst = ScoreAgainst.HELD_OUT
    validation_negative: str = (  # the reference's list
        "sketch, low quality, worst quality, low quality shadow, lowres, inaccurate eyes, huge eyes, longbody, "
        "bad anatomy, cropped, worst face, strange mouth, inaccurate limb, bad composition, ugly, noface, disfigured, "
        "duplicate, text, logo"
    )
    merge_best: Annotated[int, Field(ge=1, le=100)] = 10  # renders whose checkpoints are merged

    def steps_for(self, photos: int) -> int:
        """Optimizer steps for this many usable photos."""
        return min(photos * self.steps_per_photo, self.max_steps)


class FewStepLora(StrEnum):
    """Fast portraits: a LoRA of the catalogue, distilled for a sampler that needs few steps and no guidance."""

    NONE = "none"
    LCM = "lcm-lora"
    HYPER_SD = "hyper-sd-lora"


class PortraitConfig(Config):
    """One portrait from a subject and a template (figure 2)."""

    crop_face_preprocess: bool = True
    crop_scale: Annotated[float, Field(ge=1, le=5)] = 3.0
    fusion_before: bool = True
    fusion_before_ratio: Annotated[float, Field(ge=0, le=1)] = 0.6
    fusion_after: bool = True
    fusion_after_ratio: Annotated[float, Field(ge=0, le=1)] = 0.6
    first_diffusion: bool = True
    first_steps: Annotated[int, Field(ge=1, le=150)] = 50
    first_strength: Annotated[float, Field(gt=0, le=1)] = 0.45
    second_diffusion: bool = True
    second_steps: Annotated[int, Field(ge=1, le=150)] = 20
    second_strength: Annotated[float, Field(gt=0, le=1)] = 0.30
    guidance: Annotated[float, Field(ge=1, le=30)] = 7.0
    lora_weight: Annotated[float, Field(ge=0, le=2)] = 0.9
    film_lora_weight: Annotated[float, Field(ge=0, le=2)] = 0.0  # the reference's 0.65 changes faces too
    ip_adapter_weight: Annotated[float, Field(ge=0, le=1)] = 0.0  # the reference's: 0.3, without any LoRA 0.6
    canny_weight: Annotated[float, Field(ge=0, le=2)] = 0.5
    pose_weight: Annotated[float, Field(ge=0, le=2)] = 0.5
    color_weight: Annotated[float, Field(ge=0, le=2)] = 0.85
    second_canny_weight: Annotated[float, Field(ge=0, le=2)] = 1.0
    second_tile_weight: Annotated[float, Field(ge=0, le=2)] = 1.0
    hold_colours: bool = False  # a pass keeps the large-scale colours of its input; for models that tint
    color_shift_middle: bool = True
    color_shift_last: bool = True
    skin_retouch: bool = False
    makeup_transfer: bool = False
    makeup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.5
    face_shape_match: bool = False  # the whole canvas is painted, without the colour control, and the face taken out
    harmonise: bool = True  # several people: one pass over the joins after everybody is in
    harmonise_steps: Annotated[int, Field(ge=1, le=150)] = 30
    harmonise_strength: Annotated[float, Field(gt=0, le=1)] = 0.30
    background_restore: bool = False  # everything but the faces is painted once more: no pixel keeps its bits
    background_steps: Annotated[int, Field(ge=1, le=150)] = 30
    background_strength: Annotated[float, Field(gt=0, le=1)] = 0.35
    super_resolution: bool = True
    super_resolution_ratio: Annotated[float, Field(ge=0, le=1)] = 0.5
    few_step_lora: FewStepLora = FewStepLora.NONE  # with one, all first_steps and second_steps are executed
    candidates: Annotated[int, Field(ge=1, le=8)] = 1
    prompt: Annotated[str, Field(max_length=500)] = "masterpiece, beauty"
    negative_prompt: Annotated[str, Field(max_length=500)] = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 12345

    @property
    def paints(self) -> bool:
        """Whether the diffusion has anything to do."""
        return self.first_diffusion or self.second_diffusion


def fast_portrait(base: PortraitConfig, lora: FewStepLora = FewStepLora.LCM) -> PortraitConfig:
    """The same strengths in 4 and 2 steps. Guidance 1: its second branch is not computed, negative words do nothing."""
    result: PortraitConfig = base.with_changes(few_step_lora=lora, first_steps=4, second_steps=2, guidance=1.0)
    return result


class Style(StrEnum):
    """What a person in the chat chooses instead of sampler settings."""

    NATURAL = "natural"
    POLISHED = "polished"
    STRICT = "strict"


def portrait_style(style: Style, base: PortraitConfig) -> PortraitConfig:
    """The profile's base numbers bent towards a style."""
    changes: dict[Style, dict[str, Any]] = {
        Style.NATURAL: {},
        Style.POLISHED: {"skin_retouch": True, "first_strength": 0.5},
        Style.STRICT: {
            "first_strength": min(base.first_strength, 0.35),
            "fusion_before_ratio": max(base.fusion_before_ratio, 0.75),
            "fusion_after_ratio": max(base.fusion_after_ratio, 0.8),
        },
    }
    result: PortraitConfig = base.with_changes(**changes[style])
    return result
