"""Puts head, neck, clothes and background together into one picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

from engine.make_templates import finish, garments, head
from engine.make_templates.average import Bust
from engine.make_templates.garments import Layer, Light, Place
from engine.make_templates.portraits import Array, mirror_points
from engine.make_templates.scenes import Colour, linear
from engine.types import Rgb

Look = Callable[[Array, Array, int], Array]  # (linear rgb, face mask, seed) -> display rgb 0..1


def clean(rgb: Array, face: Array, seed: int) -> Array:
    return finish.clean(rgb, seed)


@dataclass(frozen=True)
class Recipe:
    """Everything that makes one template."""

    id: str
    category: str
    title: dict[str, str]
    wears: str  # woman, man
    group: str
    size_wh: tuple[int, int]
    place: Place
    background: Callable[[tuple[int, int]], Array]
    clothes: tuple[Layer, ...]
    look: Look = clean
    light: Light = field(default_factory=Light)
    side_light: float = 0.10
    tilt: float = 0.0
    exposure: float = 1.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)  # of the light on the person
    gels: tuple[Colour, Colour] | None = None  # coloured lamps from left and right
    spill: float = 0.15
    mirrored: bool = False
    hair_v: float = -0.25  # how far down hair is kept, in face widths below the chin
    shrug: float = 0.13  # how far the shoulders are raised, in face widths
    build: float = 1.06  # size of the body for that head
    seed: int = 1


def compose(recipe: Recipe, bust: Bust) -> Rgb:
    """The finished picture, sRGB."""
    place, size_wh = recipe.place, recipe.size_wh
    if recipe.mirrored:
        bust = _mirror(bust)
    person = head.place_head(bust, size_wh, place, recipe.tilt)
    if recipe.wears == "woman":
        person = head.with_clear_ends(person, place)
    person = head.with_clear_jaw(person, place)
    person = head.with_hair(person, place, recipe.seed, {"woman": 0.12, "man": 0.05}[recipe.wears], recipe.hair_v)
    half = {"woman": 0.33, "man": 0.42}[recipe.wears]
    neck_rgb, neck_alpha = head.neck(person, place, recipe.light, half)
    chest = Place(place.chin_x, place.chin_y - recipe.shrug * place.face, place.face * recipe.build)
    cloth_rgb, cloth_alpha = garments.draw(recipe.clothes, size_wh, chest, recipe.light, recipe.seed)
    hull = head.face_hull(person.landmarks, person.alpha.shape, place.face * 0.012)
    rgb, alpha = _under_head(person, place, neck_rgb, neck_alpha, hull)
    ys = np.mgrid[0 : size_wh[1], 0 : size_wh[0]][0].astype(np.float32)
    shade = cv2.GaussianBlur(cloth_alpha, (0, 0), place.face * 0.03) * 0.35
    rgb = rgb * (1 - shade * (1 - hull))[..., None]
    rgb = rgb * (1 - cloth_alpha[..., None]) + cloth_rgb * cloth_alpha[..., None]
    # The face is in front of the collar.
    front = hull * person.alpha * np.clip((place.chin_y + 0.02 * place.face - ys) / (0.03 * place.face), 0, 1)
    rgb = rgb * (1 - front[..., None]) + person.rgb * front[..., None]
    alpha = alpha + cloth_alpha * (1 - alpha)
    rgb = head.relit(rgb, person, place, recipe.light, recipe.side_light) * np.array(recipe.tint, np.float32)
    if recipe.gels:
        rgb = head.gelled(rgb, person, place, *(linear(gel) for gel in recipe.gels))
    behind = recipe.background(size_wh)
    spill = cv2.GaussianBlur(1 - alpha, (0, 0), size_wh[0] / 70) * recipe.spill
    rgb = rgb * (1 - spill[..., None]) + cv2.GaussianBlur(behind, (0, 0), 30) * spill[..., None]
    picture = (rgb * alpha[..., None] + behind * (1 - alpha[..., None])) * recipe.exposure
    tone = recipe.look(picture.astype(np.float32), hull, recipe.seed)
    return np.clip(tone * 255 + 0.5, 0, 255).astype(np.uint8)


def _under_head(
    person: head.Head, place: Place, neck_rgb: Array, neck_alpha: Array, hull: Array
) -> tuple[Array, Array]:
    """Head with the drawn neck between the face and the hair behind it."""
    share = (neck_alpha * (1 - hull))[..., None]
    height, _ = person.alpha.shape
    ys = np.mgrid[0:height, 0 : person.alpha.shape[1]][0]
    below = np.clip((ys - person.landmarks[[4, 12], 1].mean()) / (0.12 * place.face), 0, 1).astype(np.float32)
    share = share * below[..., None]
    rgb = person.rgb * (1 - share) + neck_rgb * share
    alpha = np.maximum(person.alpha, neck_alpha * below)
    return rgb.astype(np.float32), alpha


def _mirror(bust: Bust) -> Bust:
    points = mirror_points(bust.landmarks, bust.rgb.shape[1])
    return Bust(
        np.ascontiguousarray(bust.rgb[:, ::-1]), np.ascontiguousarray(bust.alpha[:, ::-1]), points, bust.sources
    )
