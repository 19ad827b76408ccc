"""Figure 1, box "caption": one fixed sentence for every photo, so that the LoRA ties the person to the trigger."""

from __future__ import annotations


def training_caption(trigger: str) -> str:
    """The caption of every training crop and the prompt of every validation render."""
    return trigger
