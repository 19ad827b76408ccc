"""What people wear in the templates, in face widths from the chin (see `garments`)."""

from __future__ import annotations

from engine.make_templates.garments import Layer, body, mirrored
from engine.make_templates.scenes import Colour, linear

SLOPE = {"woman": 0.22, "man": 0.20}
HALF = {"woman": 1.30, "man": 1.55}
NECK = {"woman": 0.34, "man": 0.43}


def _colour(colour: Colour) -> tuple[float, float, float]:
    r, g, b = linear(colour)
    return float(r), float(g), float(b)


def _trunk(who: str, collar_v: float, spread: float = 0.12) -> tuple[tuple[float, float], ...]:
    return body(HALF[who], SLOPE[who], NECK[who] + spread, collar_v)


def crew_sweater(who: str, colour: Colour, weave: str = "knit") -> tuple[Layer, ...]:
    """Round-neck sweater: the trunk and a ribbed collar on it."""
    n = NECK[who] + 0.06
    collar = (
        (0.0, 0.60),
        (n * 0.55, 0.53),
        (n, 0.30),
        (n + 0.09, 0.33),
        (n * 0.72, 0.64),
        (0.0, 0.74),
    )
    return (
        Layer(_scoop(who, 0.30, n, 0.60), _colour(colour), weave=weave, folds=0.6),
        Layer(mirrored(collar), _colour(colour), thick=0.03, shadow=0.25, weave="rib", folds=0.1),
    )


def _scoop(who: str, side_v: float, neck: float, depth_v: float) -> tuple[tuple[float, float], ...]:
    """Trunk with a round neckline that is `depth_v` deep in the middle and `side_v` at the neck."""
    half, slope = HALF[who], SLOPE[who]
    return mirrored(
        (
            (0.0, depth_v),
            (neck * 0.55, depth_v - 0.07),
            (neck, side_v),
            (neck + 0.2, side_v + 0.07),
            (half * 0.70, side_v + 0.14 + slope * 0.55),
            (half * 0.90, side_v + 0.24 + slope),
            (half * 1.01, side_v + 0.5 + slope),
            (half * 1.08, side_v + 1.2),
            (half * 1.12, side_v + 2.8),
            (0.0, side_v + 2.9),
        )
    )


def turtleneck(who: str, colour: Colour) -> tuple[Layer, ...]:
    n = NECK[who] + 0.035
    tube = ((0.0, 0.20), (n * 0.7, 0.15), (n, 0.06), (n + 0.03, 0.14), (n + 0.05, 0.38), (n * 0.8, 0.50), (0.0, 0.56))
    fold = (
        (0.0, 0.16),
        (n * 0.7, 0.11),
        (n + 0.01, 0.02),
        (n + 0.05, 0.10),
        (n + 0.05, 0.22),
        (n * 0.75, 0.33),
        (0.0, 0.38),
    )
    return (
        Layer(_trunk(who, 0.30, 0.10), _colour(colour), weave="knit", folds=0.6),
        Layer(mirrored(tube), _colour(colour), thick=0.10, shadow=0.25, weave="rib", folds=0.15),
        Layer(mirrored(fold), _colour(colour), thick=0.07, shadow=0.40, weave="rib", folds=0.15),
    )


def blazer(who: str, jacket: Colour, under: Colour, deep: float = 1.15) -> tuple[Layer, ...]:
    """Jacket with notched lapels over a plain top."""
    n = NECK[who] + 0.08
    top = Layer(_scoop(who, 0.30, n - 0.02, 0.56), _colour(under), weave="satin", folds=0.25, shadow=0.2)
    return (top, *_jacket(who, jacket, n, deep))


