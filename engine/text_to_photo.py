"""From words to a template: a recipe says what to paint and where the face shall be; the picture is then one like any
other. Recipes are files in `engine/template_recipes/`, or an operator's own of the same form.

The reference takes one of ten drawn poses; here the pose is drawn from a mean head where the recipe puts the face.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import cos, radians, sin
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from engine.config import Config
from engine.crop import chip_crop
from engine.errors import NoFaceInTemplate, UnknownRecipe
from engine.images import write_whole
from engine.mini.chip import five_points
from engine.models.mean_head import MEAN_HEAD
from engine.profiles import Profile
from engine.provenance import write_portrait
from engine.stages.template import SMALLEST_FACE
from engine.types import Face, HeadPose, Photo, Points

RECIPES = Path(__file__).parent / "template_recipes"
GREY = 127  # what the noise of the first step drowns
TRIES = 4  # pictures painted until one shows a face
MULTIPLE = 64  # sides of the canvas
FACE_OF_BOX = 0.95  # width of the landmarks over that of a detector's box


class FacePlace(Config):
    """Where the face shall be, in shares of the picture, and how it is turned, in degrees (see HeadPose)."""

    x: Annotated[float, Field(ge=0, le=1)] = 0.5
    y: Annotated[float, Field(ge=0, le=1)] = 0.36
    width: Annotated[float, Field(ge=0.1, le=0.8)] = 0.34
    yaw: Annotated[float, Field(ge=-40, le=40)] = 0.0
    pitch: Annotated[float, Field(ge=-25, le=25)] = 0.0


class Recipe(Config):
    """One template. Size, steps and guidance are the reference's; a profile with one canvas has its own size."""

    prompt: Annotated[str, Field(min_length=1, max_length=1000)]
    negative: Annotated[str, Field(max_length=500)] = ""
    title: dict[str, str] = Field(default_factory=dict)
    category: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,16}$")] = "painted"
    wears: Literal["woman", "man", "any"] = "any"
    width: Annotated[int, Field(ge=64, le=2048)] = 624
    height: Annotated[int, Field(ge=64, le=2048)] = 832
    face: FacePlace = FacePlace()
    pose_weight: Annotated[float, Field(ge=0, le=2)] = 0.5
    steps: Annotated[int, Field(ge=1, le=150)] = 30
    guidance: Annotated[float, Field(ge=1, le=30)] = 7.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 12345


def recipe_names(folder: Path = RECIPES) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.json"))


def read_recipe(name: str, folder: Path = RECIPES) -> Recipe:
    """Raises `UnknownRecipe`."""
    if name not in recipe_names(folder):
        raise UnknownRecipe(f"there is no recipe {name!r}: choose from {', '.join(recipe_names(folder))}")
    try:
        return Recipe.model_validate(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
    except (ValidationError, ValueError) as error:
        raise UnknownRecipe(f"{name}.json is no recipe: {error}") from error


def painted_template(
    recipe: Recipe, profile: Profile, seed: int | None = None, on_step: Callable[[int, int], None] = lambda a, b: None
) -> Photo:
    """The recipe's picture, of the first of a few seeds that shows a face. Raises `NoFaceInTemplate`."""
    from engine.diffusion import Control, InpaintRequest

    kind = profile.from_words
    width, height = (kind.chip, kind.chip) if kind.chip else (_on_grid(recipe.width), _on_grid(recipe.height))
    face = posed_face(recipe.face, width, height)
    if kind.chip:
        face = chip_crop(face, kind.chip).moved_face(face)
    grey = np.full((height, width, 3), GREY, np.uint8)
    request = InpaintRequest(
        image=grey,
        mask=None,
        prompt=", ".join(part for part in (recipe.prompt, kind.positive) if part),
        negative=", ".join(part for part in (recipe.negative, kind.negative) if part),
        steps=recipe.steps,
        strength=1.0,
        guidance=min(recipe.guidance, kind.most_guidance),
        controls=(Control("pose", profile.control_pictures.pose(grey, face), recipe.pose_weight),),
    )
    first = recipe.seed if seed is None else seed
    for attempt in range(TRIES):
        (rgb,) = profile.diffusion.inpaint(replace(request, seed=first + attempt), on_step)
        for _ in range(kind.doublings):
            rgb = profile.enhancer(rgb)
        if any(face.width >= SMALLEST_FACE for face in profile.detector(rgb)):
            return Photo("painted.jpg", rgb)
    raise NoFaceInTemplate(f"{TRIES} pictures were painted from these words, none shows a face")


def painted_gallery(recipes: Mapping[str, Recipe], out: Path, profile: Profile) -> list[dict[str, Any]]:
    """Every recipe as `<out>/<category>/<name>.jpg` with a title beside it, as galleries are laid out. A recipe that
    fails is said and costs no other."""
    made: list[dict[str, Any]] = []
    for name, recipe in recipes.items():
        path = out / recipe.category / f"{name}.jpg"
        try:
            template = painted_template(recipe, profile)
        except NoFaceInTemplate as error:
            made.append({"recipe": name, "file": None, "why": str(error)})
            continue
        check = profile.content_check
        if check and not check.is_safe(template.rgb):
            made.append({"recipe": name, "file": None, "why": "the content check refused it"})
            continue
        write_portrait(path, template.rgb)
        info = {"title": recipe.title or {"en": name}, "people": 1, "wears": recipe.wears}
        write_whole(path.with_suffix(".json"), (json.dumps(info, ensure_ascii=False, indent=2) + "\n").encode())
        made.append({"recipe": name, "file": str(path), "size": list(template.rgb.shape[1::-1])})
    return made


def posed_face(place: FacePlace, width: int, height: int) -> Face:
    """The mean head where `place` says, in a picture of that size."""
    yaw, pitch = radians(place.yaw), radians(place.pitch)
    about_y = np.array([[cos(yaw), 0, sin(yaw)], [0, 1, 0], [-sin(yaw), 0, cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, cos(pitch), -sin(pitch)], [0, sin(pitch), cos(pitch)]])
    head = (MEAN_HEAD - MEAN_HEAD.mean(0)) @ (about_x @ about_y).T
    points = head[:, :2] * place.width * FACE_OF_BOX * width / float(np.ptp(MEAN_HEAD[:, 0]))
    landmarks: Points = (points + np.array([place.x * width, place.y * height])).astype(np.float32)
    (left, top), (right, bottom) = landmarks.min(0), landmarks.max(0)
    box = (float(left), float(top), float(right), float(bottom))
    five = five_points(landmarks).astype(np.float32)
    return Face(box, five, landmarks, 1.0, HeadPose(place.yaw, place.pitch, 0.0))


def _on_grid(side: int) -> int:
    return max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE)
