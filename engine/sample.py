"""Makes the demo's sample subject: seven "selfies" from the astronaut portrait that scikit-image carries.

The picture is NASA's official portrait of Eileen Collins, in the public domain. Each selfie turns the head (a height
field over the head, rotated), frames it anew, and changes background, light, colour and noise, as the photos of one
person on a phone differ. Command: `python -m engine.sample OUT_DIR`.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.data import astronaut

from engine.types import Mask, Rgb

logger = logging.getLogger(__name__)

# Where things are in the 512x512 portrait, in its pixels.
HEAD_CENTRE = (226.0, 108.0)
HEAD_RADII = (78.0, 100.0)
HEAD_DEPTH = 66.0
NOSE = (225.0, 121.0)
NECK_FROM_Y, NECK_TO_Y = 168.0, 222.0
FRESH_SKIN = np.array([1.03, 0.96, 1.02], np.float32)  # the scan has a green cast
FINE = 4  # the portrait is enlarged once, and every selfie reads from the large one

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Selfie:
    """How one selfie differs from the portrait. Angles in degrees as in `engine.types.HeadPose`."""

    yaw: float
    pitch: float
    roll: float
    centre: tuple[float, float]  # of the frame, in the portrait
    span: float  # width of the frame, in the portrait's pixels
    size_wh: tuple[int, int]
    gamma: float
    warmth: float  # > 0 warmer
    light: tuple[float, float, float]  # direction x, y and strength of the side light
    scene: tuple[tuple[int, int, int], tuple[int, int, int], int]  # top and bottom colour, number of blurred lights
    jpeg_quality: int = 90


SELFIES = (
    Selfie(0, 0, 1, (226, 128), 262, (896, 1120), 1.00, 0.00, (1, 0, 0.10), ((196, 205, 210), (150, 158, 165), 0)),
    Selfie(13, 2, -5, (236, 122), 232, (900, 1200), 0.92, 0.10, (1, -0.3, 0.26), ((226, 205, 170), (150, 112, 80), 9)),
    Selfie(-13, 0, 4, (214, 130), 268, (960, 960), 1.08, -0.06, (-1, 0, 0.26), ((120, 142, 160), (66, 78, 90), 7)),
    Selfie(-7, 6, 8, (226, 120), 262, (840, 1120), 0.96, 0.03, (0.4, -1, 0.20), ((150, 185, 215), (96, 132, 84), 6)),
    Selfie(8, -6, -9, (224, 118), 216, (800, 1000), 1.12, 0.12, (-0.7, -0.5, 0.28), ((92, 70, 58), (54, 40, 36), 16)),
    Selfie(
        17, -2, 3, (232, 132), 290, (1080, 1080), 0.95, -0.03, (1, 0.2, 0.22), ((214, 216, 206), (170, 176, 160), 4)
    ),
    Selfie(
        -16, 3, -2, (218, 120), 240, (900, 1125), 1.02, 0.05, (-1, -0.4, 0.22), ((186, 160, 150), (110, 92, 96), 8), 84
    ),
)


def sample_selfies(seed: int = 0) -> list[Rgb]:
    """Seven pictures of one person; the same seed gives the same pixels."""
    portrait = astronaut()
    matte = _person(portrait)
    colour = _without_background(portrait, matte)
    large = cv2.resize(colour, None, fx=FINE, fy=FINE, interpolation=cv2.INTER_LANCZOS4)
    large = np.clip(large + 0.55 * (large - cv2.GaussianBlur(large, (0, 0), 4.5)), 0, 255)
    large = np.clip(large + 0.35 * (large - cv2.GaussianBlur(large, (0, 0), 1.8)), 0, 255)
    soft = np.clip(cv2.resize(matte, None, fx=FINE, fy=FINE, interpolation=cv2.INTER_CUBIC), 0, 1)
    return [_taken(selfie, large, soft, np.random.default_rng(seed + n)) for n, selfie in enumerate(SELFIES)]


def write_selfies(folder: Path, seed: int = 0) -> list[Path]:
    """Writes `selfie_1.jpg` … `selfie_7.jpg`; `folder` is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (selfie, rgb) in enumerate(zip(SELFIES, sample_selfies(seed), strict=True), start=1):
        path = folder / f"selfie_{number}.jpg"
        _, jpeg = cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, selfie.jpeg_quality])
        path.write_bytes(jpeg.tobytes())
        paths.append(path)
    return paths


