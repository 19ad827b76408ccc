"""Puts an average head on a canvas: placed, made crisp, given hair strands, a neck, and the key light's direction."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from engine.make_templates.average import Bust
from engine.make_templates.garments import Light, Place
from engine.make_templates.portraits import Array


@dataclass(frozen=True)
class Head:
    """A head on a canvas: linear rgb and alpha of canvas size, landmarks in its pixels."""

    rgb: Array
    alpha: Array
    landmarks: Array


def place_head(bust: Bust, size_wh: tuple[int, int], place: Place, tilt: float = 0.0) -> Head:
    """`bust` laid so that its chin is at `place`, its jaw `place.face` wide, tilted by `tilt` degrees clockwise."""
    jaw = np.linalg.norm(bust.landmarks[16] - bust.landmarks[0])
    scale = float(place.face / jaw)
    matrix = cv2.getRotationMatrix2D(tuple(map(float, bust.landmarks[8])), -tilt, scale)
    matrix[:, 2] += np.array([place.chin_x, place.chin_y]) - bust.landmarks[8]
    rgb = cv2.warpAffine(_crisp(bust.rgb), matrix, size_wh, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(bust.alpha, matrix, size_wh, flags=cv2.INTER_LINEAR)
    points = bust.landmarks @ matrix[:, :2].T.astype(np.float32) + matrix[:, 2].astype(np.float32)
    return Head(np.clip(rgb, 0, 1).astype(np.float32), np.clip(alpha, 0, 1), points)


def _crisp(rgb: Array) -> Array:
    """Gives back the contrast that averaging took from fine bands (a Laplacian pyramid with growing gain)."""
    tone = np.clip(rgb, 1e-5, 1) ** (1 / 2.2)
    out, gains = np.zeros_like(tone), (1.0, 1.5, 1.7, 1.35, 1.12)
    level = tone
    for sigma, gain in zip((1.0, 2.0, 4.0, 8.0, 16.0), gains, strict=True):
        coarse = cv2.GaussianBlur(level, (0, 0), sigma)
        out += gain * (level - coarse)
        level = coarse
    return np.clip(out + level, 0, 1) ** 2.2


def face_hull(points: Array, shape: tuple[int, ...], soft: float) -> Array:
    """1 inside jaw line and forehead, soft at the border."""
    brow = points[17:27] + (points[17:27] - points[8]) * 0.35
    mask = np.zeros(shape[:2], np.float32)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.int32(np.vstack([points[:17], brow]))), 1.0)
    return cv2.GaussianBlur(mask, (0, 0), soft)


def with_clear_jaw(head: Head, place: Place) -> Head:
    """Along the jaw the average has mixed skin with collars and backgrounds: skin runs on from inside the face."""
    middle = head.landmarks[[1, 15, 8]].mean(0)
    inner = face_hull((head.landmarks - middle) * np.float32(0.95) + middle, head.alpha.shape, place.face * 0.008)
    sure = inner[..., None] ** 2
    reach = place.face * 0.03
    skin = cv2.GaussianBlur(head.rgb * sure, (0, 0), reach) / (cv2.GaussianBlur(sure, (0, 0), reach)[..., None] + 1e-4)
    ys = np.mgrid[0 : head.alpha.shape[0], 0 : head.alpha.shape[1]][0].astype(np.float32)
    low = np.clip((ys - head.landmarks[[3, 13], 1].mean()) / (0.10 * place.face), 0, 1)
    near = face_hull((head.landmarks - middle) * np.float32(1.06) + middle, head.alpha.shape, place.face * 0.006)
    share = (near * (1 - inner) * low)[..., None]
    return Head((head.rgb * (1 - share) + skin * share).astype(np.float32), head.alpha, head.landmarks)


def with_clear_ends(head: Head, place: Place) -> Head:
    """Beside the jaw, hair and clothes have mixed in the average: the hair from above is mirrored down over them."""
    height, width = head.alpha.shape
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    fold = float(head.landmarks[[1, 15], 1].mean())
    above = np.where(ys > fold, fold - 0.35 * (ys - fold), ys).astype(np.float32)
    side = xs - head.landmarks[27, 0]
    row = np.flatnonzero(head.alpha[int(fold - 0.15 * place.face)] > 0.9)
    outer = (row[-1] - row[0]) / 2 - 0.06 * place.face
    clamped = np.where(side < 0, -1, 1) * np.clip(np.abs(side), outer - 0.08 * place.face, outer)
    outwards = np.where(ys > fold, clamped + head.landmarks[27, 0], xs)
    hair = cv2.remap(head.rgb, outwards.astype(np.float32), above, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    outside = 1 - face_hull(head.landmarks, head.alpha.shape, place.face * 0.02)
    share = (outside * np.clip((ys - fold) / (0.12 * place.face), 0, 1))[..., None]
    darker = 1 - 0.25 * np.clip((ys - fold) / (0.8 * place.face), 0, 1)[..., None]
    return Head((head.rgb * (1 - share) + hair * darker * share).astype(np.float32), head.alpha, head.landmarks)


def with_hair(head: Head, place: Place, seed: int, strength: float, ends_v: float) -> Head:
    """Strands along the hair's fall: streaks of light and dark, an outline that frays into single hairs.

    Hair ends `ends_v` face widths below the chin (above it where negative): what hangs lower in an average is blurred.
    """
    height, width = head.alpha.shape
    rng = np.random.default_rng(seed)
    crown = head.landmarks[27] + np.array([0.08 * place.face, -0.95 * place.face])
    streaks = _strands((height, width), crown, place, rng)
    hull = face_hull(head.landmarks, head.alpha.shape, place.face * 0.05)
    tone = np.clip(head.rgb, 0, 1) ** (1 / 2.2)
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    beside = np.exp(-(((xs - head.landmarks[8, 0]) / (0.55 * place.face)) ** 4))
    chin = beside * (ys > head.landmarks[4, 1] - 0.2 * place.face)
    hairy = np.clip(head.alpha * (1 - hull * 1.15), 0, 1) * _unlike_skin(tone, head, place) * (1 - chin)
    tone = tone * (1 + strength * streaks * hairy)[..., None] + (0.010 * np.clip(streaks, 0, 2) * hairy)[..., None]
    edge = cv2.GaussianBlur(head.alpha, (0, 0), place.face * 0.012)
    frayed = np.clip((edge + 0.12 * streaks * edge * (1 - edge) * 4 - 0.22) / 0.56, 0, 1)
    u, v = np.abs(xs - place.chin_x) / place.face, (ys - place.chin_y) / place.face
    wave = cv2.GaussianBlur(rng.normal(0, 1, (1, width)).astype(np.float32), (0, 0), 0.07 * place.face)
    ends = ends_v + 0.02 * wave / wave.std() - 0.9 * np.clip(u - 0.60, 0, None) ** 1.2
    reach = np.clip((ends - v) / 0.09 + 0.5 + 0.12 * streaks * (v > ends - 0.09), 0, 1)
    middle = head.landmarks[[1, 15, 8]].mean(0)
    face = face_hull((head.landmarks - middle) * np.float32(1.02) + middle, head.alpha.shape, place.face * 0.005)
    low = np.clip((v + 0.75) / 0.1, 0, 1)
    alpha = np.maximum(frayed * reach, face * low).astype(np.float32)
    return Head(np.clip(tone, 0, 1).astype(np.float32) ** 2.2, alpha, head.landmarks)


def _unlike_skin(tone: Array, head: Head, place: Place) -> Array:
    """0 where the colour is the cheeks', 1 where it is far from it."""
    lab = cv2.cvtColor(tone.astype(np.float32), cv2.COLOR_RGB2LAB)
    cheek = (head.landmarks[2] * 0.6 + head.landmarks[31] * 0.4).astype(int)
    half = max(int(place.face * 0.05), 2)
    skin = lab[cheek[1] - half : cheek[1] + half, cheek[0] - half : cheek[0] + half].reshape(-1, 3).mean(0)
    far = np.linalg.norm((lab - skin) * (0.6, 1.3, 1.0), axis=2)
    return cv2.GaussianBlur(np.clip((far - 8) / 14, 0, 1).astype(np.float32), (0, 0), place.face * 0.015)


