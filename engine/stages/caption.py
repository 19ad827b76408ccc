"""Figure 1, box "caption": one fixed sentence for every photo, so that the LoRA ties the person to the trigger."""

from __future__ import annotations


def training_caption(trigger: str) -> str:
    """The caption of every training crop and the prompt of every validation render."""
    return trigger


# What validation renders are steered away from: the reference's list.
VALIDATION_NEGATIVE = (
    "sketch, low quality, worst quality, low quality shadow, lowres, inaccurate eyes, huge eyes, longbody, "
    "bad anatomy, cropped, worst face, strange mouth, inaccurate limb, bad composition, ugly, noface, disfigured, "
    "duplicate, text, logo"
)
