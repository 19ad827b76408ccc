"""Latent diffusion as both halves of the engine use it. Importing this package imports torch."""

from engine.diffusion.core import Control, Diffusion, InpaintRequest, Painting, chosen_device
from engine.diffusion.sampling import Sampler

__all__ = ["Control", "Diffusion", "InpaintRequest", "Painting", "Sampler", "chosen_device"]