def _strands(shape: tuple[int, int], crown: Array, place: Place, rng: np.random.Generator) -> Array:
    """Noise smeared along lines that leave the crown and turn down: about zero mean, unit spread."""
    height, width = shape
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    dx, dy = xs - np.float32(crown[0]), ys - np.float32(crown[1])
    fall = np.clip(dy / (0.9 * place.face), 0, 1) ** 0.7
    far = np.sqrt(dx * dx + dy * dy) + 1e-3
    vx = dx / far * (1 - fall) + 0.10 * np.sign(dx) * fall
    vy = dy / far * (1 - fall) + fall
    bend = cv2.GaussianBlur(rng.normal(0, 1, shape).astype(np.float32), (0, 0), place.face * 0.12)
    bend *= np.float32(0.22 / (bend.std() + 1e-6))
    cos, sin = np.cos(bend), np.sin(bend)
    vx, vy = vx * cos - vy * sin, vx * sin + vy * cos
    norm = np.sqrt(vx * vx + vy * vy) + 1e-6
    vx, vy = (vx / norm).astype(np.float32), (vy / norm).astype(np.float32)
    noise = rng.normal(0, 1, shape).astype(np.float32)
    fine = _smear(cv2.GaussianBlur(noise, (0, 0), 0.9), vx, vy, 24)
    broad = _smear(cv2.GaussianBlur(rng.normal(0, 1, shape).astype(np.float32), (0, 0), place.face * 0.014), vx, vy, 40)
    return 0.6 * fine / fine.std() + 0.6 * broad / broad.std()


