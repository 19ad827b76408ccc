"""Endless face chips from a few hundred portraits, on the GPU.

A drawn chip is one portrait, or a new face made of two: bent to landmarks between theirs (thin-plate splines), with the
whole inner face, the eyes, the nose or the mouth of the second; then mirrored, turned, lit, coloured and set before
another background. Everything is seeded by the generator that is passed in.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.mini.chip import CANVAS
from engine.mini.train.stored import HOLD_OUT_EVERY, MARGIN, STORED, unpack_chips

MIRROR = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
     41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)  # fmt: skip
"""Which of the 68 landmarks takes each one's place in a mirror."""

# What may come from the second face, its landmarks, and how much of the identity moves with it.
PARTS = (
    (range(17, 68), 0.75),
    (range(17, 27), 0.15),
    (range(36, 48), 0.35),
    (range(27, 36), 0.2),
    (range(48, 68), 0.25),
)

BACKGROUNDS = ("", "dark", "grey", "white", "blue", "green", "brown", "red")
_COLOURS = ((0, 0, 0), (35, 35, 38), (125, 125, 125), (228, 228, 226), (70, 100, 150), (80, 120, 80), (120, 95, 75),
            (150, 70, 65))  # fmt: skip


@dataclass(frozen=True)
class Portraits:
    """Stored chips and their mirror images (second half), (m, 3, s, s) uint8; mattes (m, 1, s/2, s/2) uint8; landmarks
    (m, 68, 2) in stored pixels; `owner` (m,) the identity's number."""

    chips: Tensor
    mattes: Tensor
    landmarks: Tensor
    owner: Tensor

    @staticmethod
    def load(path: str, device: str, held_out: bool = False) -> "Portraits":
        """The training part of the file made by `prepare`, or the held-out tenth."""
        data = dict(np.load(path))
        rows = np.arange(len(data["names"]))
        rows = rows[(rows % HOLD_OUT_EVERY == 0) == held_out]
        chips = torch.from_numpy(np.ascontiguousarray(unpack_chips(data)[rows])).permute(0, 3, 1, 2).to(device)
        mattes = torch.from_numpy(data["matte"][rows])[:, None].to(device)
        points = torch.from_numpy(data["landmarks"][rows]).to(device)
        mirrored = points[:, torch.from_numpy(MIRROR).to(device)].clone()
        mirrored[..., 0] = STORED - 1 - mirrored[..., 0]
        return Portraits(
            torch.cat([chips, chips.flip(-1)]).contiguous(),
            torch.cat([mattes, mattes.flip(-1)]).contiguous(),
            torch.cat([points, mirrored]),
            torch.from_numpy(rows).to(device).repeat(2),
        )


@dataclass(frozen=True)
class Drawn:
    """`pictures` (n, 3, CANVAS, CANVAS) in -1..1; `landmarks` (n, 68, 2) canvas pixels; `first`, `second` rows of the
    portraits and `share` (n,) of the second in the identity; `background` (n,) index into BACKGROUNDS; `mono` (n,)."""

    pictures: Tensor
    landmarks: Tensor
    first: Tensor
    second: Tensor
    share: Tensor
    background: Tensor
    mono: Tensor


def plain(portraits: Portraits, rows: Tensor) -> Drawn:
    """The portraits as they are, on the canvas."""
    n = len(rows)
    zero = torch.zeros(n, device=rows.device)
    grid = _stored_grid(n, rows.device)
    pictures = _sample(portraits.chips[rows].float() / 127.5 - 1, grid)
    points = (portraits.landmarks[rows] - _SHIFT) / _SCALE
    return Drawn(pictures, points, rows, rows, zero, zero.long(), zero > 0)


