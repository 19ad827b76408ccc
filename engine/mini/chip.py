"""The canonical face chip: where a face lies on the small model's canvas. Numpy only.

A chip is a similarity warp (rotation, scale, shift; no shear) of a picture that brings five points of a face (left
eye centre, right eye centre, nose tip, left and right mouth corner; "left" is the picture's left) onto
`canonical_points(size)`. The points are ArcFace's 112x112 template, shrunk about (56, 60) so that forehead, hair edge,
chin and some background are inside.
"""

import numpy as np

CANVAS = 128
"""Side of the canvas in pixels on which the small model was trained."""

FACE_SCALE = 0.74
"""How much ArcFace's template is shrunk: the eyes end up 0.233 of the canvas apart."""

ARCFACE_112 = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)


def canonical_points(size: int = CANVAS) -> np.ndarray:
    """(5, 2) float64 xy pixel positions of the five points on a canvas of `size` x `size`."""
    centre = np.array([56.0, 60.0])
    return ((np.array(ARCFACE_112) - centre) * FACE_SCALE + centre) * (size / 112.0)


def five_points(landmarks_68: np.ndarray) -> np.ndarray:
    """(5, 2) float64: the canonical five from (68, 2) dlib/iBUG landmarks in the same frame."""
    p = np.asarray(landmarks_68, dtype=np.float64)
    return np.stack([p[36:42].mean(0), p[42:48].mean(0), p[30], p[48], p[54]])


def chip_matrix(points_5: np.ndarray, size: int = CANVAS) -> np.ndarray:
    """(2, 3) float64 similarity that maps picture xy to canvas xy, least squares over the five points (Umeyama 1991).

    Raises ValueError when the points coincide.
    """
    source = np.asarray(points_5, dtype=np.float64)
    target = canonical_points(size)
    source_mean, target_mean = source.mean(0), target.mean(0)
    a, b = source - source_mean, target - target_mean
    norm = (a**2).sum()
    if norm < 1e-9:
        raise ValueError("The five face points coincide.")
    # In the plane the best similarity has a closed form: no singular value decomposition is needed.
    cos = (a * b).sum() / norm
    sin = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / norm
    linear = np.array([[cos, -sin], [sin, cos]])
    return np.concatenate([linear, (target_mean - linear @ source_mean)[:, None]], axis=1)


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(n, 2) points moved by a (2, 3) matrix."""
    return np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]
