"""Axes of bases: rotations and headings from quaternions."""

from __future__ import annotations

import numpy as np


def rotation(quaternion: np.ndarray) -> np.ndarray:
    """Returns the rotation matrices (M, 3, 3) of quaternions (M, 4) of any length but zero."""
    w, x, y, z = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)).T
    rows = [
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return np.array(rows).transpose(2, 0, 1)


def turn_points(points: np.ndarray, quaternion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turns points (P, 2) [m] by the headings of bases with quaternions (M, 4).

    Returns x and y (M, P) [m, axes of the world].
    """
    forward = rotation(quaternion)[:, :2, 0]
    length = np.linalg.norm(forward, axis=1, keepdims=True)
    cosine, sine = (forward / np.maximum(length, 1e-12)).T[..., None]
    x, y = points.T
    return cosine * x - sine * y, sine * x + cosine * y
