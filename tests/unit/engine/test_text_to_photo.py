"""Templates from words: recipes as files, the pose that is drawn for them, a gallery on the small model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bot.templates import load_templates
from engine.__main__ import main
from engine.diffusion import InpaintRequest
from engine.errors import NoFaceInTemplate, UnknownRecipe
from engine.images import read_photo
from engine.models.dlib_faces import DlibDetector, head_pose
from engine.profiles import FromWords, MiniProfile
from engine.provenance import SOURCE_TYPE
from engine.text_to_photo import (
    TRIES,
    FacePlace,
    Recipe,
    painted_gallery,
    painted_template,
    posed_face,
    read_recipe,
    recipe_names,
)
from engine.types import Rgb


class Photographer:
    """Returns a photo whatever is asked for; a wall for the seeds of `blind`."""

    def __init__(self, photo: Rgb, blind: range = range(0)) -> None:
        self.photo, self.blind, self.requests = photo, blind, list[InpaintRequest]()

    def inpaint(self, request: InpaintRequest, on_step: object = None) -> list[Rgb]:
        self.requests.append(request)
        return [np.full((400, 300, 3), 90, np.uint8) if request.seed in self.blind else self.photo]


def profile_with(photographer: Photographer) -> MiniProfile:
    class Studio(MiniProfile):
        diffusion = photographer  # type: ignore[assignment]
        from_words = FromWords(positive="sharp", negative="text")

    return Studio("cpu")


@pytest.fixture(scope="module")
def photo(shared_data: Path) -> Rgb:
    return read_photo(shared_data / "templates" / "8.jpg", 500).rgb


def test_every_built_in_recipe_can_be_read_and_has_a_title_in_both_languages() -> None:
    recipes = {name: read_recipe(name) for name in recipe_names()}
    assert len(recipes) >= 10
    assert {recipe.wears for recipe in recipes.values()} == {"woman", "man", "any"}
    for name, recipe in recipes.items():
        assert len(name) <= 16
        assert set(recipe.title) == {"en", "zh"}
        assert recipe.category in {"id", "studio", "film", "painting"}


def test_a_recipe_that_is_none_is_said_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownRecipe, match=r"no recipe '../x': choose from baroque"):
        read_recipe("../x")
    (tmp_path / "bad.json").write_text('{"prompt": "", "width": 3}')
    with pytest.raises(UnknownRecipe, match=r"bad\.json is no recipe"):
        read_recipe("bad", tmp_path)


@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (25, 0), (-25, 0), (0, 15)])
def test_the_drawn_face_lies_and_looks_where_the_recipe_says(yaw: float, pitch: float) -> None:
    face = posed_face(FacePlace(x=0.4, y=0.3, width=0.3, yaw=yaw, pitch=pitch), 600, 800)
    assert face.landmarks.mean(0) == pytest.approx([240, 240], abs=30)
    if yaw == 0:
        assert face.width == pytest.approx(0.95 * 180, abs=2)
    seen = head_pose(face.landmarks)
    assert seen.yaw == pytest.approx(yaw, abs=8)
    assert np.sign(round((seen.pitch - head_pose(posed_face(FacePlace(), 600, 800).landmarks).pitch) / 5)) == np.sign(
        pitch
    )


def test_words_size_and_pose_reach_the_diffusion(photo: Rgb) -> None:
    photographer = Photographer(photo)
    template = painted_template(Recipe(prompt="a man in the rain"), profile_with(photographer))
    (request,) = photographer.requests
    assert np.array_equal(template.rgb, photo)
    assert request.image.shape == (832, 640, 3)
    assert (request.prompt, request.negative, request.mask) == ("a man in the rain, sharp", "text", None)
    assert (request.steps, request.guidance, request.seed) == (30, 7.0, 12345)
    assert [(control.name, control.weight) for control in request.controls] == [("pose", 0.5)]


def test_a_picture_without_a_face_is_painted_again_and_then_given_up(photo: Rgb) -> None:
    photographer = Photographer(photo, range(7, 9))
    painted_template(Recipe(prompt="x"), profile_with(photographer), seed=7)
    assert [request.seed for request in photographer.requests] == [7, 8, 9]
    blind = Photographer(photo, range(100))
    with pytest.raises(NoFaceInTemplate, match="none shows a face"):
        painted_template(Recipe(prompt="x"), profile_with(blind), seed=7)
    assert len(blind.requests) == TRIES


def test_a_gallery_of_recipes_is_one_that_the_bot_reads(photo: Rgb, tmp_path: Path) -> None:
    photographer = Photographer(photo, range(500, 600))
    recipes = {name: read_recipe(name) for name in ("rain", "id_white")}
    recipes["blank"] = Recipe(prompt="nobody", seed=500)
    made = painted_gallery(recipes, tmp_path, profile_with(photographer))
    assert [entry["file"] is None for entry in made] == [False, False, True]
    assert "none shows a face" in made[-1]["why"]
    templates = {template.template_id: template for template in load_templates(tmp_path).templates}
    assert set(templates) == {"rain", "id_white"}
    assert templates["rain"].category == "film"
    assert templates["rain"].title == {"en": "City in the rain", "zh": "雨夜城市"}
    with Image.open(tmp_path / "film" / "rain.jpg") as picture:
        assert SOURCE_TYPE in str(picture.info["xmp"])


def test_the_command_lists_recipes_and_says_which_is_unknown(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--json"]) == 0
    assert set(json.loads(capfd.readouterr().out)["recipes"]) == set(recipe_names())
    assert main(["recipes", "--only", "moon"]) == 1
    assert "no recipe 'moon'" in capfd.readouterr().err


@pytest.mark.slow
def test_the_small_model_paints_a_face_from_words(detector: DlibDetector) -> None:
    recipe = Recipe(prompt="photo of a woman, long dark hair, smile", steps=8)
    template = painted_template(recipe, MiniProfile("cpu"))
    assert template.rgb.shape == (512, 512, 3)
    (face, *_) = detector(template.rgb)
    assert 150 < face.width < 420
