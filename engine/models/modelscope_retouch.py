"""ModelScope's skin retouching (ABPN): blemishes removed, then the skin's tone evened; eyes, lips and hair are left.

The library's own pipeline for these networks does not open (release 1.40) and wants TensorFlow for a third step that
lightens all skin. Here the two networks of the modelscope package run on the files of the hub, with the constants of
that pipeline; skin is never lightened: nobody asks for a paler face.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from engine.errors import MissingWeights
from engine.models import torchvision_shim
from engine.types import Face, Rgb

if TYPE_CHECKING:
    from collections.abc import Iterator

SURROUNDING = 1.5  # side of the square that is retouched over the face's larger side
DETECTION_SIDE = 768  # px: blemishes are looked for at this size
TONE_SIDE = 512  # px: the evening layer is predicted at this size
PATCH, OVERLAP = 512, 32  # px: blemishes are painted over in tiles
MAYBE, SURELY = 0.35, 0.5  # of the blemish map: below nothing is painted, above everything
BORDER = 20 / 500  # share of the square's side over which the evening layer fades out


class AbpnRetoucher:
    """`strength` of the evening of tone, 0..1; blemishes are removed fully."""

    def __init__(self, folder: Path, device: str = "cpu", strength: float = 0.7) -> None:
        torchvision_shim.install()
        from modelscope.models.cv.skin_retouching.detection_model.detection_unet_in import DetectionUNet
        from modelscope.models.cv.skin_retouching.inpainting_model.inpainting_unet import RetouchingNet
        from modelscope.models.cv.skin_retouching.unet_deploy import UNet

        blemishes = _weights(folder / "joint_20210926.pth")
        self._device, self._strength = device, strength
        self._tone = _loaded(UNet(3, 3), _weights(folder / "pytorch_model.pt")["generator"], device)
        self._find = _loaded(DetectionUNet(n_channels=3, n_classes=1), blemishes["detection_net"], device)
        self._paint = _loaded(RetouchingNet(in_channels=4, out_channels=3), blemishes["inpainting_net"], device)

    @torch.inference_mode()
    def __call__(self, rgb: Rgb, face: Face) -> Rgb:
        window = _square_around(face, rgb)
        picture = torch.from_numpy(np.ascontiguousarray(rgb[window])).to(self._device)
        signed = picture.permute(2, 0, 1)[None].float() / 127.5 - 1
        even = self._evened(self._without_blemishes(signed))
        result = rgb.copy()
        result[window] = (even[0].permute(1, 2, 0) * 255).clamp(0, 255).byte().cpu().numpy()
        return result

    def _without_blemishes(self, signed: torch.Tensor) -> torch.Tensor:
        small = functional.interpolate(signed, (DETECTION_SIDE,) * 2, mode="bilinear", align_corners=True)
        found = functional.interpolate(torch.sigmoid(self._find(small)), signed.shape[2:], mode="nearest")
        keep = 1 - torch.where(found >= SURELY, 1.0, found) * (found >= MAYBE)
        height, width = signed.shape[2:]
        room = (OVERLAP, -width % PATCH + OVERLAP, OVERLAP, -height % PATCH + OVERLAP)
        padded, kept = functional.pad(signed, room), functional.pad(keep, room)
        painted = torch.empty_like(padded)
        for rows, columns in _tiles(padded):
            tile, mask = padded[:, :, rows, columns], kept[:, :, rows, columns]
            mixed = tile * mask + (1 - mask) * self._paint(tile * mask, mask)
            inner = slice(OVERLAP, -OVERLAP)
            painted[:, :, rows, columns][:, :, inner, inner] = mixed[:, :, inner, inner]
        return painted[:, :, OVERLAP : OVERLAP + height, OVERLAP : OVERLAP + width]

    def _evened(self, signed: torch.Tensor) -> torch.Tensor:
        """A soft-light blend with the predicted layer (0.5 changes nothing), 0..1."""
        layer = self._tone(functional.interpolate(signed, (TONE_SIDE,) * 2, mode="bilinear"))
        layer = ((layer - 0.5) * self._strength).clamp(-0.5, 0.5)
        layer = functional.interpolate(layer, signed.shape[2:], mode="bilinear")
        layer = layer * _fading(signed.shape[2], signed.shape[3]).to(signed.device)
        image = (signed + 1) / 2
        return image + 2 * layer * image * (1 - image)


def _weights(file: Path) -> dict[str, dict[str, torch.Tensor]]:
    if not file.is_file():
        raise MissingWeights(f"{file} is not there: run `python -m engine models fetch {file.parent.name}`")
    weights: dict[str, dict[str, torch.Tensor]] = torch.load(file, map_location="cpu", weights_only=True)
    return weights


def _loaded(network: torch.nn.Module, weights: dict[str, torch.Tensor], device: str) -> torch.nn.Module:
    network.load_state_dict(weights)
    network.to(device)
    network.eval()  # one of them returns nothing here
    return network


def _square_around(face: Face, rgb: Rgb) -> tuple[slice, slice]:
    left, top, right, bottom = face.box_xyxy
    half = max(face.width, face.height) * SURROUNDING / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    rows = slice(max(0, int(y - half)), min(rgb.shape[0], int(y + half)))
    columns = slice(max(0, int(x - half)), min(rgb.shape[1], int(x + half)))
    return rows, columns


def _tiles(padded: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    side = PATCH + 2 * OVERLAP
    for top in range(0, padded.shape[2] - 2 * OVERLAP, PATCH):
        for left in range(0, padded.shape[3] - 2 * OVERLAP, PATCH):
            yield slice(top, top + side), slice(left, left + side)


def _fading(height: int, width: int) -> torch.Tensor:
    """(H, W): 1 inside, falling to 0 at the border, so that the square leaves no edge."""

    def ramp(length: int) -> torch.Tensor:
        at = (torch.arange(length) + 0.5) / length
        return (torch.minimum(at, 1 - at) / BORDER).clamp(max=1)

    return torch.minimum(ramp(height)[:, None], ramp(width)[None, :])
