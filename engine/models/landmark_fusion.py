"""Face fusion without a network: the reference's face, turned and lit as the template's, in the template's picture.

Both faces are read as a mean head plus a person's deviation (`mean_head`). The subject's head is drawn in the
template's pose, the template is bent moderately towards it, the reference's pixels are warped onto it with thin plate
splines, put into the template's light (low frequencies of skin only) and laid in with a soft mask that leaves hair in
front of the template's face where it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import cv2
import numpy as np

from engine.bending import STIFFNESS, Patch, Plane, bent, dense, face_width, nodes_over, sampled, spline
from engine.errors import FusionFailed
from engine.focus import Seen, as_fine
from engine.images import around_mask, column_sums, for_channels, smooth_step
from engine.models.mean_head import HeadView, with_forehead
from engine.parsing import around, way_up
from engine.skin import fringe, hull, share_inside
from engine.types import Face, Mask, Points, Rgb

JAW, BROWS = slice(0, 17), slice(17, 27)
FOREHEAD = slice(68, 74)
EYES = (slice(36, 42), slice(42, 48))
LIPS = slice(48, 60)

SHAPE = 0.85  # how far the template's geometry gives way to the subject's; 0 keeps the template's
SMALL = 160  # face width in pixels at which light and colours are compared: they are low frequencies
INNER = 0.2  # so far around its points the reference may show (a beard), share of the face width
LIGHT = 0.85  # share of the template's low-frequency light that replaces the reference's
DARKER = 1.8
FINE = 12.0
COARSE = 8  # pixels of a blur's sigma
LIGHT_RADIUS = 0.13  # sigma of that light, share of the face width
FOREHEAD_SHARE = 0.4  # how far above the brows the reference shows, of the distance from lips to brows
FADING = 0.8  # share of that part of the forehead from which on it fades out
BROW = 0.12  # how far above its points a brow reaches, of the distance from lips to brows
MEETING = 0.1  # sigma of the light that the forehead takes on above a fringed reference, share of the face width
MEETING_REACH = 0.2  # how far up it does, likewise
MEETING_KNOWN = 0.02  # share of a neighbourhood that must be edge on skin; with less, nothing is known
FRINGED_SHARE = 0.05  # FOREHEAD_SHARE of a reference whose fringe would look like a smear on the template's forehead
BEARDED = (0.35, 0.65)  # share of the chin that is not skin: shaven up to the first, bearded from the second
BEARD_BELOW = 0.4  # how far below the jaw a beard may reach, of the distance from lips to chin
DARKER_THAN_SKIN = 0.8  # a beard is, in L*; what is as light is a collar or the background
FEATHER = 0.02  # sigma of the mask's edge, share of the face width
TURNED_STIFFNESS = 1e-2  # smoothing of the splines that is added for heads turned apart
TURN = (15.0, 40.0)  # degrees between two heads over which it is added
MOST_TURNED = 55.0  # degrees between the two heads beyond which a flat picture has nothing to show


@dataclass(frozen=True)
class LandmarkFuser:
    """`FaceFuser` of the mini profile."""

    shape: float = SHAPE

    def __call__(self, template: Rgb, template_face: Face, reference: Rgb, reference_face: Face) -> Rgb:
        view, source = HeadView.of(template_face.landmarks), HeadView.of(reference_face.landmarks)
        angle = view.angle_to(source)
        if angle > MOST_TURNED:
            raise FusionFailed("the two heads are turned too far from each other")
        own = with_forehead(view.head(template_face.landmarks))
        subject = with_forehead(source.head(reference_face.landmarks))
        patch = Patch.around(view.project(own), template.shape)
        goal = view.project(own + self.shape * (subject - own)) - patch.origin
        below = bent(patch.cut(template), view.project(own) - patch.origin, goal)
        inner = around(goal, INNER * face_width(goal), below.shape)
        at = goal - np.array([inner[1].start, inner[0].start], np.float32)
        warp = _Warp(source.project(subject), at, view.scale / source.scale, _stiffness(angle))
        below[inner] = _laid_over(below[inner], reference, warp)
        return patch.put(template, below)


def _laid_over(below: Plane, reference: Rgb, warp: _Warp) -> Plane:
    """The reference's face at `warp.goal` of `below`, in its light, as far as it shows."""
    goal, template = warp.goal, Seen(below, warp.goal)
    fine, blur = as_fine(_warped(reference, warp, below.shape), template)
    face = Seen(fine, goal)
    skin = face.skin * template.skin
    lab_lit = _relit(face.lab, template.lab, skin, goal)
    lit = cv2.cvtColor(lab_lit, cv2.COLOR_LAB2RGB)
    fringed = fringe(face.skin, goal)
    shown = _alpha(goal, template.skin, face.skin, fringed)
    if fringed > 0:
        light = _light_above(lab_lit - template.lab, shown, 4 * shown * (1 - shown) * skin, goal)
        lab_below = template.lab + fringed * light * for_channels(_forehead(goal, template.skin))
        below = cv2.cvtColor(lab_below, cv2.COLOR_LAB2RGB)
    alpha = np.maximum(shown, _beard_below(goal, face.skin, cv2.extractChannel(face.lab, 0)))
    if blur:  # out of focus, an outline is so too
        alpha = cv2.GaussianBlur(alpha, (0, 0), blur)
    lit -= below
    lit *= for_channels(alpha)
    lit += below
    return lit


