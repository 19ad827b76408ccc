"""What a LoRA file means, written down plainly, for tests of what works on many modules at once."""

from __future__ import annotations

from torch import Tensor

from engine import lora


def update(state: lora.State, name: str) -> Tensor:
    """(out, in) what a LoRA adds to the module of that kohya name; a convolution's kernel is flat in it."""
    down, up = (state[name + part].float().flatten(1) for part in (lora.DOWN, lora.UP))
    return up @ down * (float(state[name + lora.ALPHA]) / down.shape[0])
