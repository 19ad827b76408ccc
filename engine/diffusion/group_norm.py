"""Group normalisation where channels lie last in memory, as a GPU's tensor cores want them.

Torch's own kernel copies such pictures into the other layout, works with one processor per group (32 of an H100's 132
for a single picture) and leaves the next convolution to copy back: for the autoencoder's large pictures that was half
of its time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelsLastGroupNorm(nn.GroupNorm):
    """The same numbers within the type's rounding. Sums are in float32; other layouts go torch's way."""

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != 4 or not input.is_contiguous(memory_format=torch.channels_last) or not self.affine:
            return super().forward(input)
        count, channels, height, width = input.shape
        groups = (count, self.num_groups, channels // self.num_groups)
        pixels = input.permute(0, 2, 3, 1).reshape(count, height * width, channels)
        mean = pixels.mean(1, dtype=torch.float32).view(groups).mean(2, keepdim=True)
        squares = torch.linalg.vector_norm(pixels, 2, 1, dtype=torch.float32).square().view(groups)
        variance = (squares.mean(2, keepdim=True) / (height * width) - mean.square()).clamp(min=0)
        scale = torch.rsqrt(variance + self.eps) * self.weight.float().view(groups[1:])
        shift = self.bias.float().view(groups[1:]) - mean * scale
        scale, shift = (part.to(input.dtype).view(count, 1, channels) for part in (scale, shift))
        normal = torch.addcmul(shift, pixels, scale)
        return normal.view(count, height, width, channels).permute(0, 3, 1, 2)


def use_channels_last_norms(network: nn.Module) -> None:
    """Makes every group normalisation of `network` one of these, weights and all."""
    for module in network.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = ChannelsLastGroupNorm