def _person(portrait: Rgb) -> Mask:
    """GrabCut of the person without the helmet on her knee, softened along the picture's own edges."""
    trimap = np.full(portrait.shape[:2], cv2.GC_BGD, np.uint8)
    trimap[8:, 10:372] = cv2.GC_PR_BGD
    trimap[300:, 372:] = cv2.GC_PR_FGD
    cv2.ellipse(trimap, ((226, 100), (150, 172), 0), cv2.GC_PR_FGD, -1)  # type: ignore[call-overload]
    cv2.fillPoly(
        trimap, [np.array([(120, 190), (300, 190), (350, 300), (360, 511), (30, 511), (60, 270)])], cv2.GC_PR_FGD
    )
    cv2.ellipse(trimap, ((224, 105), (100, 150), 0), cv2.GC_FGD, -1)  # type: ignore[call-overload]
    cv2.fillPoly(trimap, [np.array([(140, 210), (290, 210), (335, 300), (340, 511), (50, 511), (90, 280)])], cv2.GC_FGD)
    cv2.setRNGSeed(1)
    cv2.grabCut(portrait, trimap, None, np.zeros((1, 65)), np.zeros((1, 65)), 6, cv2.GC_INIT_WITH_MASK)
    hard = np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    hard = cv2.morphologyEx(hard, cv2.MORPH_OPEN, np.ones((5, 5)))
    return _follow_edges(cv2.cvtColor(portrait, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255, hard.astype(np.float32))


def _follow_edges(guide: Float, mask: Mask, radius: int = 4, eps: float = 2e-4) -> Mask:
    """Guided filter (He et al. 2010): the mask's border follows the guide's edges."""

    def mean(values: Float) -> Float:
        return cv2.blur(values, (2 * radius + 1, 2 * radius + 1))

    slope = (mean(guide * mask) - mean(guide) * mean(mask)) / (mean(guide * guide) - mean(guide) ** 2 + eps)
    offset = mean(mask) - slope * mean(guide)
    soft = mean(slope) * guide + mean(offset)
    return np.clip((soft - 0.15) / 0.75, 0, 1).astype(np.float32)


def _without_background(portrait: Rgb, matte: Mask) -> Float:
    """The portrait whose person's colours run on beyond the outline, so that no old background shows in hair."""
    sure = cv2.erode((matte > 0.97).astype(np.float32), np.ones((3, 3)))
    spread, weight = portrait * sure[..., None], sure
    run_on = cv2.GaussianBlur(spread, (0, 0), 5) / (cv2.GaussianBlur(weight, (0, 0), 5)[..., None] + 1e-4)
    keep = cv2.GaussianBlur(sure, (0, 0), 0.9)[..., None]
    return (portrait * keep + run_on * (1 - keep)).astype(np.float32)


def _taken(selfie: Selfie, large: Float, soft: Mask, rng: np.random.Generator) -> Rgb:
    frame = _frame(selfie)
    field = _turned(frame, selfie)
    read = ((field + 0.5) * FINE - 0.5).astype(np.float32)
    person = cv2.remap(large, read, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    matte = cv2.remap(soft, read, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    behind = ((_scene(selfie, rng) / 255) ** 2.2).astype(np.float32)
    light = _light(frame, selfie)
    person = np.clip(person / 255, 0, 1) ** 2.2 * light * FRESH_SKIN
    # Light of the scene spills over the person's edge, as it does in front of a lens.
    spill = cv2.GaussianBlur(1 - matte, (0, 0), selfie.size_wh[0] / 60) * 0.35
    person = person * (1 - spill[..., None]) + cv2.GaussianBlur(behind, (0, 0), 25) * spill[..., None] * 0.8
    linear = person * matte[..., None] + behind * (1 - matte[..., None])
    linear = linear * (1 + selfie.warmth * np.array([1.0, 0.05, -0.8]))
    out = np.clip(linear, 0, 1) ** (selfie.gamma / 2.2) * 255
    grain = cv2.GaussianBlur(rng.normal(0, 1, out.shape).astype(np.float32), (0, 0), 0.8) * 3.0
    return np.clip(out + grain, 0, 255).astype(np.uint8)


def _frame(selfie: Selfie) -> Float:
    """(H, W, 2): the place in the upright portrait that each pixel of the selfie shows, before the head turns."""
    width, height = selfie.size_wh
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    scale = selfie.span / width
    dx, dy = (xs - width / 2) * scale, (ys - height / 2) * scale
    angle = np.deg2rad(-selfie.roll)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.dstack([selfie.centre[0] + cos * dx - sin * dy, selfie.centre[1] + sin * dx + cos * dy])


def _turned(frame: Float, selfie: Selfie) -> Float:
    """Where in the portrait to read so that the head appears turned. The body below the neck stays."""
    yaw, pitch = np.deg2rad(selfie.yaw), np.deg2rad(selfie.pitch)
    stays = np.clip((frame[..., 1] - NECK_FROM_Y) / (NECK_TO_Y - NECK_FROM_Y), 0, 1)
    share = 1 - stays * stays * (3 - 2 * stays)
    x, y = frame[..., 0] - HEAD_CENTRE[0], frame[..., 1] - HEAD_CENTRE[1]
    read_x, read_y = x.copy(), y.copy()
    for _ in range(12):  # fixed point of "the place that moves here"
        depth = _depth(read_x, read_y)
        read_x = 0.5 * read_x + 0.5 * ((x - share * depth * np.sin(yaw)) / (1 - share * (1 - np.cos(yaw))))
        read_y = 0.5 * read_y + 0.5 * (y + share * depth * np.sin(pitch))
    return np.dstack([read_x + HEAD_CENTRE[0], read_y + HEAD_CENTRE[1]]).astype(np.float32)


def _depth(x: Float, y: Float) -> Float:
    """Height of the head towards the viewer: a flattened ellipsoid with a nose."""
    r2 = (x / HEAD_RADII[0]) ** 2 + (y / HEAD_RADII[1]) ** 2
    head = HEAD_DEPTH * np.clip(1 - r2, 0, None) ** 1.1
    nose = 9 * np.exp(-(((x + HEAD_CENTRE[0] - NOSE[0]) / 11) ** 2) - ((y + HEAD_CENTRE[1] - NOSE[1]) / 17) ** 2)
    return head + nose


def _light(frame: Float, selfie: Selfie) -> Float:
    """(H, W, 1) gain of a side light on the height field and on the shoulders."""
    x, y = (frame[..., 0] - HEAD_CENTRE[0]) / 75, (frame[..., 1] - HEAD_CENTRE[1]) / 110
    towards = np.tanh(x) * selfie.light[0] + np.tanh(y) * selfie.light[1]
    return (1 + selfie.light[2] * 1.6 * towards)[..., None].astype(np.float32)


def _scene(selfie: Selfie, rng: np.random.Generator) -> Float:
    """An out-of-focus room: a gradient, large soft shapes and blurred lights."""
    width, height = selfie.size_wh
    top, bottom, lights = selfie.scene
    ramp = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    scene = np.array(top, np.float32) * (1 - ramp) + np.array(bottom, np.float32) * ramp
    scene = np.repeat(scene, width, 1)
    for _ in range(6):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        w, h = int(rng.integers(width // 6, width // 2)), int(rng.integers(height // 6, height))
        shade = scene[min(y, height - 1), min(x, width - 1)] * rng.uniform(0.72, 1.18)
        cv2.rectangle(scene, (x - w // 2, y - h // 2), (x + w // 2, y + h // 2), shade.tolist(), -1)
    scene = cv2.GaussianBlur(scene, (0, 0), width / 28)
    glow = np.zeros_like(scene)
    for _ in range(lights):
        disc = np.zeros_like(scene)
        place = (int(rng.integers(0, width)), int(rng.integers(0, int(height * 0.7))))
        tint = np.array([255, rng.uniform(190, 240), rng.uniform(120, 220)]) * rng.uniform(0.15, 0.4)
        cv2.circle(disc, place, int(rng.uniform(0.02, 0.055) * width), tint.tolist(), -1, cv2.LINE_AA)
        glow += disc
    scene += cv2.GaussianBlur(glow, (0, 0), width / 220)
    return np.clip(scene, 0, 255).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m engine.sample", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for path in write_selfies(arguments.folder, arguments.seed):
        print(path)


if __name__ == "__main__":
    main()
