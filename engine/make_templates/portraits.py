"""Reads a folder of portraits of one head each and measures what grouping and averaging need.

The portraits are the public-domain official portraits of members of the US Congress at 225x275
(github.com/unitedstates/images); every one has a plain background and one roughly frontal head.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import dlib
import numpy as np
from numpy.typing import NDArray

from engine.images import in_lab
from engine.types import Rgb

SIZE_WH = (225, 275)
RAY_ANGLES_DEG = np.linspace(-35, 215, 36)  # over the head, from right of the jaw to left of the jaw; 90 is up
SHOULDER_STEPS = np.array([-1.25, -1.05, -0.85, -0.65, 0.65, 0.85, 1.05, 1.25])  # in face widths from the nose bridge

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Portrait:
    """One measured portrait. Points are in pixels of its 225x275 picture; colours are CIE Lab."""

    name: str
    rgb: Rgb
    landmarks: Array  # (68, 2)
    outline: Array  # (36 + 8, 2): head silhouette, then shoulder line
    matte: Array  # (275, 225), 1 = person
    embedding: Array  # (128,)
    skin_lab: Array
    hair_lab: Array
    colourful: float  # mean chroma; about 0 for a black-and-white picture
    smile: float  # mouth width over the distance of the eyes
    turn: float  # nose off the middle of the jaw, in face widths; 0 = frontal
    hair_below: float  # share of hair-coloured person beside the neck: long hair
    glasses: float  # edges between the eyes, where spectacles have a bridge


class FaceNetworks:
    """dlib's detector, 68 landmarks and 128-d FaceID, from the files of `face_recognition_models`."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("face_recognition_models")
        assert spec is not None
        assert spec.submodule_search_locations
        folder = Path(spec.submodule_search_locations[0]) / "models"
        self._detect = dlib.get_frontal_face_detector()
        self._shape = dlib.shape_predictor(str(folder / "shape_predictor_68_face_landmarks.dat"))
        self._embed = dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat"))

    def faces(self, rgb: Rgb) -> list[tuple[Array, Array, tuple[int, int, int, int]]]:
        """(landmarks, embedding, box) of every face found."""
        found = []
        for box in self._detect(rgb, 0):
            shape = self._shape(rgb, box)
            points = np.array([(p.x, p.y) for p in shape.parts()], np.float32)
            embedding = np.array(self._embed.compute_face_descriptor(rgb, shape), np.float32)
            found.append((points, embedding, (box.left(), box.top(), box.right(), box.bottom())))
        return found


def read_portraits(folder: Path, networks: FaceNetworks) -> list[Portrait]:
    """Every portrait of the right size in which exactly one face is found, by name."""
    found = []
    for path in sorted(folder.glob("*.jpg")):
        bgr = cv2.imread(str(path))
        if bgr is None or bgr.shape[1::-1] != SIZE_WH:
            continue
        rgb = np.ascontiguousarray(bgr[:, :, ::-1])
        # The detector's smallest face is 80 px: the portraits are doubled for it.
        faces = networks.faces(cv2.resize(rgb, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))
        if len(faces) == 1:
            found.append(_measured(path.stem, rgb, (faces[0][0] / 2).astype(np.float32), faces[0][1]))
    return found