@dataclass(frozen=True)
class _Warp:
    """The reference's points (its own frame), where they go, how much the face shrinks, how stiff the spline is."""

    source: Points
    goal: Points
    shrink: float
    stiffness: float


def _stiffness(angle: float) -> float:
    """Smoothing for heads `angle` degrees apart: the far side of a nose hides, its points would fold the picture."""
    low, high = TURN
    return STIFFNESS + TURNED_STIFFNESS * float(np.clip((angle - low) / (high - low), 0, 1))


def _warped(reference: Rgb, warp: _Warp, shape: tuple[int, ...]) -> Plane:
    """The reference's face over its goal; shrunk by area first where it has more pixels than the template's."""
    patch = Patch.around(warp.source, reference.shape)
    cut = patch.cut(reference)
    at = warp.source - patch.origin
    if warp.shrink < 0.9:
        size = max(1, round(cut.shape[1] * warp.shrink)), max(1, round(cut.shape[0] * warp.shrink))
        at = (at + 0.5) * (np.array(size) / (cut.shape[1], cut.shape[0])) - 0.5
        cut = cv2.resize(cut, size, interpolation=cv2.INTER_AREA)
    nodes, grid = nodes_over(shape)
    moved = spline(warp.goal, at.astype(np.float32), nodes, warp.stiffness)
    warped = sampled(cut, dense(moved, grid, shape))
    return np.clip(warped, 0, 1, out=warped)


