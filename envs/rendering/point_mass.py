"""Draws recorded positions of a point in the plane."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from metarl.envs.rendering.marker import Marker
from metarl.envs.rendering.render import MARKER_COLOR

POINT_COLOR, PATH_COLOR = (214, 84, 44), (232, 158, 128)

_SUBPIXELS = 3


def render_plane(
    states: np.ndarray, marker: Marker, *, width: int, height: int
) -> Iterator[np.ndarray]:
    """Draws an episode of a point in the plane: the target, the path so far, the point.

    Args:
        states: Positions (L, 2) [m], L >= 1.
        marker: The goal; an arrow is drawn from the origin.
        width: Width of a frame [pixels].
        height: Height of a frame [pixels].

    Yields:
        L frames (height, width, 3) uint8.

    Raises:
        ValueError: The states are not finite or not (L, 2).
    """
    states = np.asarray(states, dtype=float)
    if states.ndim != 2 or states.shape[1] != 2 or not len(states) or not np.isfinite(states).all():
        raise ValueError(f"states must be finite and (L, 2) with L >= 1, got {states.shape}")
    return _draw_frames(states, marker, (width, height))


def _draw_frames(states: np.ndarray, marker: Marker, size: tuple[int, int]) -> Iterator[np.ndarray]:
    goal = np.asarray(marker.vector)
    reach = max(1.2, 1.1 * float(np.abs(states).max()), 1.1 * float(np.abs(goal).max()))
    fine = np.array(size) * _SUBPIXELS
    scale = 0.5 * float(fine.min()) / reach

    def pixels(point) -> tuple[float, float]:
        return tuple(0.5 * fine + scale * np.asarray(point) * [1.0, -1.0])

    def disc(draw: ImageDraw.ImageDraw, point, radius: float, fill) -> None:
        draw.circle(pixels(point), radius * scale * reach, fill=fill)

    canvas = Image.new("RGB", tuple(fine), (244, 247, 251))
    draw = ImageDraw.Draw(canvas)
    unit = 0.2 if reach < 3.0 else 10.0 ** math.ceil(math.log10(reach / 10.0))
    lines = int(math.ceil(reach * float(fine.max() / fine.min()) / unit))
    for k in range(-lines, lines + 1):
        shade, far = ((196, 206, 219) if k == 0 else (224, 231, 240)), 2 * lines * unit
        for ends in (((k * unit, -far), (k * unit, far)), ((-far, k * unit), (far, k * unit))):
            draw.line([pixels(end) for end in ends], fill=shade, width=_SUBPIXELS)
    color = (255.0 * MARKER_COLOR).astype(int)
    for share, radius in ((0.3, 0.07), (1.0, 0.035)):
        blend = color * share + 255.0 * (1.0 - share)
        disc(draw, goal, radius, tuple(blend.astype(int)))
    if marker.kind == "arrow":
        draw.line([pixels((0.0, 0.0)), pixels(goal)], fill=tuple(color), width=4 * _SUBPIXELS)
    disc(draw, (0.0, 0.0), 0.012, (150, 160, 175))
    for row, point in enumerate(states):
        stroke = max(2, round(0.012 * scale * reach))
        before = states[max(row - 1, 0)]
        draw.line([pixels(before), pixels(point)], fill=PATH_COLOR, width=stroke)
        disc(draw, point, 0.006, PATH_COLOR)  # rounds the corner between two lines
        picture = canvas.copy()
        disc(ImageDraw.Draw(picture), point, 0.036, (255, 255, 255))
        disc(ImageDraw.Draw(picture), point, 0.028, POINT_COLOR)
        yield np.asarray(picture.reduce(_SUBPIXELS))


def plane_scene(
    states: np.ndarray, marker: Marker, camera: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Builds the scene of an episode of a point in the plane: a ball on a floor.

    Args:
        states: Positions (L, 2) [m], L >= 1.
        marker: The goal.
        camera: Azimuth and elevation of the first view [degrees].

    Returns:
        The scene.
    """
    radius = 0.03
    root = np.column_stack([states, np.full(len(states), radius)])
    azimuth, elevation = camera or (90.0, -55.0)
    reach = max(1.2, float(np.abs(states).max()), float(np.abs(marker.vector).max()))
    upright = [1.0, 0.0, 0.0, 0.0]
    ball = {"kind": "sphere", "size": [radius], "color": [0.84, 0.33, 0.17, 1.0], "body": 0}
    floor = {"kind": "plane", "size": [], "color": [1.0, 1.0, 1.0, 1.0], "body": -1}
    return {
        "geoms": [{**geom, "position": [0.0] * 3, "rotation": upright} for geom in (floor, ball)],
        "hfields": [],
        "position": root[:, None],
        "rotation": np.tile(upright, (len(states), 1, 1)),
        "root": root,
        "radius": 4.0 * radius,
        "planar": False,
        "marker": {**asdict(marker), "position": [*marker.vector, 0.0], "size": 0.07},
        "camera": {
            "azimuth": azimuth,
            "elevation": elevation,
            "distance": 1.7 * reach,
            "lookat": np.zeros((len(states), 3)),
        },
    }
