"""Pictures of a heightfield, without a ray: MuJoCo's takes 75 microseconds for one that ends on a heightfield.

A camera sees the ground in vertical planes through its eye. Along each, the ground that is visible is the running
maximum of its elevation; a pixel shows the first ground as high as its own. So a frame takes one look-up for each
azimuth and range and one search for each pixel. Lengths are metres in the world frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

_NEAREST, _FARTHEST, _RANGES = 0.4, 70.0, 256
_NOTHING = -1e3
"""Height of what lies beyond the edge of the map [m]."""
_STEEPEST = 60.0
"""Elevations are clipped to this tangent, so that those of several planes can be told apart in one search."""

SKY = np.array([0.44, 0.63, 0.86], dtype=np.float32)
HORIZON = np.array([0.93, 0.96, 0.99], dtype=np.float32)
FLOOR_DARK = np.array([0.45, 0.50, 0.57], dtype=np.float32)
FLOOR_LIGHT = np.array([0.63, 0.68, 0.74], dtype=np.float32)
EARTH = np.array([0.36, 0.33, 0.31], dtype=np.float32)
"""Colour of the cut at the edge of the map: red, green, blue in [0, 1]."""


def checker(x: np.ndarray, y: np.ndarray, width_x: np.ndarray, width_y: np.ndarray) -> np.ndarray:
    """A checker pattern of 1 m squares, averaged over boxes so that far squares do not flicker.

    The average of a square wave over [x - w/2, x + w/2] is the difference of its integral, a
    triangle wave, over w (Quilez, "filtering the checkerboard pattern", 2017).

    Args:
        x: Place [m], any shape.
        y: Place [m], the shape of x.
        width_x: Of the box, positive; must broadcast with x [m].
        width_y: Of the box, positive; must broadcast with y [m].

    Returns:
        Share of light squares in [0, 1].
    """

    def wave(p: np.ndarray, w: np.ndarray) -> np.ndarray:
        low, high = 0.5 * (p - 0.5 * w), 0.5 * (p + 0.5 * w)
        low -= np.floor(low)
        high -= np.floor(high)
        return (np.abs(low - 0.5) - np.abs(high - 0.5)) * (2.0 / w)

    return 0.5 - 0.5 * wave(x, width_x) * wave(y, width_y)


@dataclass(frozen=True)
class Seen:
    """The ground in a picture; what shows none has an infinite depth.

    Attributes:
        point: Places (height, width, 3) [m].
        normal: Of the surface (height, width, 3).
        depth: Distance along the viewing direction (height, width) [m].
        cut: Where the picture shows the earth below the edge of the map (height, width).
    """

    point: np.ndarray
    normal: np.ndarray
    depth: np.ndarray
    cut: np.ndarray


@dataclass(frozen=True)
class Fan:
    """The rays of a picture, sorted into vertical planes; they stay while the camera only moves.

    Attributes:
        rays: Of each pixel (height, width, 3), with a component of one along the viewing direction; none is vertical.
        level: Their lengths on the ground plan (height, width).
        tangent: Of their elevation (height, width).
        azimuth: Of each plane (P,) [rad].
        number: The nearest plane of each pixel (height, width).
    """

    rays: np.ndarray
    level: np.ndarray
    tangent: np.ndarray
    azimuth: np.ndarray
    number: np.ndarray


def fan_of(rays: np.ndarray) -> Fan:
    """Sorts rays (height, width, 3) into planes, a few more than there are columns."""
    level = np.hypot(rays[..., 0], rays[..., 1])
    # angles from that of the middle, so that none jumps by a turn
    middle = rays[rays.shape[0] // 2, rays.shape[1] // 2]
    ahead = np.arctan2(middle[1], middle[0])
    turned = np.arctan2(rays[..., 1], rays[..., 0]) - ahead
    turned = (turned + np.pi) % (2.0 * np.pi) - np.pi
    low, high = float(turned.min()), float(turned.max())
    planes = 3 * rays.shape[1] // 2
    number = np.rint((turned - low) * ((planes - 1) / max(high - low, 1e-9))).astype(np.intp)
    tangent = np.clip(rays[..., 2] / level, -_STEEPEST, _STEEPEST)
    return Fan(rays, level, tangent, ahead + np.linspace(low, high, planes), number)


class Relief:
    """The heightfield of a model; a map of two rows, a track, goes on endlessly to its sides.

    Args:
        model: A model with a heightfield that does not move; the first is taken.
    """

    def __init__(self, model: mujoco.MjModel):
        geom = int(_heightfields(model)[0])
        field = int(model.geom_dataid[geom])
        rows, columns = int(model.hfield_nrow[field]), int(model.hfield_ncol[field])
        start = int(model.hfield_adr[field])
        data = model.hfield_data[start : start + rows * columns].reshape(rows, columns)
        self._half = model.hfield_size[field, :2].copy()
        heights = model.geom_pos[geom, 2] + data.astype(float) * model.hfield_size[field, 2]
        self._endless = rows == 2
        cells = 2.0 * self._half / (columns - 1, rows - 1)
        slope_y, slope_x = np.gradient(heights, cells[1], cells[0])
        self._heights, self._slopes = heights, (slope_x, slope_y)

    def _look_up(self, table: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Bilinear values of a table at x, y [m], any shape; beyond the edge those of the edge."""
        rows, columns = table.shape
        column = (np.clip(x / self._half[0], -1.0, 1.0) + 1.0) * (0.5 * (columns - 1))
        row = (np.clip(y / self._half[1], -1.0, 1.0) + 1.0) * (0.5 * (rows - 1))
        left = np.minimum(column.astype(np.intp), columns - 2)
        low = np.minimum(row.astype(np.intp), rows - 2)
        right, up = column - left, row - low
        flat, first = table.ravel(), low * columns + left
        lower = flat[first] * (1 - right) + flat[first + 1] * right
        upper = flat[first + columns] * (1 - right) + flat[first + columns + 1] * right
        return lower * (1 - up) + upper * up

    def height(self, x: float, y: float) -> float:
        """Height at a place [m]."""
        return float(self._look_up(self._heights, np.array(x), np.array(y)))

    def _beyond(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        outside = np.abs(x) > self._half[0]
        return outside if self._endless else outside | (np.abs(y) > self._half[1])

    def view(self, eye: np.ndarray, fan: Fan) -> Seen:
        """Looks at the ground from eye (3,) [m] through the pixels of a fan."""
        ranges = np.geomspace(_NEAREST, _FARTHEST, _RANGES)
        x = eye[0] + np.cos(fan.azimuth)[:, None] * ranges
        y = eye[1] + np.sin(fan.azimuth)[:, None] * ranges
        height = np.where(self._beyond(x, y), _NOTHING, self._look_up(self._heights, x, y))
        rising = np.clip((height - eye[2]) / ranges, -_STEEPEST, _STEEPEST)
        distance = _first_as_high(rising, ranges, fan.number, fan.tangent)
        depth = distance / fan.level
        shown = np.isfinite(distance)
        point = eye + np.where(shown, depth, 0.0)[..., None] * fan.rays
        x, y = point[..., 0], point[..., 1]
        slope_x, slope_y = (self._look_up(table, x, y) for table in self._slopes)
        normal = np.stack([-slope_x, -slope_y, np.ones_like(depth)], axis=-1)
        normal /= np.sqrt(1.0 + slope_x**2 + slope_y**2)[..., None]
        cut = shown & (point[..., 2] < self._look_up(self._heights, x, y) - 0.2)
        return Seen(point, normal, depth, cut)


def _first_as_high(
    rising: np.ndarray, ranges: np.ndarray, number: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """Range at which the elevation in a plane first reaches what a pixel wants; infinite if never.

    Args:
        rising: Tangents of elevation (planes, n) at the ranges.
        ranges: (n,) [m].
        number: The plane of each pixel, any shape.
        wanted: The tangent of each pixel, of that shape.
    """
    # shifted by their plane's number the running maxima of all planes are one sorted table
    shift = 4.0 * _STEEPEST
    skyline = np.maximum.accumulate(rising, axis=1)
    table = (skyline + shift * np.arange(len(rising))[:, None]).ravel()
    index = np.searchsorted(table, wanted + shift * number) - number * len(ranges)
    never = index >= len(ranges)
    after = np.clip(index, 1, len(ranges) - 1)
    low, high = rising[number, after - 1], rising[number, after]
    share = np.clip((wanted - low) / np.maximum(high - low, 1e-12), 0.0, 1.0)
    found = ranges[after - 1] + share * (ranges[after] - ranges[after - 1])
    return np.where(never, np.inf, np.where(index == 0, ranges[0], found))


def _heightfields(model: mujoco.MjModel) -> np.ndarray:
    still = model.body_weldid[model.geom_bodyid] == 0
    return np.flatnonzero(still & (model.geom_type == int(mujoco.mjtGeom.mjGEOM_HFIELD)))


def relief_of(model: mujoco.MjModel) -> Relief | None:
    """The heightfield of a model; None where its ground is a plane."""
    return Relief(model) if len(_heightfields(model)) else None


def painted(seen: Seen, rays: np.ndarray, lamp: np.ndarray, focal: float) -> np.ndarray:
    """Paints what is seen, a checker of 1 m squares, and the sky above it.

    Args:
        seen: The ground.
        rays: Those of the fan.
        lamp: Direction to the lamp (3,), of length one.
        focal: Focal length [pixels].

    Returns:
        The image (height, width, 3) float32.
    """
    shown = np.isfinite(seen.depth)
    depth = np.where(shown, seen.depth, 1e3).astype(np.float32)
    x, y, z = (seen.point[..., k].astype(np.float32) for k in range(3))
    rise = rays[..., 2].astype(np.float32)
    steep = np.maximum(np.float32(0.08), np.abs(rise) / np.sqrt((rays**2).sum(axis=-1)))
    box = np.maximum(0.02, depth / (focal * steep)).astype(np.float32)
    share = checker(x, y, box, box)
    # a relief is read from its slopes first, from its height second
    facing = (seen.normal @ (lamp / lamp[2])).astype(np.float32)
    light = np.clip(0.25 + 0.75 * facing, 0.3, 1.4) * (1.0 + 0.12 * np.clip(z, -1.5, 1.5))
    fog = 1.0 - np.exp(-((depth / 30.0) ** 2))
    glow = np.clip(rise / 0.5, 0.0, 1.0) ** 0.7
    image = np.empty((*depth.shape, 3), dtype=np.float32)
    for channel in range(3):
        dark, bright = FLOOR_DARK[channel], FLOOR_LIGHT[channel]
        far, sky = HORIZON[channel], SKY[channel]
        color = np.where(seen.cut, EARTH[channel], dark + (bright - dark) * share)
        ground = color * light * (1.0 - fog) + far * fog
        image[..., channel] = np.where(shown, ground, far + (sky - far) * glow)
    return image
