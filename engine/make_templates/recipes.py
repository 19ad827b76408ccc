"""The templates themselves: who, where, in what clothes and light, on which film."""

from __future__ import annotations

from functools import partial

from engine.make_templates import finish, scenes, wardrobe
from engine.make_templates.compose import Look, Recipe
from engine.make_templates.garments import Light, Place
from engine.make_templates.portraits import Array

PORTRAIT = (768, 1024)
LEFT, RIGHT, TOP = Light(-0.7, -0.45, 0.7, 0.65), Light(0.7, -0.45, 0.7, 0.65), Light(-0.15, -0.8, 0.75, 0.5)


def film(shadows: tuple[float, float, float], lights: tuple[float, float, float]) -> Look:
    def look(rgb: Array, face: Array, seed: int) -> Array:
        return finish.film(rgb, seed, shadows, lights)

    return look


def black_and_white(rgb: Array, face: Array, seed: int) -> Array:
    return finish.black_and_white(rgb, seed)


def oil(rgb: Array, face: Array, seed: int) -> Array:
    return finish.oil(rgb, face, seed)


def gallery() -> tuple[Recipe, ...]:
    """The built-in gallery."""
    return (*_id_gallery(), *_studio(), *_stage(), *_outdoors(), *_indoors(), *_painting())


def _id_gallery() -> tuple[Recipe, ...]:
    """On plain grounds, as offices ask for."""
    return (
        Recipe(
            "white",
            "id",
            {"en": "ID photo, white", "zh": "白底证件照"},
            "woman",
            "w_long",
            PORTRAIT,
            Place(384, 590, 290),
            partial(scenes.plain, top=(246, 247, 249), bottom=(232, 234, 238)),
            wardrobe.blazer("woman", (40, 47, 66), (238, 237, 234)),
            light=TOP,
            hair_v=0.10,
        ),
        Recipe(
            "blue",
            "id",
            {"en": "ID photo, blue", "zh": "蓝底证件照"},
            "man",
            "m_black",
            PORTRAIT,
            Place(384, 600, 285),
            partial(scenes.plain, top=(58, 120, 190), bottom=(98, 156, 214)),
            wardrobe.suit("man", (30, 34, 46), (242, 243, 246), (104, 34, 44)),
            light=TOP,
            hair_v=-0.48,
        ),
    )


def _studio() -> tuple[Recipe, ...]:
    """In front of a painted canvas."""
    return (
        Recipe(
            "grey_backdrop",
            "studio",
            {"en": "Grey backdrop", "zh": "灰色幕布"},
            "woman",
            "w_dark",
            PORTRAIT,
            Place(384, 560, 285),
            partial(scenes.studio, dark=(44, 47, 54), bright=(158, 158, 156), spot=(0.58, 0.38), seed=3),
            wardrobe.crew_sweater("woman", (150, 46, 44)),
            light=LEFT,
            side_light=0.16,
            hair_v=-0.14,
            tilt=2,
        ),
        Recipe(
            "dark_suit",
            "studio",
            {"en": "Dark suit", "zh": "深色西装"},
            "man",
            "m_dark",
            PORTRAIT,
            Place(384, 570, 285),
            partial(scenes.studio, dark=(26, 28, 34), bright=(112, 104, 96), spot=(0.36, 0.42), seed=5),
            wardrobe.suit("man", (26, 28, 34), (236, 238, 242), (44, 66, 104), 0.09),
            light=RIGHT,
            side_light=0.16,
            hair_v=-0.48,
        ),
        Recipe(
            "business",
            "studio",
            {"en": "Business portrait", "zh": "职业形象照"},
            "man",
            "m_fair",
            (1024, 1024),
            Place(512, 620, 295),
            partial(scenes.studio, dark=(120, 130, 142), bright=(226, 230, 234), spot=(0.45, 0.4), seed=8),
            wardrobe.blazer("man", (60, 68, 84), (232, 234, 238)),
            light=TOP,
            hair_v=-0.48,
        ),
    )


def _stage() -> tuple[Recipe, ...]:
    """Strong light: coloured lamps, black and white."""
    return (
        Recipe(
            "neon",
            "studio",
            {"en": "Neon light", "zh": "霓虹灯影"},
            "woman",
            "w_east",
            PORTRAIT,
            Place(384, 580, 295),
            partial(scenes.studio, dark=(14, 10, 30), bright=(74, 34, 110), spot=(0.75, 0.35), seed=12),
            wardrobe.crew_sweater("woman", (60, 60, 66), "cloth"),
            gels=((255, 96, 170), (70, 150, 255)),
            hair_v=0.05,
            tilt=-2,
            exposure=1.1,
        ),
        Recipe(
            "black_and_white",
            "studio",
            {"en": "Black and white", "zh": "经典黑白"},
            "man",
            "m_silver",
            PORTRAIT,
            Place(384, 580, 295),
            partial(scenes.studio, dark=(18, 18, 18), bright=(120, 120, 120), spot=(0.68, 0.36), seed=9),
            wardrobe.turtleneck("man", (34, 34, 36)),
            black_and_white,
            LEFT,
            0.28,
            hair_v=-0.48,
            exposure=0.88,
        ),
    )


