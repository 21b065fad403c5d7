"""Pictures of a heightfield without rays: one of MuJoCo's takes 75 microseconds on a heightfield.

The picture is cut into vertical planes through the camera. Along each, the ground is visible where
its elevation reaches a new maximum; a pixel shows the first ground whose elevation reaches the
pixel's own. So a frame takes one look-up for each azimuth and range and one search for each pixel.
Lengths are metres in the world frame.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import mujoco
import numpy as np

PERIOD = "ground period"
"""Name of a custom number of a model: periods of its first heightfield along x and y [m]; 0 is not
periodic. Pictures then repeat the heightfield without an end."""

_IN_SIGHT = 15.0
"""Distance from the robot to which copies of a periodic heightfield cover the ground [m]."""

_RANGES = np.geomspace(0.4, 70.0, 256)
"""Distances at which the ground is looked up in a plane [m]."""
_NUM_TOGETHER = 40
"""Planes that are computed together."""
_OUTSIDE = -1e3
"""Height beyond the edge of the map [m]."""
_STEEPEST = 60.0
"""Largest tangent of an elevation; several planes can be searched in one table thanks to it."""

SKY = np.array([0.44, 0.63, 0.86], dtype=np.float32)
HORIZON = np.array([0.93, 0.96, 0.99], dtype=np.float32)
FLOOR_DARK = np.array([0.45, 0.50, 0.57], dtype=np.float32)
FLOOR_LIGHT = np.array([0.63, 0.68, 0.74], dtype=np.float32)
EARTH = np.array([0.36, 0.33, 0.31], dtype=np.float32)
"""Colours, red, green, blue in [0, 1]; EARTH is the cut at the edge of the map."""


def checker(x: np.ndarray, y: np.ndarray, width_x: np.ndarray, width_y: np.ndarray) -> np.ndarray:
    """Computes a checker pattern of 1 m squares, averaged over boxes: far squares do not flicker.

    The average of a square wave over [x - w/2, x + w/2] is the difference of its integral, a
    triangle wave, over w (Quilez, "filtering the checkerboard pattern", 2017).

    Args:
        x: Position [m], any shape.
        y: Position [m], the shape of x.
        width_x: Width of the box along x [m], positive; must broadcast with x.
        width_y: Width of the box along y [m], positive; must broadcast with y.

    Returns:
        Fraction of light squares in [0, 1].
    """

    def wave(p: np.ndarray, w: np.ndarray) -> np.ndarray:
        low, high = 0.5 * (p - 0.5 * w), 0.5 * (p + 0.5 * w)
        low -= np.floor(low)
        high -= np.floor(high)
        return (np.abs(low - 0.5) - np.abs(high - 0.5)) * (2.0 / w)

    return 0.5 - 0.5 * wave(x, width_x) * wave(y, width_y)


def sky_color(rise: np.ndarray) -> np.ndarray:
    """Returns the colours (..., 3) of the sky in directions that rise by (...) per unit length."""
    glow = np.clip(rise / 0.5, 0.0, 1.0)[..., None] ** 0.7
    return (HORIZON + (SKY - HORIZON) * glow).astype(np.float32)


@dataclass(frozen=True)
class VisibleGround:
    """Ground at n pixels of a picture.

    Attributes:
        pixel: Indices of the pixels, row by row (n,).
        depth: Distance along the viewing direction (n,) [m].
        point: Positions (3, n) [m].
        normal: Normals of the surface (3, n).
        cut: True for the earth below the edge of the map (n,).
        sine: Absolute sine of the ray's elevation (n,).
    """

    pixel: np.ndarray
    depth: np.ndarray
    point: np.ndarray
    normal: np.ndarray
    cut: np.ndarray
    sine: np.ndarray


@dataclass(frozen=True)
class Fan:
    """Rays of a picture of n pixels, sorted by vertical plane and in it by elevation.

    It stays valid while the camera moves without turning.

    Attributes:
        pixel: Indices of the pixels, row by row (n,).
        rays: Directions (3, n), with a component of one along the viewing direction; none vertical.
        level: Lengths of the rays' horizontal parts (n,).
        tangent: Tangents of the rays' elevations (n,).
        sine: Absolute sines of the rays' elevations (n,).
        number: Indices of the rays' planes (n,).
        azimuth: Azimuths of the planes (P,) [rad].
        start: Index of the first ray of each plane, and n (P + 1,).
        sky: Picture without ground (height, width, 3) float32.
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


