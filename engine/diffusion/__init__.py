"""Latent diffusion as both halves of the engine use it. Importing this package imports torch."""

from engine.diffusion.core import Control, Diffusion, InpaintRequest, chosen_device

__all__ = ["Control", "Diffusion", "InpaintRequest", "chosen_device"]
