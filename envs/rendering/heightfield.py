"""Pictures of a heightfield, without a ray: MuJoCo's takes 75 microseconds for one that ends on a heightfield.

A camera sees the ground in vertical planes through its eye. Along each, the ground that is visible is the running
maximum of its elevation; a pixel shows the first ground as high as its own. So a frame takes one look-up for each
azimuth and range and one search for each pixel. Lengths are metres in the world frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mujoco
import numpy as np

_RANGES = np.geomspace(0.4, 70.0, 256)
"""Where a plane looks at the ground [m]."""
_AT_ONCE = 40
"""Planes that are looked along together."""
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


def sky_color(rise: np.ndarray) -> np.ndarray:
    """Colours (..., 3) of the sky in directions that rise by (...) per unit of length."""
    glow = np.clip(rise / 0.5, 0.0, 1.0)[..., None] ** 0.7
    return (HORIZON + (SKY - HORIZON) * glow).astype(np.float32)


@dataclass(frozen=True)
class Seen:
    """The ground at n pixels of a picture.

    Attributes:
        pixel: Which pixels, counted row by row (n,).
        depth: Distance along the viewing direction (n,) [m].
        point: Places (3, n) [m].
        normal: Of the surface (3, n).
        cut: Whether it is the earth below the edge of the map (n,).
        sine: Of the elevation of its ray, without sign (n,).
    """

    pixel: np.ndarray
    depth: np.ndarray
    point: np.ndarray
    normal: np.ndarray
    cut: np.ndarray
    sine: np.ndarray


@dataclass(frozen=True)
class Fan:
    """The rays of a picture of n pixels by vertical planes, in each by elevation; they stay while the camera only moves.

    Attributes:
        pixel: Which pixels, counted row by row (n,).
        rays: With a component of one along the viewing direction (3, n); none is vertical.
        level: Their lengths on the ground plan (n,).
        tangent: Of their elevation (n,).
        sine: Of their elevation, without sign (n,).
        number: Their planes (n,).
        azimuth: Of each plane (P,) [rad].
        start: The first ray of each plane, and n (P + 1,).
        sky: What the picture shows where no ground is (height, width, 3) float32.
    """

    pixel: np.ndarray
    rays: np.ndarray
    level: np.ndarray
    tangent: np.ndarray
    sine: np.ndarray
    number: np.ndarray
    azimuth: np.ndarray
    start: np.ndarray
    sky: np.ndarray


def fan_of(rays: np.ndarray) -> Fan:
    """Sorts rays (height, width, 3) into planes, a few more than there are columns."""
    # angles from that of the middle, so that none jumps by a turn
    middle = rays[rays.shape[0] // 2, rays.shape[1] // 2]
    ahead = np.arctan2(middle[1], middle[0])
    turned = (np.arctan2(rays[..., 1], rays[..., 0]) - ahead).ravel()
    turned = (turned + np.pi) % (2.0 * np.pi) - np.pi
    low, high = float(turned.min()), float(turned.max())
    planes = 3 * rays.shape[1] // 2
    number = np.rint((turned - low) * ((planes - 1) / max(high - low, 1e-9))).astype(np.intp)
    flat = rays.reshape(-1, 3).T
    level = np.hypot(flat[0], flat[1])
    tangent = np.clip(flat[2] / level, -_STEEPEST, _STEEPEST)
    order = np.lexsort((tangent, number))
    number = number[order]
    return Fan(
        order,
        flat[:, order],
        level[order],
        tangent[order],
        (np.abs(flat[2]) / np.hypot(level, flat[2]))[order],
        number,
        ahead + np.linspace(low, high, planes),
        np.searchsorted(number, np.arange(planes + 1)),
        sky_color(rays[..., 2]),
    )


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

    def _cells(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lower left corners of cells [flat index], and the shares of the way through them to the right and up."""
        rows, columns = self._heights.shape
        column = (np.clip(x / self._half[0], -1.0, 1.0) + 1.0) * (0.5 * (columns - 1))
        row = (np.clip(y / self._half[1], -1.0, 1.0) + 1.0) * (0.5 * (rows - 1))
        left = np.minimum(column.astype(np.intp), columns - 2)
        low = np.minimum(row.astype(np.intp), rows - 2)
        return low * columns + left, column - left, row - low

    def _mixed(self, table: np.ndarray, cells: tuple[np.ndarray, ...]) -> np.ndarray:
        """Bilinear values of a table in cells; beyond the edge those of the edge."""
        first, right, up = cells
        columns, flat = table.shape[1], table.ravel()
        lower, upper = flat[first], flat[first + columns]
        lower += (flat[first + 1] - lower) * right
        upper += (flat[first + columns + 1] - upper) * right
        upper -= lower
        upper *= up
        lower += upper
        return lower

    def height(self, x: float, y: float) -> float:
        """Height at a place [m]."""
        return float(self._mixed(self._heights, self._cells(np.array([x]), np.array([y])))[0])

    def _beyond(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        outside = np.abs(x) > self._half[0]
        return outside if self._endless else outside | (np.abs(y) > self._half[1])

    def view(self, eye: np.ndarray, fan: Fan) -> Iterator[Seen]:
        """Looks at the ground from eye (3,) [m] through the pixels of a fan; leaves out those that see none.

        Yields:
            Some planes after others: arrays that stay in the processor's cache take half the time.
        """
        for first in range(0, len(fan.azimuth), _AT_ONCE):
            last = min(first + _AT_ONCE, len(fan.azimuth))
            some = np.s_[fan.start[first] : fan.start[last]]
            rising = self._rising(eye, fan.azimuth[first:last])
            distance = _first_as_high(rising, fan.number[some] - first, fan.tangent[some])
            seen = np.flatnonzero(np.isfinite(distance))
            rays = fan.rays[:, some][:, seen]
            depth = distance[seen] / fan.level[some][seen]
            point = eye[:, None] + depth * rays
            cells = self._cells(point[0], point[1])
            slope_x, slope_y = (self._mixed(table, cells) for table in self._slopes)
            upright = 1.0 / np.sqrt(1.0 + slope_x**2 + slope_y**2)
            normal = np.stack([-slope_x * upright, -slope_y * upright, upright])
            cut = point[2] < self._mixed(self._heights, cells) - 0.2
            yield Seen(fan.pixel[some][seen], depth, point, normal, cut, fan.sine[some][seen])

    def _rising(self, eye: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
        """Tangents of the ground's elevation (planes, n) seen from eye (3,) [m], in planes (planes,) [rad] at _RANGES."""
        x = eye[0] + np.cos(azimuth)[:, None] * _RANGES
        y = eye[1] + np.sin(azimuth)[:, None] * _RANGES
        height = self._mixed(self._heights, self._cells(x, y))
        height[self._beyond(x, y)] = _NOTHING
        return np.clip((height - eye[2]) / _RANGES, -_STEEPEST, _STEEPEST)


def _first_as_high(rising: np.ndarray, number: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Range at which the elevation in a plane first reaches what a pixel wants; infinite if never.

    Args:
        rising: Tangents of elevation (planes, n) at _RANGES.
        number: The plane of each pixel (m,).
        wanted: The tangent of each pixel (m,). Pixels sorted by plane and tangent are found faster.
    """
    # shifted by their plane's number the running maxima of all planes are one sorted table
    shift, size = 4.0 * _STEEPEST, len(_RANGES)
    skyline = np.maximum.accumulate(rising, axis=1)
    table = (skyline + shift * np.arange(len(rising))[:, None]).ravel()
    index = np.searchsorted(table, wanted + shift * number) - number * size
    after = np.clip(index, 1, size - 1)
    flat, place = rising.ravel(), number * size + after
    low, high = flat[place - 1], flat[place]
    share = np.clip((wanted - low) / np.maximum(high - low, 1e-12), 0.0, 1.0)
    found = _RANGES[after - 1] + share * (_RANGES[after] - _RANGES[after - 1])
    found[index == 0] = _RANGES[0]
    found[index >= size] = np.inf
    return found


def _heightfields(model: mujoco.MjModel) -> np.ndarray:
    still = model.body_weldid[model.geom_bodyid] == 0
    return np.flatnonzero(still & (model.geom_type == int(mujoco.mjtGeom.mjGEOM_HFIELD)))


def relief_of(model: mujoco.MjModel) -> Relief | None:
    """The heightfield of a model; None where its ground is a plane."""
    return Relief(model) if len(_heightfields(model)) else None


def painted(seen: Seen, lamp: np.ndarray, focal: float) -> np.ndarray:
    """Paints what is seen, a checker of 1 m squares.

    Args:
        seen: The ground at n pixels.
        lamp: Direction to the lamp (3,), of length one.
        focal: Focal length [pixels].

    Returns:
        The colours (n, 3) float32.
    """
    depth = seen.depth.astype(np.float32)
    x, y, z = seen.point.astype(np.float32)
    box = np.maximum(0.02, depth / (focal * np.maximum(0.08, seen.sine))).astype(np.float32)
    share = checker(x, y, box, box)
    # a relief is read from its slopes first, from its height second
    facing = ((lamp / lamp[2]) @ seen.normal).astype(np.float32)
    light = np.clip(0.25 + 0.75 * facing, 0.3, 1.4) * (1.0 + 0.12 * np.clip(z, -1.5, 1.5))
    fog = 1.0 - np.exp(-((depth / 30.0) ** 2))
    light *= 1.0 - fog
    color = np.empty((len(depth), 3), dtype=np.float32)
    for channel in range(3):
        dark, bright = FLOOR_DARK[channel], FLOOR_LIGHT[channel]
        ground = np.where(seen.cut, EARTH[channel], dark + (bright - dark) * share)
        color[:, channel] = ground * light + HORIZON[channel] * fog
    return color
