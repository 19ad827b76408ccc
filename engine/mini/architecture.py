"""The numbers of the small model, in one place: SD1.5's classes and schedule, sizes for a CPU. Random weights.

Chosen by timing on two CPU cores (docs/mini-model.md): transformers on all levels of the way up, because that is where
a LoRA can act; none on the finest level of the way down, so that LoRA training need not go back through it;
ControlNets of convolutions only.
"""

from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from engine.mini.chip import CANVAS

WIDTHS = (96, 160, 208)
LATENT = CANVAS // 4
CONTEXT_LENGTH = 32
TEXT_WIDTH = 128
CONTROLS = ("canny", "pose", "color")

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def new_vae() -> AutoencoderKL:
    """RGB in -1..1 at 128x128 <-> 4x32x32 latents."""
    return AutoencoderKL(
        block_out_channels=(64, 128, 160),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=CANVAS,
    )


def new_unet() -> UNet2DConditionModel:
    """Predicts the noise in latents, given the timestep and the text encoder's last hidden states."""
    return UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=4,
        out_channels=4,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D",) * 3,
    )


def new_text_encoder(vocabulary_size: int, bos: int, eos: int) -> CLIPTextModel:
    """CLIP's text tower, three layers. Pads with `eos`, as SD1.5's tokenizer does."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary_size,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT_LENGTH,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=eos,
        )
    )


def new_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet whose residuals fit `unet`; its convolutions start as the UNet's own."""
    net = ControlNetModel(
        in_channels=4,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        down_block_types=("DownBlock2D",) * 3,
        mid_block_type="UNetMidBlock2D",
        conditioning_embedding_out_channels=(16, 32, 64),
    )
    own = net.state_dict()
    source = unet.state_dict()
    shared = {k: v for k, v in source.items() if k in own and own[k].shape == v.shape}
    net.load_state_dict({**own, **shared})
    return net
