"""The look of the finished picture: film stock, black and white, oil paint. Pictures are linear light 0..1."""

from __future__ import annotations

import cv2
import numpy as np

from engine.make_templates.portraits import Array


def to_srgb(rgb: Array) -> Array:
    return (np.clip(rgb, 0, 1) ** (1 / 2.2)).astype(np.float32)


def curve(tone: Array, strength: float) -> Array:
    """A soft S over display values."""
    return (tone * (1 - strength) + (tone * tone * (3 - 2 * tone)) * strength).astype(np.float32)


def vignette(rgb: Array, amount: float) -> Array:
    height, width = rgb.shape[:2]
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    r2 = ((xs / width - 0.5) ** 2 + (ys / height - 0.48) ** 2) * 2
    return (rgb * (1 - amount * np.clip(r2 * 1.3, 0, 1) ** 1.3)[..., None]).astype(np.float32)


def grain(tone: Array, amount: float, seed: int, size: float = 0.8) -> Array:
    """Film grain, strongest in the middle tones."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(0, 1, tone.shape[:2]).astype(np.float32), (0, 0), size)
    noise = noise / noise.std()
    tint = cv2.GaussianBlur(rng.normal(0, 1, tone.shape).astype(np.float32), (0, 0), size) * 0.35
    mid = 0.45 + 2.2 * tone * (1 - tone)
    return np.clip(tone + amount * mid * (noise[..., None] + tint), 0, 1).astype(np.float32)


def clean(rgb: Array, seed: int) -> Array:
    """A digital camera: neutral, with a trace of noise."""
    return grain(curve(to_srgb(rgb), 0.18), 0.008, seed)


def film(rgb: Array, seed: int, shadows: tuple[float, float, float], lights: tuple[float, float, float]) -> Array:
    """Colour negative film: lifted tinted shadows, warm lights, a red glow around what is bright, grain."""
    bright = np.clip(rgb - 0.55, 0, None)
    width = rgb.shape[1]
    glow = cv2.GaussianBlur(bright, (0, 0), width * 0.012) * np.array([1.0, 0.35, 0.12]) * 0.5
    bloom = cv2.GaussianBlur(rgb, (0, 0), width * 0.015) * 0.08
    tone = curve(to_srgb(vignette(rgb * 0.94 + glow + bloom, 0.35)), 0.22)
    share = tone.mean(2, keepdims=True)
    tone = tone + (1 - share) ** 2 * np.array(shadows) + share**2 * np.array(lights)
    return grain(np.clip(0.03 + 0.95 * tone, 0, 1).astype(np.float32), 0.010, seed, 0.9)


def black_and_white(rgb: Array, seed: int) -> Array:
    """Panchromatic film with an orange filter: clear skin, deep shadows."""
    grey = rgb @ np.array([0.52, 0.38, 0.10], np.float32)
    tone = curve(to_srgb(vignette(np.repeat(grey[..., None], 3, 2) * 1.05, 0.45)), 0.45)
    tone = grain(tone.mean(2, keepdims=True).repeat(3, 2), 0.0, seed)
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(0, 1, tone.shape[:2]).astype(np.float32), (0, 0), 0.9)
    mid = 0.45 + 2.2 * tone * (1 - tone)
    tone = tone + 0.014 * mid * (noise / noise.std())[..., None]
    return np.clip(tone * np.array([1.0, 0.99, 0.965]), 0, 1).astype(np.float32)


def oil(rgb: Array, face: Array, seed: int, radius: int = 7) -> Array:
    """Oil paint: strokes along the forms, finer on the face (`face` 1), relief of the bristles, canvas."""
    tone = curve(to_srgb(vignette(rgb, 0.4)), 0.2)
    tone = _varied(tone, seed)
    fine, coarse = _kuwahara(tone, max(radius // 3, 2)), _kuwahara(_kuwahara(tone, radius), radius // 2)
    share = (face * 0.92)[..., None]
    painted = coarse * (1 - share) + (0.45 * tone + 0.55 * fine) * share
    strokes = _bristles(painted.mean(2), seed)
    depth = (1 - 0.75 * face)[..., None]
    painted = painted * (1 + 0.036 * depth * strokes[..., None])
    height, width = face.shape
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    canvas = np.sin(xs * 2 * np.pi / 3.2) * np.sin(ys * 2 * np.pi / 3.2)
    painted = painted * (1 + 0.018 * canvas[..., None]) * np.array([1.02, 1.0, 0.95])
    return np.clip(painted, 0, 1).astype(np.float32)


def _varied(tone: Array, seed: int) -> Array:
    """Small patches of warmer and cooler paint."""
    rng = np.random.default_rng(seed)
    patches = cv2.GaussianBlur(rng.normal(0, 1, tone.shape).astype(np.float32), (0, 0), 5)
    return np.clip(tone + 0.010 * patches / patches.std() * np.sqrt(tone), 0, 1).astype(np.float32)


def _kuwahara(tone: Array, radius: int) -> Array:
    """Generalised Kuwahara filter: each pixel takes the mean of the calmest of eight sectors around it."""
    ys, xs = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    angle, far = np.arctan2(ys, xs), np.hypot(xs, ys)
    total, weights = np.zeros_like(tone), np.zeros(tone.shape[:2], np.float32)
    for sector in range(8):
        away = np.abs(np.angle(np.exp(1j * (angle - sector * np.pi / 4))))
        kernel = np.exp(-((away / 0.5) ** 2) - (far / radius) ** 2 * 1.5).astype(np.float32)
        kernel /= kernel.sum()
        mean = cv2.filter2D(tone, -1, kernel, borderType=cv2.BORDER_REFLECT)
        square = cv2.filter2D(tone * tone, -1, kernel, borderType=cv2.BORDER_REFLECT)
        spread = np.clip(square - mean * mean, 0, None).sum(2) + 1e-5
        weight = spread**-4.0 / 1e12
        total += mean * weight[..., None]
        weights += weight
    return (total / weights[..., None]).astype(np.float32)


def _bristles(grey: Array, seed: int) -> Array:
    """Relief of brush hairs along the picture's smooth edge directions: zero mean, unit spread."""
    soft = cv2.GaussianBlur(grey, (0, 0), 6)
    gx, gy = cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)
    jxx, jyy, jxy = (cv2.GaussianBlur(v, (0, 0), 14) for v in (gx * gx, gy * gy, gx * gy))
    along = 0.5 * np.arctan2(2 * jxy, jxx - jyy) + np.pi / 2
    vx, vy = np.cos(along).astype(np.float32), np.sin(along).astype(np.float32)
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(0, 1, grey.shape).astype(np.float32), (0, 0), 1.1)
    height, width = grey.shape
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    total = noise.copy()
    for sign in (1.0, -1.0):
        x, y = xs.copy(), ys.copy()
        for _ in range(14):
            fx, fy = (cv2.remap(v, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE) for v in (vx, vy))
            x, y = x + sign * 1.3 * fx, y + sign * 1.3 * fy
            total += cv2.remap(noise, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    relief = total - cv2.GaussianBlur(total, (0, 0), 5)
    lit = cv2.Sobel(relief, cv2.CV_32F, 0, 1) + cv2.Sobel(relief, cv2.CV_32F, 1, 0)
    return lit / (lit.std() + 1e-6)
