"""The control pictures that the published ControlNets of SD1.5 were trained on, as the control stage asks for them.

The pose is drawn from the face's own landmarks in OpenPose's colours: the OpenPose network, whose licence forbids
commercial use, is not needed for a picture that shows a head.
"""

from __future__ import annotations

import cv2
import numpy as np

from engine.types import Face, Points, Rgb

CANNY_SIDE = 512  # px: edges are looked for at this short side, as the networks saw them
CANNY_THRESHOLDS = (100, 200)
DOT, JOINT, STICK = 3, 4, 4  # px radius of a face point, of a joint, half width of a limb, for a short side of 512
LIMB_SHADE = 0.6
HIDDEN_EAR = 20.0  # degrees of yaw from which the far ear is hidden

# OpenPose's colours. "Right" is the person's right: left in the picture.
NOSE, RIGHT_EYE, LEFT_EYE = (255, 0, 0), (170, 0, 255), (255, 0, 255)
RIGHT_EAR, LEFT_EAR = (255, 0, 170), (255, 0, 85)
NOSE_TO_RIGHT_EYE, RIGHT_EYE_TO_EAR = (85, 0, 255), (170, 0, 255)
NOSE_TO_LEFT_EYE, LEFT_EYE_TO_EAR = (255, 0, 255), (255, 0, 170)


class Sd15Controls:
    """`ControlPictures` of Stable Diffusion 1.5: ControlNets canny, pose, color and tile."""

    second_detail = "tile"

    def canny(self, canvas: Rgb) -> Rgb:
        height, width = canvas.shape[:2]
        factor = CANNY_SIDE / min(height, width)
        grey = cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY)
        if factor != 1:
            size = (round(width * factor), round(height * factor))
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LANCZOS4)
        edges = cv2.Canny(grey, *CANNY_THRESHOLDS)
        return cv2.cvtColor(cv2.resize(edges, (width, height), interpolation=cv2.INTER_NEAREST), cv2.COLOR_GRAY2RGB)

    def pose(self, canvas: Rgb, face: Face) -> Rgb:
        drawing = np.zeros_like(canvas)
        unit = min(canvas.shape[:2]) / 512
        _draw_head(drawing, face, unit)
        right_eye, left_eye = _eyes(face.landmarks)
        for x, y in [*face.landmarks, right_eye, left_eye]:  # OpenPose's seventy: the 68 and the pupils
            cv2.circle(drawing, (round(float(x)), round(float(y))), max(1, round(DOT * unit)), (255, 255, 255), -1)
        return drawing

    def color(self, canvas: Rgb) -> Rgb:
        """The picture itself: what the reference system feeds this network in its last releases."""
        return canvas

    def detail(self, canvas: Rgb) -> Rgb:
        return canvas


def _draw_head(drawing: Rgb, face: Face, unit: float) -> None:
    right_eye, left_eye = _eyes(face.landmarks)
    nose, right_ear, left_ear = face.landmarks[30], face.landmarks[0], face.landmarks[16]
    joints = [(nose, NOSE), (right_eye, RIGHT_EYE), (left_eye, LEFT_EYE)]
    limbs = [(nose, right_eye, NOSE_TO_RIGHT_EYE), (nose, left_eye, NOSE_TO_LEFT_EYE)]
    if face.pose.yaw > -HIDDEN_EAR:  # turned to the picture's left, the ear on that side is hidden
        joints.append((right_ear, RIGHT_EAR))
        limbs.append((right_eye, right_ear, RIGHT_EYE_TO_EAR))
    if face.pose.yaw < HIDDEN_EAR:
        joints.append((left_ear, LEFT_EAR))
        limbs.append((left_eye, left_ear, LEFT_EYE_TO_EAR))
    for begin, end, colour in limbs:
        middle, span = (begin + end) / 2, end - begin
        axes = (max(1, round(float(np.hypot(*span)) / 2)), max(1, round(STICK * unit)))
        angle = float(np.degrees(np.arctan2(span[1], span[0])))
        shade = tuple(round(value * LIMB_SHADE) for value in colour)
        cv2.ellipse(drawing, (round(float(middle[0])), round(float(middle[1]))), axes, angle, 0, 360, shade, -1)
    for (x, y), colour in joints:
        cv2.circle(drawing, (round(float(x)), round(float(y))), max(1, round(JOINT * unit)), colour, -1)


def _eyes(landmarks: Points) -> tuple[Points, Points]:
    return landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)