def suit(who: str, jacket: Colour, shirt: Colour, tie: Colour, stripes: float = 0.0) -> tuple[Layer, ...]:
    """Jacket, shirt with a turned-down collar, tie."""
    n = NECK[who] + 0.02
    collar = ((n + 0.05, 0.10), (n - 0.06, 0.16), (0.03, 0.47), (0.27, 0.72), (n + 0.12, 0.40))
    knot = ((-0.085, 0.44), (0.085, 0.44), (0.06, 0.60), (-0.06, 0.60))
    blade = ((-0.058, 0.59), (0.058, 0.59), (0.16, 1.6), (0.17, 2.8), (-0.17, 2.8), (-0.16, 1.6))
    left = tuple((-u, v) for u, v in collar)
    return (
        Layer(_bib(n), _colour(shirt), weave="satin", folds=0.25),
        Layer(blade, _colour(tie), thick=0.03, shadow=0.35, weave="satin", smooth=False, folds=0.15, stripes=stripes),
        Layer(knot, _colour(tie), thick=0.05, shadow=0.35, weave="satin", smooth=False, folds=0.1, stripes=stripes),
        Layer(collar, _colour(shirt), thick=0.018, shadow=0.30, weave="satin", smooth=False, folds=0.05, round=0.022),
        Layer(left, _colour(shirt), thick=0.018, shadow=0.30, weave="satin", smooth=False, folds=0.05, round=0.022),
        *_jacket(who, jacket, n + 0.06, 1.55),
    )


def _bib(n: float) -> tuple[tuple[float, float], ...]:
    """The part of a shirt that a jacket leaves free."""
    return mirrored(((0.0, 0.42), (n, 0.24), (n + 0.12, 0.34), (n + 0.3, 0.9), (n + 0.1, 2.6), (0.0, 2.8)))


def open_shirt(who: str, shirt: Colour) -> tuple[Layer, ...]:
    """Shirt with an open collar."""
    n = NECK[who] + 0.03
    collar = ((n + 0.05, 0.10), (n - 0.05, 0.17), (0.07, 0.66), (0.34, 0.86), (n + 0.14, 0.42))
    left = tuple((-u, v) for u, v in collar)
    placket = ((-0.06, 0.80), (0.075, 0.80), (0.08, 3.0), (-0.065, 3.0))
    cut = ((0.0, 0.86), (0.10, 0.72), (n, 0.20), (n + 0.2, 0.34))
    half, slope = HALF[who], SLOPE[who]
    trunk = mirrored(
        (
            *cut,
            (half * 0.70, 0.44 + slope * 0.55),
            (half * 0.90, 0.54 + slope),
            (half * 1.01, 0.8 + slope),
            (half * 1.08, 1.5),
            (half * 1.12, 3.1),
            (0.0, 3.2),
        )
    )
    return (
        Layer(trunk, _colour(shirt), folds=0.7),
        Layer(placket, _colour(shirt), thick=0.012, shadow=0.25, smooth=False, folds=0.1),
        Layer(collar, _colour(shirt), thick=0.02, shadow=0.40, smooth=False, folds=0.06, round=0.03),
        Layer(left, _colour(shirt), thick=0.02, shadow=0.40, smooth=False, folds=0.06, round=0.03),
    )


def _jacket(who: str, colour: Colour, n: float, deep: float) -> tuple[Layer, ...]:
    half, slope = HALF[who] * 1.04, SLOPE[who]
    side = (
        (n, 0.20),
        (n + 0.16, 0.30),
        (half * 0.70, 0.44 + slope * 0.55),
        (half * 0.92, 0.52 + slope),
        (half * 1.02, 0.75 + slope),
        (half * 1.08, 1.5),
        (half * 1.10, 3.2),
        (-0.10, 3.2),
        (-0.08, deep + 0.35),
        (-0.01, deep),
        (n * 0.55, 0.72),
    )
    lapel = (
        (n - 0.01, 0.17),
        (n + 0.13, 0.26),
        (n + 0.27, 0.62),
        (n + 0.20, 0.66),
        (n + 0.36, 0.70),
        (0.30, deep * 0.80),
        (0.02, deep + 0.04),
        (n * 0.50, 0.70),
    )
    pieces = []
    for sign in (-1, 1):
        pieces.append(
            Layer(tuple((sign * u, v) for u, v in side), _colour(colour), smooth=False, folds=0.55, thick=0.02)
        )
    for sign in (-1, 1):
        pieces.append(
            Layer(
                tuple((sign * u, v) for u, v in lapel),
                _colour(colour),
                thick=0.022,
                shadow=0.5,
                smooth=False,
                folds=0.06,
            )
        )
    return tuple(pieces)
