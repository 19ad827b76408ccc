"""The person around a face by GrabCut (Rother 2004), as the small profile's salient-object segmenter."""

from __future__ import annotations

import cv2
import numpy as np

from engine.images import clip_box, feather, grow_box, resized
from engine.types import Face, Mask, Rgb

SURROUNDINGS = 3.4  # side of the region that is looked at, over the face box
WORKING_SIDE = 200  # px of that region: colours and outlines need no more
ROUNDS = 4
EDGE = 0.03  # softness of the outline, over the face's width


class GrabCut:
    """Colour models of person and background, started from where the landmarks say that a head and shoulders are."""

    def __call__(self, rgb: Rgb, face: Face) -> Mask:
        """(H, W) of the whole picture, 0 far from the face."""
        left, top, right, bottom = clip_box(grow_box(face.box_xyxy, SURROUNDINGS), rgb.shape)
        region = rgb[top:bottom, left:right]
        scale = min(1.0, WORKING_SIDE / max(region.shape[:2]))
        size = (max(8, round(region.shape[1] * scale)), max(8, round(region.shape[0] * scale)))
        small = resized(region, size)
        person = self._person(small, (face.landmarks - (left, top)) * scale)
        whole = cv2.resize(person, (right - left, bottom - top), interpolation=cv2.INTER_CUBIC)
        mask = np.zeros(rgb.shape[:2], np.float32)
        mask[top:bottom, left:right] = feather(whole.clip(0, 1), EDGE * face.width)
        return mask

    def _person(self, small: Rgb, landmarks: np.ndarray) -> Mask:
        guess = first_guess(small.shape[:2], landmarks)
        cv2.setRNGSeed(0)  # the colour models start from k-means: the same photo shall give the same mask
        blank = np.zeros((1, 65))
        labels, _, _ = cv2.grabCut(small, guess, None, blank, blank.copy(), ROUNDS, cv2.GC_INIT_WITH_MASK)
        person = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
        person = cv2.morphologyEx(person, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
        return _piece_with_face(person, landmarks).astype(np.float32)


def first_guess(shape: tuple[int, ...], landmarks: np.ndarray) -> np.ndarray:
    """(H, W) GrabCut labels: the face is surely the person, hair and shoulders probably, the far corners surely not."""
    height, width = shape
    chin, brows, jaw = landmarks[8], landmarks[17:27].mean(0), landmarks[:17]
    across = np.ptp(jaw[:, 0])
    up = brows - chin  # towards the crown
    guess = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
    guess[: height // 3, : max(1, width // 12)] = guess[: height // 3, -max(1, width // 12) :] = cv2.GC_BGD
    guess[: max(1, height // 40)] = cv2.GC_BGD
    head = (chin + brows) / 2 + up * 0.35
    cv2.ellipse(guess, _whole(head), _whole((across * 0.68, np.hypot(*up) * 1.12)), 0, 0, 360, cv2.GC_PR_FGD, -1)
    neck_x, neck_y = chin - up * 0.25
    trunk = [(neck_x - 0.4 * across, neck_y), (neck_x + 0.4 * across, neck_y)]
    trunk += [(neck_x + 1.25 * across, height), (neck_x - 1.25 * across, height)]
    cv2.fillPoly(guess, [np.array(trunk).round().astype(np.int32)], cv2.GC_PR_FGD)
    forehead = landmarks[17:27] + up * 0.35
    sure = cv2.convexHull(np.concatenate([jaw, forehead]).round().astype(np.int32))
    cv2.fillPoly(guess, [sure], cv2.GC_FGD)
    cv2.line(guess, _whole(chin), _whole((neck_x, neck_y)), cv2.GC_FGD, max(1, round(0.4 * across)))
    return guess


def _piece_with_face(person: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Without the islands that hang together with nothing."""
    _, pieces = cv2.connectedComponents(person)
    x, y = _whole(landmarks[27:31].mean(0))
    own = pieces[min(max(y, 0), person.shape[0] - 1), min(max(x, 0), person.shape[1] - 1)]
    return pieces == own if own else person.astype(bool)


def _whole(point: np.ndarray | tuple[float, float]) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))