def sort_rays(rays: np.ndarray) -> Fan:
    """Sorts rays (height, width, 3) into planes, 1.5 times as many as there are columns."""
    # angles relative to the middle, so that none jumps by 2 pi
    middle = rays[rays.shape[0] // 2, rays.shape[1] // 2]
    ahead = np.arctan2(middle[1], middle[0])
    angle = (np.arctan2(rays[..., 1], rays[..., 0]) - ahead).ravel()
    angle = (angle + np.pi) % (2.0 * np.pi) - np.pi
    low, high = float(angle.min()), float(angle.max())
    planes = 3 * rays.shape[1] // 2
    number = np.rint((angle - low) * ((planes - 1) / max(high - low, 1e-9))).astype(np.intp)
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
    """Heightfield of a model, endless along periodic axes; a track, of two rows, also to its sides.

    Around it, and above it, is the model's first plane, if it has one.

    Args:
        model: A model with a fixed heightfield; the first is taken, and drawn as if not turned.
    """

    def __init__(self, model: mujoco.MjModel):
        geom = int(_find_heightfields(model)[0])
        field = int(model.geom_dataid[geom])
        rows, columns = int(model.hfield_nrow[field]), int(model.hfield_ncol[field])
        start = int(model.hfield_adr[field])
        data = model.hfield_data[start : start + rows * columns].reshape(rows, columns)
        self._half = model.hfield_size[field, :2].copy()
        placed = mujoco.MjData(model)
        mujoco.mj_kinematics(model, placed)
        self._centre = placed.geom_xpos[geom, :2].copy()
        heights = placed.geom_xpos[geom, 2] + data.astype(float) * model.hfield_size[field, 2]
        planes = np.flatnonzero(model.geom_type == int(mujoco.mjtGeom.mjGEOM_PLANE))
        self._around = float(placed.geom_xpos[planes[0], 2]) if len(planes) else _OUTSIDE
        heights = np.maximum(heights, self._around)
        self._period = read_period(model)
        self._endless = self._period[0] > 0, self._period[1] > 0 or rows == 2
        cells = 2.0 * self._half / (columns - 1, rows - 1)
        along_y, along_x = np.gradient(heights, cells[1], cells[0])
        self._heights, self._gradients = heights, (along_x, along_y)

    def _find_cells(
        self, x: np.ndarray, y: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns lower left corners of cells [flat index], and fractions to the right and up."""
        rows, columns = self._heights.shape
        x, y = x - self._centre[0], y - self._centre[1]
        x, y = (
            axis - period * np.rint(axis / period) if period else axis
            for axis, period in zip((x, y), self._period, strict=True)
        )
        column = (np.clip(x / self._half[0], -1.0, 1.0) + 1.0) * (0.5 * (columns - 1))
        row = (np.clip(y / self._half[1], -1.0, 1.0) + 1.0) * (0.5 * (rows - 1))
        left = np.minimum(column.astype(np.intp), columns - 2)
        low = np.minimum(row.astype(np.intp), rows - 2)
        return low * columns + left, column - left, row - low

    def _interpolate(self, table: np.ndarray, cells: tuple[np.ndarray, ...]) -> np.ndarray:
        """Interpolates a table bilinearly in cells; beyond the edge it continues the edge."""
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
        """Returns the height at a position [m]; beyond an edge in the void, that of the edge."""
        place = np.array([x]), np.array([y])
        if self._is_on_plane(*place)[0]:
            return self._around
        return float(self._interpolate(self._heights, self._find_cells(*place))[0])

    def _is_on_plane(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self._is_outside(x, y) & (self._around > _OUTSIDE)

    def _is_outside(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        outside = np.zeros(x.shape, dtype=bool)
        axes = zip((x, y), self._centre, self._half, self._endless, strict=True)
        for axis, centre, half, endless in axes:
            if not endless:
                outside |= np.abs(axis - centre) > half
        return outside

    def view(self, eye: np.ndarray, fan: Fan) -> Iterator[VisibleGround]:
        """Finds the ground that is visible from eye (3,) [m] through the rays of a fan.

        Yields:
            The ground of _NUM_TOGETHER planes at a time: arrays that fit into the processor's cache
            take half the time.
        """
        for first in range(0, len(fan.azimuth), _NUM_TOGETHER):
            last = min(first + _NUM_TOGETHER, len(fan.azimuth))
            some = np.s_[fan.start[first] : fan.start[last]]
            tangents = self._look_up(eye, fan.azimuth[first:last])
            distance = _find_ranges(tangents, fan.number[some] - first, fan.tangent[some])
            hit = np.flatnonzero(np.isfinite(distance))
            rays = fan.rays[:, some][:, hit]
            depth = distance[hit] / fan.level[some][hit]
            point = eye[:, None] + depth * rays
            cells = self._find_cells(point[0], point[1])
            is_flat = self._is_on_plane(point[0], point[1])
            along_x, along_y = (
                np.where(is_flat, 0.0, self._interpolate(table, cells)) for table in self._gradients
            )
            upright = 1.0 / np.sqrt(1.0 + along_x**2 + along_y**2)
            normal = np.stack([-along_x * upright, -along_y * upright, upright])
            is_below = point[2] < self._interpolate(self._heights, cells) - 0.2
            cut = is_below & ~is_flat
            yield VisibleGround(
                fan.pixel[some][hit], depth, point, normal, cut, fan.sine[some][hit]
            )

    def _look_up(self, eye: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
        """Returns tangents (planes, n) of the ground's elevation as seen from eye (3,) [m].

        The ground is looked up at the n _RANGES along azimuths (planes,) [rad].
        """
        x = eye[0] + np.cos(azimuth)[:, None] * _RANGES
        y = eye[1] + np.sin(azimuth)[:, None] * _RANGES
        height = self._interpolate(self._heights, self._find_cells(x, y))
        height[self._is_outside(x, y)] = self._around
        return np.clip((height - eye[2]) / _RANGES, -_STEEPEST, _STEEPEST)


def _find_ranges(tangents: np.ndarray, number: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Finds the range (m,) [m] at which a plane's elevation first reaches that of a pixel.

    Args:
        tangents: Tangents of elevation (planes, n) at _RANGES.
        number: Plane of each pixel (m,).
        wanted: Tangent of each pixel (m,); pixels sorted by plane and tangent are found faster.

    Returns:
        The range; infinite where the elevation is never reached.
    """
    # shifted by the index of their plane, the running maxima of all planes are one sorted table
    shift, size = 4.0 * _STEEPEST, len(_RANGES)
    skyline = np.maximum.accumulate(tangents, axis=1)
    table = (skyline + shift * np.arange(len(tangents))[:, None]).ravel()
    index = np.searchsorted(table, wanted + shift * number) - number * size
    after = np.clip(index, 1, size - 1)
    flat, place = tangents.ravel(), number * size + after
    low, high = flat[place - 1], flat[place]
    fraction = np.clip((wanted - low) / np.maximum(high - low, 1e-12), 0.0, 1.0)
    ranges = _RANGES[after - 1] + fraction * (_RANGES[after] - _RANGES[after - 1])
    ranges[index == 0] = _RANGES[0]
    ranges[index >= size] = np.inf
    return ranges


def _find_heightfields(model: mujoco.MjModel) -> np.ndarray:
    fixed = model.body_weldid[model.geom_bodyid] == 0
    return np.flatnonzero(fixed & (model.geom_type == int(mujoco.mjtGeom.mjGEOM_HFIELD)))


def read_period(model: mujoco.MjModel) -> tuple[float, float]:
    """Returns the periods of the first heightfield along x and y [m]; 0 is not periodic."""
    names = [model.numeric(i).name for i in range(model.nnumeric)]
    x, y = model.numeric(PERIOD).data if PERIOD in names else (0.0, 0.0)
    return float(x), float(y)


def crop_to_period(model: mujoco.MjModel) -> mujoco.MjModel:
    """Returns a copy whose first heightfield is one period long, for drawing it with its copies.

    A renderer would light ground twice where copies overlap. A model without a period is returned
    itself.
    """
    periods = read_period(model)
    if not any(periods):
        return model
    model = copy.copy(model)
    field = int(model.geom_dataid[_find_heightfields(model)[0]])
    rows, columns = int(model.hfield_nrow[field]), int(model.hfield_ncol[field])
    start, half = int(model.hfield_adr[field]), model.hfield_size[field, :2].copy()
    heights = model.hfield_data[start : start + rows * columns].reshape(rows, columns).copy()
    for axis, (period, count) in enumerate(zip(periods, (columns, rows), strict=True)):
        if period:
            margin = round((half[axis] - 0.5 * period) * (count - 1) / (2.0 * half[axis]))
            heights = heights.take(range(margin, count - margin), axis=1 - axis)
            model.hfield_size[field, axis] = 0.5 * period
    model.hfield_nrow[field], model.hfield_ncol[field] = heights.shape
    model.hfield_data[start : start + heights.size] = heights.ravel()
    return model


def place_copies(model: mujoco.MjModel, root: np.ndarray) -> np.ndarray:
    """Returns offsets (n, 2) [m] of copies of a heightfield that `crop_to_period` has cropped.

    With the heightfield itself they cover the ground around the path root (L, 3) [m] of a robot.
    One that is not periodic has none.
    """
    numbers = []
    for axis, period in enumerate(read_period(model)):
        low, high = float(root[:, axis].min()) - _IN_SIGHT, float(root[:, axis].max()) + _IN_SIGHT
        ends = np.rint(np.array([low, high]) / period) if period else np.zeros(2)
        numbers.append(period * np.arange(ends[0], ends[1] + 1))
    offsets = np.stack(np.meshgrid(*numbers, indexing="ij"), axis=-1).reshape(-1, 2)
    return offsets[offsets.any(axis=1)]


def find_relief(model: mujoco.MjModel) -> Relief | None:
    """Returns the heightfield of a model; None if its ground is a plane."""
    return Relief(model) if len(_find_heightfields(model)) else None


def color_ground(ground: VisibleGround, lamp: np.ndarray, focal: float) -> np.ndarray:
    """Colours the ground as a checker of 1 m squares.

    Args:
        ground: The ground at n pixels.
        lamp: Direction to the lamp (3,), of length one.
        focal: Focal length [pixels].

    Returns:
        Colours (n, 3) float32.
    """
    depth = ground.depth.astype(np.float32)
    x, y, z = ground.point.astype(np.float32)
    box = np.maximum(0.02, depth / (focal * np.maximum(0.08, ground.sine))).astype(np.float32)
    share = checker(x, y, box, box)
    # the inclination shows the shape of the ground, the height only a little
    facing = ((lamp / lamp[2]) @ ground.normal).astype(np.float32)
    light = np.clip(0.25 + 0.75 * facing, 0.3, 1.4) * (1.0 + 0.12 * np.clip(z, -1.5, 1.5))
    fog = 1.0 - np.exp(-((depth / 30.0) ** 2))
    light *= 1.0 - fog
    color = np.empty((len(depth), 3), dtype=np.float32)
    for channel in range(3):
        dark, bright = FLOOR_DARK[channel], FLOOR_LIGHT[channel]
        surface = np.where(ground.cut, EARTH[channel], dark + (bright - dark) * share)
        color[:, channel] = surface * light + HORIZON[channel] * fog
    return color