def _outdoors() -> tuple[Recipe, ...]:
    """Colour film, places out of focus: a street, a garden."""
    return (
        Recipe(
            "evening_lights",
            "film",
            {"en": "Evening lights", "zh": "城市夜色"},
            "woman",
            "w_black",
            PORTRAIT,
            Place(392, 585, 295),
            partial(
                scenes.evening_lights,
                seed=11,
                tints=((255, 190, 110), (255, 120, 80), (120, 190, 255), (255, 230, 190)),
                sky=((34, 44, 74), (52, 42, 52)),
            ),
            wardrobe.turtleneck("woman", (40, 42, 48)),
            film((0.0, 0.018, 0.03), (0.02, 0.005, -0.02)),
            LEFT,
            0.18,
            hair_v=-0.06,
            tint=(1.03, 0.96, 0.9),
            exposure=0.95,
            tilt=-2,
        ),
        Recipe(
            "garden",
            "film",
            {"en": "Summer garden", "zh": "夏日花园"},
            "man",
            "m_brown",
            PORTRAIT,
            Place(384, 590, 285),
            partial(scenes.garden, seed=4),
            wardrobe.open_shirt("man", (196, 214, 230)),
            film((0.012, 0.016, 0.0), (0.02, 0.012, -0.02)),
            RIGHT,
            0.12,
            hair_v=-0.48,
            tint=(1.04, 1.0, 0.92),
            tilt=2,
        ),
    )


def _indoors() -> tuple[Recipe, ...]:
    """Colour film, by a window and a lamp."""
    return (
        Recipe(
            "window_light",
            "film",
            {"en": "Window light", "zh": "窗边光影"},
            "woman",
            "w_red",
            (1024, 1024),
            Place(512, 610, 300),
            partial(scenes.window_light, wall=(198, 186, 168), slant=0.35),
            wardrobe.crew_sweater("woman", (86, 104, 92)),
            film((0.012, 0.01, 0.012), (0.02, 0.008, -0.015)),
            LEFT,
            0.2,
            hair_v=-0.05,
        ),
        Recipe(
            "library",
            "film",
            {"en": "In the library", "zh": "书香"},
            "woman",
            "w_short",
            PORTRAIT,
            Place(384, 580, 290),
            partial(scenes.library, seed=2),
            wardrobe.turtleneck("woman", (222, 210, 190)),
            film((0.014, 0.008, 0.0), (0.02, 0.008, -0.02)),
            LEFT,
            0.16,
            hair_v=-0.15,
            tint=(1.04, 0.98, 0.88),
        ),
    )


def _painting() -> tuple[Recipe, ...]:
    """Oil paint."""
    return (
        Recipe(
            "oil_portrait",
            "painting",
            {"en": "Oil portrait", "zh": "油画肖像"},
            "woman",
            "w_blond",
            PORTRAIT,
            Place(384, 580, 300),
            partial(scenes.studio, dark=(36, 30, 24), bright=(128, 98, 62), spot=(0.32, 0.36), seed=7),
            wardrobe.blazer("woman", (92, 28, 34), (226, 214, 190)),
            oil,
            LEFT,
            0.22,
            hair_v=-0.1,
            tint=(1.05, 0.98, 0.86),
        ),
        Recipe(
            "sunset",
            "painting",
            {"en": "Sunset by the sea", "zh": "海边日落"},
            "man",
            "m_east",
            (1280, 896),
            Place(720, 560, 270),
            partial(scenes.sunset, seed=6),
            wardrobe.open_shirt("man", (232, 224, 208)),
            oil,
            LEFT,
            0.18,
            hair_v=-0.48,
            tint=(1.08, 0.96, 0.84),
        ),
    )


def id_photos() -> tuple[Recipe, ...]:
    """Plain head-and-shoulders pictures for the validation renders of training: two women, two men."""
    size_wh, place = (512, 704), Place(256, 415, 215)
    white = partial(scenes.plain, top=(246, 247, 249), bottom=(232, 234, 238))
    red = partial(scenes.plain, top=(150, 26, 30), bottom=(176, 40, 42))
    blue = partial(scenes.plain, top=(58, 120, 190), bottom=(98, 156, 214))
    navy, shirt = wardrobe.blazer("woman", (40, 47, 66), (238, 237, 234)), (242, 243, 246)
    title: dict[str, str] = {}
    return (
        Recipe("1", "id", title, "woman", "w_brown", size_wh, place, white, navy, light=TOP, hair_v=0.0),
        Recipe(
            "2",
            "id",
            title,
            "man",
            "m_brown",
            size_wh,
            place,
            white,
            wardrobe.suit("man", (30, 34, 46), shirt, (60, 88, 130)),
            light=TOP,
            hair_v=-0.48,
        ),
        Recipe(
            "3",
            "id",
            title,
            "woman",
            "w_east",
            size_wh,
            place,
            red,
            wardrobe.blazer("woman", (34, 36, 44), (238, 237, 234)),
            light=TOP,
            hair_v=0.0,
        ),
        Recipe(
            "4",
            "id",
            title,
            "man",
            "m_black",
            size_wh,
            place,
            blue,
            wardrobe.crew_sweater("man", (232, 232, 230), "cloth"),
            light=TOP,
            hair_v=-0.48,
        ),
    )