def draw(portraits: Portraits, n: int, rng: torch.Generator, clean: float = 0.25) -> Drawn:
    """`n` new chips; a share `clean` of them is one unbent portrait (still turned, lit and coloured)."""
    device = portraits.chips.device
    m = len(portraits.chips)
    first, second = torch.randint(m, (2, n), device=device, generator=rng)
    bend = _uniform(n, rng, device) * 0.6
    bend = torch.where(_uniform(n, rng, device) < max(clean, 0.3), 0.0, bend)
    part = torch.randint(-5, len(PARTS), (n,), device=device, generator=rng)
    part = torch.where(bend == 0, -1, part)
    own, other = portraits.landmarks[first], portraits.landmarks[second]
    target = own + bend[:, None, None] * (other - own)
    affine, shift = _random_affine(n, rng, device)
    coarse = _stored_grid(n, device, _COARSE)
    centre = (STORED - 1) / 2
    moved = torch.einsum("nij,nhwj->nhwi", affine, coarse - centre) + centre + shift[:, None, None]
    move_first, move_second = _thin_plate(target, own - target, other - target, moved)
    grid_first = _fine(moved + move_first)
    face = _sample(portraits.chips[first].float() / 127.5 - 1, grid_first)
    matte = _sample(portraits.mattes[first].float() / 255, grid_first)
    donor = _sample(portraits.chips[second].float() / 127.5 - 1, _fine(moved + move_second))
    inverse = torch.linalg.inv(affine)
    on_chip = torch.einsum("nij,nkj->nki", inverse, target - centre - shift[:, None]) + centre
    landmarks = (on_chip - _SHIFT) / _SCALE
    face, share = _graft(face, donor, landmarks, part, 0.4 + 0.6 * _uniform(n, rng, device))
    face, background = _set_before(face, matte, rng)
    face, mono = _relight(face, rng)
    return Drawn(face, landmarks, first, second, share + 0.25 * bend * (1 - share), background, mono)


def face_weight(landmarks: Tensor, size: int, radius: float = 5.0) -> Tensor:
    """(n, 1, size, size) in 0..1: 1 on brows, eyes, nose and mouth, falling off over `radius` canvas pixels."""
    return _near(landmarks[:, 17:], size, radius)


_SCALE = STORED / MARGIN / CANVAS
_SHIFT = (STORED - STORED / MARGIN) / 2
_COARSE = 33


def _uniform(n: int, rng: torch.Generator, device: torch.device) -> Tensor:
    return torch.rand(n, device=device, generator=rng)


def _stored_grid(n: int, device: torch.device, size: int = CANVAS) -> Tensor:
    """(n, size, size, 2) stored-chip xy of the canvas' pixels (or of `size` evenly spread positions)."""
    line = torch.linspace(0, CANVAS - 1, size, device=device) * _SCALE + _SHIFT
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], -1).expand(n, -1, -1, -1)


def _fine(coarse: Tensor) -> Tensor:
    """A coarse position map at every canvas pixel."""
    up = F.interpolate(coarse.permute(0, 3, 1, 2), (CANVAS, CANVAS), mode="bilinear", align_corners=True)
    return up.permute(0, 2, 3, 1)