def _smear(noise: Array, vx: Array, vy: Array, steps: int) -> Array:
    """Line integral convolution."""
    height, width = noise.shape
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    total = noise.copy()
    for sign in (1.0, -1.0):
        x, y = xs.copy(), ys.copy()
        for _ in range(steps):
            fx = cv2.remap(vx, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            fy = cv2.remap(vy, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            x, y = x + np.float32(sign * 1.5) * fx, y + np.float32(sign * 1.5) * fy
            total += cv2.remap(noise, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return total


def neck(head: Head, place: Place, light: Light, half: float) -> tuple[Array, Array]:
    """(linear rgb, alpha) of a neck below the jaw: the skin's own colour, round, in the chin's shadow."""
    height, width = head.alpha.shape
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    u, v = (xs - place.chin_x) / place.face, (ys - place.chin_y) / place.face
    cheeks = head.landmarks[[3, 13, 31, 35]].mean(0) * 0.5 + head.landmarks[[4, 12]].mean(0) * 0.5
    patch = face_hull(head.landmarks, head.alpha.shape, 1)
    low = (
        (patch > 0.9) & (ys > cheeks[1] - 0.15 * place.face) & (ys < cheeks[1] + 0.1 * place.face) & (np.abs(u) < 0.33)
    )
    skin = np.percentile(head.rgb[low], 74, axis=0)
    wide = half * (0.88 + 0.10 * np.clip((v + 0.2) / 0.5, 0, 1) + 0.9 * np.clip(v - 0.22, 0, 1) ** 1.5)
    alpha = np.clip((wide - np.abs(u)) * place.face / 2.5 + 0.5, 0, 1) * np.clip((v + 0.75) * 10, 0, 1)
    nx = np.clip(u / (half * 1.15), -1, 1)
    nz = np.sqrt(1 - np.clip(nx * nx, 0, 0.96))
    round_ = 0.60 + 0.42 * np.clip((nx * light.x * 0.8 + nz) / 1.1, 0, 1.1)
    under = 1 - 0.46 * np.exp(-np.clip(v + 0.03 + 0.25 * u * u, 0, None) / 0.17)
    cords = 1 + 0.07 * np.exp(-(((np.abs(u) - 0.16 - 0.05 * v) / 0.05) ** 2)) - 0.06 * np.exp(-((u / 0.07) ** 2))
    hollow = 1 - 0.22 * np.exp(-((u / 0.10) ** 2) - ((v - 0.62) / 0.10) ** 2)
    gain = (round_ * under * cords * hollow)[..., None]
    warm = np.array([1.0, 0.93, 0.88]) ** (0.25 * (1 - gain))
    rgb = skin * gain * warm
    return rgb.astype(np.float32), alpha.astype(np.float32)


def relit(rgb: Array, head: Head, place: Place, light: Light, amount: float) -> Array:
    """The head under a side light: a gain that follows an egg-shaped head, stronger with `amount` 0..1."""
    height, width = head.alpha.shape
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    u = (xs - head.landmarks[27, 0]) / place.face
    v = (ys - head.landmarks[29, 1]) / place.face
    towards = np.tanh(1.6 * u) * light.x * 1.1 + np.tanh(v) * light.y * 0.55
    return np.clip(rgb * (1 + amount * towards)[..., None], 0, 1).astype(np.float32)


def gelled(rgb: Array, head: Head, place: Place, left: Array, right: Array) -> Array:
    """Two coloured lamps, one from each side, as on a stage."""
    height, width = head.alpha.shape
    xs = np.mgrid[0:height, 0:width][1].astype(np.float32)
    side = (0.5 + 0.5 * np.tanh(2.4 * (xs - head.landmarks[28, 0]) / place.face))[..., None]
    light = left * (1 - side) ** 1.2 + right * side**1.2
    return np.clip(rgb * (0.30 + 1.25 * light) + 0.05 * light, 0, 1).astype(np.float32)