def mirror_points(points: Array, width: int) -> Array:
    """The 68 landmarks of the mirrored picture, in the usual order."""
    order = [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
    order += [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    order += [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
    return _flipped(points, width)[order]


def mirrored(portrait: Portrait) -> Portrait:
    """The same person seen in a mirror: doubles a small group and evens out its turn."""
    width = portrait.rgb.shape[1]
    rays, shoulders = portrait.outline[: len(RAY_ANGLES_DEG)], portrait.outline[len(RAY_ANGLES_DEG) :]
    return replace(
        portrait,
        rgb=np.ascontiguousarray(portrait.rgb[:, ::-1]),
        matte=np.ascontiguousarray(portrait.matte[:, ::-1]),
        landmarks=mirror_points(portrait.landmarks, width),
        outline=np.vstack([_flipped(rays, width)[::-1], _flipped(shoulders, width)[::-1]]),
        turn=-portrait.turn,
    )


def _flipped(points: Array, width: int) -> Array:
    return (points * (-1, 1) + (width - 1, 0)).astype(np.float32)


def _measured(name: str, rgb: Rgb, points: Array, embedding: Array) -> Portrait:
    matte = _person(rgb, points)
    lab = in_lab(rgb)
    brow_y, eyes = points[17:27, 1].min(), np.linalg.norm(points[36] - points[45])
    width = points[16, 0] - points[0, 0]
    skin = np.zeros(rgb.shape[:2], np.uint8)
    for cheek in (points[[2, 4, 48, 31, 36]], points[[14, 12, 54, 35, 45]]):
        cv2.fillConvexPoly(skin, cv2.convexHull(np.int32(cheek * 0.8 + cheek.mean(0) * 0.2)), 1)
    hair = np.zeros_like(skin)
    top_y = _top(matte, points[27, 0])
    cv2.ellipse(hair, ((points[27, 0], brow_y), (width * 1.1, 2 * (brow_y - top_y)), 0), 1, -1)  # type: ignore[call-overload]
    cv2.ellipse(hair, ((points[27, 0], brow_y), (width * 0.9, 1.3 * (brow_y - top_y)), 0), 0, -1)  # type: ignore[call-overload]
    hair[int(brow_y) :] = 0
    hair = hair * (matte > 0.5)
    hair_lab = np.median(lab[hair > 0], 0) if hair.any() else np.zeros(3, np.float32)
    beside = np.zeros_like(skin)
    chin_y = int(points[8, 1])
    x0, x1 = int(points[0, 0] - width * 0.25), int(points[16, 0] + width * 0.25)
    beside[int(points[3, 1]) : chin_y, max(x0, 0) : max(int(points[2, 0]) - 3, 1)] = 1
    beside[int(points[3, 1]) : chin_y, int(points[14, 0]) + 3 : x1] = 1
    bridge = cv2.Sobel(lab[..., 0], cv2.CV_32F, 0, 1)
    bx, by, half = points[27, 0], points[27, 1], eyes * 0.07
    patch = bridge[int(by - eyes * 0.12) : int(by + eyes * 0.22), int(bx - half) : int(bx + half) + 1]
    jaw_mid = (points[1, 0] + points[15, 0]) / 2
    return Portrait(
        name=name,
        rgb=rgb,
        landmarks=points,
        outline=_outline(matte, points),
        matte=matte,
        embedding=embedding,
        skin_lab=np.median(lab[skin > 0], 0),
        hair_lab=hair_lab,
        colourful=float(np.hypot(lab[..., 1], lab[..., 2])[skin > 0].mean()),
        smile=float(np.linalg.norm(points[48] - points[54]) / eyes),
        turn=float((points[30, 0] - jaw_mid) / width),
        hair_below=float(matte[beside > 0].mean()) if beside.any() else 0.0,
        glasses=float(np.abs(patch).max()) if patch.size else 0.0,
    )


def _person(rgb: Rgb, points: Array) -> Array:
    """GrabCut from the face outwards: the frame's upper edges are background, the face and chest are person."""
    height, width = rgb.shape[:2]
    trimap = np.full((height, width), cv2.GC_PR_FGD, np.uint8)
    chin_y = int(points[8, 1])
    trimap[:5] = cv2.GC_BGD
    trimap[: chin_y - 25, :7] = cv2.GC_BGD
    trimap[: chin_y - 25, -7:] = cv2.GC_BGD
    far = np.ones((height, width), np.uint8)
    centre = points[27]
    cv2.ellipse(far, (tuple(map(float, centre)), (width * 0.95, height * 0.8), 0), 0, -1)  # type: ignore[call-overload]
    trimap[(far > 0) & (np.arange(height)[:, None] < chin_y - 5) & (trimap != cv2.GC_BGD)] = cv2.GC_PR_BGD
    cv2.fillConvexPoly(trimap, cv2.convexHull(np.int32(points)), cv2.GC_FGD)
    jaw = points[16, 0] - points[0, 0]
    cv2.rectangle(
        trimap, (int(centre[0] - jaw * 0.45), chin_y), (int(centre[0] + jaw * 0.45), height - 1), cv2.GC_FGD, -1
    )
    trimap[height - 12 :, 25:-25] = cv2.GC_FGD
    cv2.setRNGSeed(7)
    cv2.grabCut(rgb, trimap, None, np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_MASK)
    person = np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    person = cv2.morphologyEx(person, cv2.MORPH_OPEN, np.ones((3, 3)))
    person = cv2.morphologyEx(person, cv2.MORPH_CLOSE, np.ones((5, 5)))
    _, labels = cv2.connectedComponents(person)
    return (labels == labels[int(points[30, 1]), int(points[30, 0])]).astype(np.float32)


def _top(matte: Array, x: float) -> float:
    column = matte[:, int(np.clip(x, 0, matte.shape[1] - 1))]
    return float(np.argmax(column > 0.5))


def _outline(matte: Array, points: Array) -> Array:
    """Where the silhouette ends along rays from the nose bridge, then its top at columns beside the neck."""
    height, width = matte.shape
    centre, face_width = points[27], points[16, 0] - points[0, 0]
    reach = np.arange(face_width * 0.45, face_width * 1.6, 0.5)
    found = []
    for angle in np.deg2rad(RAY_ANGLES_DEG):
        xs, ys = centre[0] + np.cos(angle) * reach, centre[1] - np.sin(angle) * reach
        inside = (xs >= 0) & (xs < width) & (ys >= 0) & (ys < height)
        on = matte[ys[inside].astype(int), xs[inside].astype(int)] > 0.5
        stop = int(np.argmin(on)) if not on.all() else len(on) - 1
        found.append((xs[inside][stop], ys[inside][stop]))
    for step in SHOULDER_STEPS:
        x = float(np.clip(centre[0] + step * face_width, 0, width - 1))
        below = matte[int(points[4, 1]) :, int(x)] > 0.5
        found.append((x, points[4, 1] + (np.argmax(below) if below.any() else len(below) - 1)))
    return np.array(found, np.float32)