def _sample(pictures: Tensor, stored_xy: Tensor) -> Tensor:
    """Pictures of any size that show a stored chip, read at stored-chip positions."""
    grid = (stored_xy + 0.5) * (2 / STORED) - 1
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def _random_affine(n: int, rng: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """(n, 2, 2) rotation and scale, (n, 2) shift in stored pixels."""
    angle = (_uniform(n, rng, device) - 0.5) * 0.26
    scale = 0.88 + 0.24 * _uniform(n, rng, device)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    matrix = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    return matrix, (torch.rand(n, 2, device=device, generator=rng) - 0.5) * 0.07 * STORED


def _thin_plate(points: Tensor, first: Tensor, second: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Smooth displacements that equal `first` and `second` at `points` and 0 on the border (Bookstein 1989)."""
    n, device = len(points), points.device
    border = torch.tensor([[x, y] for x in (0.0, 0.5, 1.0) for y in (0.0, 0.5, 1.0) if (x, y) != (0.5, 0.5)])
    knots = torch.cat([points / STORED, border.to(device).expand(n, -1, -1)], 1)
    k = knots.shape[1]
    values = torch.cat([torch.cat([first, second], -1), torch.zeros(n, k - points.shape[1], 4, device=device)], 1)
    system = torch.zeros(n, k + 3, k + 3, device=device)
    system[:, :k, :k] = _plate_kernel(knots, knots) + 1e-3 * torch.eye(k, device=device)
    flat = torch.cat([torch.ones(n, k, 1, device=device), knots], -1)
    system[:, :k, k:], system[:, k:, :k] = flat, flat.transpose(1, 2)
    right = torch.cat([values, torch.zeros(n, 3, 4, device=device)], 1)
    weights = torch.linalg.solve(system, right)
    where = at.reshape(n, -1, 2) / STORED
    basis = torch.cat([_plate_kernel(where, knots), torch.ones_like(where[..., :1]), where], -1)
    field = (basis @ weights).reshape(*at.shape[:3], 4)
    return field[..., :2], field[..., 2:]


def _plate_kernel(a: Tensor, b: Tensor) -> Tensor:
    squared = (a[:, :, None] - b[:, None]).square().sum(-1)
    return squared * (squared + 1e-8).log()


def _near(points: Tensor, size: int, radius: float) -> Tensor:
    """(n, 1, size, size): 1 near any of (n, k, 2) canvas points, 0 far away; NaN points count for nothing."""
    line = torch.linspace(0, CANVAS - 1, size, device=points.device)
    dx = (line[None, None] - points[..., 0:1]).square()
    dy = (line[None, None] - points[..., 1:2]).square()
    squared = dy[..., :, None] + dx[..., None, :]
    nearest = squared.nan_to_num(1e6).amin(1, keepdim=True)
    return (1.3 * torch.exp(-nearest / (2 * radius**2))).clamp(max=1)


def _graft(face: Tensor, donor: Tensor, landmarks: Tensor, part: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
    """The face with one part of the donor's blended in, in the face's colours; the donor's share of the identity."""
    used = landmarks.new_full(landmarks.shape, float("nan"))
    share = torch.zeros_like(strength)
    for number, (indices, weight) in enumerate(PARTS):
        rows = part == number
        chosen = torch.tensor(list(indices), device=part.device)
        used[:, chosen] = torch.where(rows[:, None, None], landmarks[:, chosen], used[:, chosen])
        share = torch.where(rows, weight * strength, share)
    mask = F.interpolate(_near(used, 32, 5.0), (CANVAS, CANVAS), mode="bilinear", align_corners=True)
    inner = F.interpolate(face_weight(landmarks, 32), (CANVAS, CANVAS), mode="bilinear", align_corners=True)
    total = inner.sum((2, 3), keepdim=True)

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        mean = (x * inner).sum((2, 3), keepdim=True) / total
        return mean, ((x - mean).square() * inner).sum((2, 3), keepdim=True).div(total).sqrt() + 0.02

    (mean_a, std_a), (mean_b, std_b) = moments(face), moments(donor)
    matched = (donor - mean_b) * (std_a / std_b).clamp(0.6, 1.6) + mean_a
    mask = mask * strength.view(-1, 1, 1, 1)
    return face + mask * (matched - face), share


def _set_before(face: Tensor, matte: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """The head before another background, for 45 % of the chips: a colour with smooth clouds and a gradient."""
    n, device = len(face), face.device
    kind = torch.randint(1, len(BACKGROUNDS), (n,), device=device, generator=rng)
    kind = torch.where(_uniform(n, rng, device) < 0.45, kind, 0)
    colour = torch.tensor(_COLOURS, device=device)[kind].float() / 127.5 - 1
    colour = colour + (torch.rand(n, 3, device=device, generator=rng) - 0.5) * 0.16
    clouds = torch.randn(n, 1, 5, 5, device=device, generator=rng) * 0.14
    fine = torch.randn(n, 3, 17, 17, device=device, generator=rng) * 0.07
    clouds = F.interpolate(clouds, (CANVAS, CANVAS), mode="bicubic") + F.interpolate(
        fine, (CANVAS, CANVAS), mode="bicubic"
    )
    behind = colour[:, :, None, None] + clouds * _uniform(n, rng, device).view(-1, 1, 1, 1)
    soft = ((matte - 0.5) * 1.4 + 0.5).clamp(0, 1)
    mixed = face * soft + behind * (1 - soft)
    return torch.where((kind > 0).view(-1, 1, 1, 1), mixed, face).clamp(-1, 1), kind


def _relight(face: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Exposure, contrast, white balance, saturation, light from a side, grey, a little blur; which became grey."""
    n, device = len(face), face.device

    def number(low: float, high: float) -> Tensor:
        return (low + (high - low) * _uniform(n, rng, device)).view(-1, 1, 1, 1)

    line = torch.linspace(-1, 1, CANVAS, device=device)
    ramp = number(-0.3, 0.3) * line.view(1, 1, 1, -1) + number(-0.15, 0.15) * line.view(1, 1, -1, 1)
    x = ((face + 1) / 2).clamp(1e-3, 1) ** number(0.72, 1.35)
    balance = 1 + (torch.rand(n, 3, 1, 1, device=device, generator=rng) - 0.5) * 0.16
    x = x * balance * number(0.85, 1.15) * (1 + ramp * (number(0, 1) < 0.5))
    grey = x.mean(1, keepdim=True)
    mono = number(0, 1) < 0.06
    x = grey + (x - grey) * torch.where(mono, 0.0, number(0.7, 1.25))
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = x + (soft - x) * torch.where(number(0, 1) < 0.15, number(0.2, 0.9), number(-0.25, 0.0))
    return (x * 2 - 1).clamp(-1, 1), mono.view(-1)