def _relit(face: Plane, below: Plane, skin: Mask, goal: Points) -> Plane:
    """`face` with the colours and the low-frequency light of `below`, both Lab, both judged on `skin` only.

    What differs from the reference's own light is kept and put on the template's light. Darker things (pupils,
    beards, shadows) keep their ratio to the skin, brighter ones (teeth, highlights) their share of the way to white, so
    that contrast survives any change of light.
    """
    small, size = _small(face.shape, goal)
    source, light, weight = (cv2.resize(v, size, interpolation=cv2.INTER_AREA) for v in (face, below, skin))
    inside = hull(goal * small, weight.shape)
    for part in (*EYES, LIPS, slice(17, 22), slice(22, 27)):
        inside *= 1 - cv2.dilate(hull(goal[part] * small, weight.shape), np.ones((5, 5)))
    weight = (weight + 1e-4) * inside + 1e-9
    radius = LIGHT_RADIUS * face_width(goal) * small
    from_, to = (
        cv2.resize(base, face.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        for base in _bases((source, light), weight, radius)
    )
    face_light, from_light, to_light = (cv2.extractChannel(lab, 0) for lab in (face, from_, to))
    detail = face_light - from_light
    darker = np.clip(to_light / np.maximum(from_light, 1), 0.6, DARKER)
    brighter = np.clip((100 - to_light) / np.maximum(100 - from_light, 1), 0.5, 1.2)
    gain = np.where(detail < 0, darker, brighter)
    gain -= 1
    gain *= np.tanh(np.abs(detail) / FINE)  # fine texture keeps its contrast, whichever side of the skin it is on
    gain += 1
    gain *= detail
    gain += to_light  # by now the brightness
    to -= from_
    to *= for_channels(np.clip(gain / np.maximum(to_light, 1), 0, 1))  # what is dark takes on no colour
    to += face
    return np.asarray(cv2.insertChannel(np.clip(gain, 0, 100, out=gain), to, 0), np.float32)


def _small(shape: tuple[int, ...], goal: Points) -> tuple[float, tuple[int, int]]:
    """By how much a picture of `shape` is shrunk for low frequencies, and the width and height that leaves."""
    small = min(1.0, SMALL / face_width(goal))
    return small, (max(8, round(shape[1] * small)), max(8, round(shape[0] * small)))


def _bases(faces: Sequence[Plane], weight: Mask, radius: float) -> Iterator[Plane]:
    """The light on each face: its Lab smoothed over what counts; over larger distances where little does."""
    trust = cv2.GaussianBlur(weight, (0, 0), radius, borderType=cv2.BORDER_CONSTANT)
    trust, total = for_channels(np.clip(trust / 0.25, 0, 1)), weight.sum()
    weighed = [plane * weight for lab in faces for plane in cv2.split(lab)]
    sums = column_sums(cv2.merge(weighed).reshape(weight.size, -1))
    for first in range(0, len(weighed), 3):
        both = cv2.merge([*weighed[first : first + 3], weight])
        far, near = _spread(both, 3 * radius), _spread(both, radius)
        mean = np.tile(sums[first : first + 3] / total, weight.shape[1]).reshape(1, -1, 3)
        near -= far
        near *= trust
        near += far
        near -= mean
        near *= LIGHT
        near += mean
        yield near


def _spread(both: Plane, radius: float) -> Plane:
    """Values blurred where their weight says that they count, carried on where it does not. `both` are the values times
    the weight, which is the last channel. What the blur leaves needs no fine grid: it is worked out on one whose pixels
    are an eighth of `radius`."""
    size = both.shape[1::-1]
    coarse = max(1, int(radius / COARSE))
    small = max(1, round(size[0] / coarse)), max(1, round(size[1] / coarse))
    both = cv2.resize(both, small, interpolation=cv2.INTER_AREA)
    sigma = radius * small[0] / size[0], radius * small[1] / size[1]
    both = cv2.GaussianBlur(both, (0, 0), sigma[0], sigmaY=sigma[1], borderType=cv2.BORDER_CONSTANT)
    *values, weight = cv2.split(cv2.resize(both, size, interpolation=cv2.INTER_CUBIC))
    weight += 1e-12
    return cv2.merge([np.divide(value, weight, out=value) for value in values])


def _light_above(step: Plane, shown: Mask, edge: Mask, goal: Points) -> Plane:
    """What the template's forehead lacks of the light on the face that ends under it, fading out towards the hair.

    Who has a fringe in a photo has its light there too, and without this a line runs across the brows wherever the
    template's forehead is bare. `step` is what the face is lighter, in Lab; `edge` says where `shown` ends on skin.
    """
    width = face_width(goal)
    small, size = _small(shown.shape, goal)
    step, edge, inside = (cv2.resize(v, size, interpolation=cv2.INTER_AREA) for v in (step, edge, shown))
    edge *= _above_eyes(goal * small, edge.shape)
    near = cv2.GaussianBlur(edge, (0, 0), MEETING * width * small)
    light = cv2.GaussianBlur(step * for_channels(edge), (0, 0), MEETING * width * small)
    away = cv2.distanceTransform((inside < 0.5).astype(np.uint8), cv2.DIST_L2, 5) / (MEETING_REACH * width * small)
    light *= for_channels(smooth_step(1 - away) * np.clip(near / MEETING_KNOWN, 0, 1) / np.maximum(near, 1e-6))
    return np.asarray(cv2.resize(light, shown.shape[1::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def _forehead(goal: Points, skin: Mask) -> Mask:
    """`skin` above the eyes, with a soft edge."""
    forehead = skin * _above_eyes(goal, skin.shape)
    return cv2.GaussianBlur(forehead, (0, 0), max(0.01 * face_width(goal), 0.5)).astype(np.float32)


def _above_eyes(goal: Points, shape: tuple[int, ...]) -> Mask:
    up = goal[BROWS].mean(0) - goal[LIPS].mean(0)
    return (way_up(shape, goal[36:48].mean(0), up) > 0).astype(np.float32)


def _alpha(goal: Points, skin_below: Mask, skin_face: Mask, fringed: float) -> Mask:
    """Where the reference's face shows: the whole inner face, towards the rim only where both pictures have skin."""
    width = face_width(goal)
    shape = skin_below.shape
    middle = goal[27:36].mean(0)
    rise = goal[BROWS].mean(0) - goal[LIPS].mean(0)
    up = rise * (FOREHEAD_SHARE + fringed * (FRINGED_SHARE - FOREHEAD_SHARE))
    oval = _soft(hull(np.concatenate([goal[JAW], goal[BROWS] + up]), shape), FEATHER * width)
    oval *= _fading_upwards(shape, goal[BROWS].mean(0), up)
    cheeks = middle + 0.86 * (goal[[2, 3, 4, 12, 13, 14]] - middle)
    core = _soft(hull(np.concatenate([cheeks, goal[5:12], goal[BROWS] + BROW * rise]), shape), FEATHER * width)
    beard = _soft(hull(np.concatenate([goal[2:15], goal[31:36]]), shape), FEATHER * width)
    shown = np.maximum(skin_face, beard)  # the reference's beard comes along, its hair and collar do not
    skin = cv2.GaussianBlur(np.minimum(skin_below, shown), (0, 0), max(0.006 * width, 0.5))
    return (oval * np.maximum(core, skin)).astype(np.float32)


def _fading_upwards(shape: tuple[int, ...], start: Points, up: Points) -> Mask:
    """1 up to FADING of the way from `start` to `start + up`, 0 at its end: no line across a forehead."""
    return smooth_step((1 - way_up(shape, start, up)) / (1 - FADING)).astype(np.float32)


def _beard_below(goal: Points, skin_face: Mask, lightness: Plane) -> Mask:
    """The part of the reference's beard that hangs over its jaw line; nothing for a shaven chin."""
    chin, down = goal[4:13], goal[8] - goal[57]
    low, high = BEARDED
    hair = 1 - share_inside(skin_face, np.concatenate([goal[5:12], goal[55:60]]))
    strength = float(np.clip((hair - low) / (high - low), 0, 1))
    inward = goal[51] + 0.8 * (chin - goal[51])
    reach = _soft(
        hull(np.concatenate([inward, chin + BEARD_BELOW * down]), skin_face.shape), FEATHER * face_width(goal)
    )
    darker = lightness < DARKER_THAN_SKIN * float((lightness * skin_face).sum() / max(float(skin_face.sum()), 1.0))
    beard = cv2.GaussianBlur((1 - skin_face) * darker, (0, 0), max(0.01 * face_width(goal), 0.5))
    return (strength * reach * beard).astype(np.float32)


def _soft(mask: Mask, radius: float) -> Mask:
    """`mask` with an edge that fades inwards only: 0 on its border and beyond."""
    sigma, soft = max(radius, 0.5), np.zeros_like(mask)
    seen = around_mask(mask, ceil(4 * sigma) + 2)  # the blur reaches no farther
    inside = cv2.distanceTransform((mask[seen] > 0.5).view(np.uint8), cv2.DIST_L2, 5)
    soft[seen] = cv2.GaussianBlur((inside > 2 * radius).astype(np.float32), (0, 0), sigma)
    return soft
