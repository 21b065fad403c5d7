"""Ray caster for MuJoCo scenes that needs no GL: `mujoco.mj_multiRay`, shaded with NumPy.

Sky, checker floor and flat patches are drawn in closed form, a heightfield by `heightfield.py`;
rays are cast only for the pixels of moving geoms, once a pixel, and 4 x 4 times where two surfaces
meet. The lamp is a point, because the rays of `mj_multiRay` start at one point. Lengths are metres
in the world frame; images are float32 (height, width, 3) in [0, 1] with row 0 at the top. Depth is
the distance along the viewing direction.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import mujoco
import numpy as np
from PIL import Image, ImageDraw

from metarl.envs.rendering.camera import read_geom_colors
from metarl.envs.rendering.heightfield import (
    FLOOR_DARK,
    FLOOR_LIGHT,
    HORIZON,
    Fan,
    Relief,
    checker,
    color_ground,
    find_relief,
    sky_color,
    sort_rays,
)

# an array compared with the enum itself takes 300 ns an element
_PLANE, _HEIGHTFIELD = int(mujoco.mjtGeom.mjGEOM_PLANE), int(mujoco.mjtGeom.mjGEOM_HFIELD)
_GROUPS = np.array([1, 1, 1, 0, 0, 0], dtype=np.uint8)  # the geom groups that MuJoCo's viewer shows
_SUBPIXELS = 4
_SHADOW_CELLS = 128
_NEAR = 0.05  # depth of the nearest thing drawn [m]


@dataclass(frozen=True)
class Patch:
    """Flat polygon.

    Attributes:
        corners: Corners (n, 3) [m].
        color: Red, green, blue (3,) in [0, 1].
        opacity: In (0, 1].
        standing: Stands in the air and may hide the robot; else lies on the floor, in its shadow.
    """

    corners: np.ndarray
    color: np.ndarray
    opacity: float
    standing: bool


@dataclass(frozen=True)
class Hits:
    """Ends of n rays.

    Attributes:
        geom: Geoms that are hit (n,), -1 for none.
        distance: Lengths of the rays (n,) [m], infinite for none.
        normal: Normals of the surfaces (n, 3).
    """

    geom: np.ndarray
    distance: np.ndarray
    normal: np.ndarray


def cast(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    origin: np.ndarray,
    directions: np.ndarray,
    *,
    static: bool,
) -> Hits:
    """Casts rays from one point.

    Args:
        model: The scene.
        data: Its pose; `mj_kinematics` is enough.
        origin: Start of the rays (3,) [m].
        directions: Directions (n, 3), of length one.
        static: Geoms that never move are hit too; planes never are.

    Returns:
        The hits.
    """
    num_rays = len(directions)
    geom, distance = np.empty(num_rays, dtype=np.int32), np.empty(num_rays)
    normal = np.empty((num_rays, 3))
    mujoco.mj_multiRay(
        model,
        data,
        origin,
        np.ascontiguousarray(directions).reshape(-1),
        _GROUPS,
        static,
        -1,
        geom,
        distance,
        normal.reshape(-1),
        num_rays,
        mujoco.mjMAXVAL,
    )
    if static:
        geom[(geom >= 0) & (model.geom_type[geom] == _PLANE)] = -1
    distance[geom < 0] = np.inf
    return Hits(geom, distance, normal)


class RayCaster:
    """Camera of fixed orientation in a MuJoCo scene.

    Args:
        model: The scene. Planes are drawn as one endless checker floor.
        axes: Right, up and forward of the camera, the rows of a matrix (3, 3); right is level.
        width: Of a frame [pixels].
        height: Of a frame [pixels].
    """

    def __init__(self, model: mujoco.MjModel, axes: np.ndarray, width: int, height: int):
        self._model, self._axes, self._size = model, axes, (width, height)
        self._focal = 0.5 * height / math.tan(math.radians(0.5 * model.vis.global_.fovy))
        self._moving = model.body_weldid[model.geom_bodyid] > 0
        planes = model.geom_type == _PLANE
        self.floor = float(model.geom_pos[planes, 2][0]) if planes.any() else 0.0
        self._relief = find_relief(model)
        ground = planes | (model.geom_type == _HEIGHTFIELD)
        self._static = bool((~self._moving & ~ground).any())
        self._albedo = read_geom_colors(model)[:, :3].astype(np.float32)
        level = axes[2] * [1.0, 1.0, 0.0]
        lamp = (
            1.2 * np.array([0.0, 0.0, 1.0]) - 0.55 * axes[0] - 0.45 * level / np.linalg.norm(level)
        )
        self._lamp = lamp / np.linalg.norm(lamp)

    @functools.cached_property
    def _fan(self) -> Fan:
        width, height = self._size
        right, up, forward = self._axes
        across = (np.arange(width) + 0.5 - 0.5 * width) / self._focal
        above = (0.5 * height - (np.arange(height) + 0.5)) / self._focal
        return sort_rays(forward + across[None, :, None] * right + above[:, None, None] * up)

    def frame(
        self,
        data: mujoco.MjData,
        eye: np.ndarray,
        focus: np.ndarray,
        radius: float,
        patches: list[Patch],
    ) -> np.ndarray:
        """Draws the scene.

        Args:
            data: The pose; `mj_kinematics` is enough.
            eye: Position of the camera (3,) [m].
            focus: Centre of the robot (3,) [m].
            radius: Of a sphere around focus that holds the robot [m].
            patches: Flat parts of the marker.

        Returns:
            The image (height, width, 3) uint8.
        """
        lamp = focus + 20.0 * self._lamp
        if self._relief is None:
            image, ground = self._draw_floor(eye)
            behind = np.full(image.shape[:2], np.inf, dtype=np.float32)
        else:
            self.floor = self._relief.height(*focus[:2])
            image, ground, behind = self._draw_relief(self._relief, eye, lamp)
        for patch in patches:
            if not patch.standing:
                self._paint(image, eye, patch, None)
        self._cast_shadow(data, image, ground, eye, lamp, focus, radius)
        depth = self._draw_geoms(data, image, eye, lamp, behind)
        for patch in patches:
            if patch.standing:
                self._paint(image, eye, patch, depth)
        return (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)

    def project(self, points: np.ndarray, eye: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Maps points (n, 3) [m] to places (n, 2) [pixels; x right, y down] and depths (n,) [m].

        The places of points behind the camera are NaN.
        """
        local = (points - eye) @ self._axes.T
        depth = np.where(local[:, 2] > _NEAR, local[:, 2], np.nan)
        place = self._focal * local[:, :2] / depth[:, None] * [1.0, -1.0]
        return place + 0.5 * np.array(self._size), local[:, 2]

    def _aim(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns unit vectors (n, 3) through places x, y (n,) [pixels], and cosines to forward."""
        width, height = self._size
        right, up, forward = self._axes
        across, above = (x - 0.5 * width) / self._focal, (0.5 * height - y) / self._focal
        rays = forward + across[:, None] * right + above[:, None] * up
        cosine = 1.0 / np.sqrt(1.0 + across**2 + above**2)
        return rays * cosine[:, None], cosine

    def _draw_floor(self, eye: np.ndarray) -> tuple[np.ndarray, tuple[int, np.ndarray, np.ndarray]]:
        """Draws sky and floor; returns the image, and where it shows the floor.

        This is (first row, x, y), x and y (rows, width) [m]. The camera's right is level, so a row
        of the image has one depth on the floor.
        """
        width, height = self._size
        right, up, forward = self._axes
        above = (0.5 * height - (np.arange(height) + 0.5)) / self._focal
        rise = forward[2] + above * up[2]
        image = np.empty((height, width, 3), dtype=np.float32)
        image[:] = sky_color(rise)[:, None]
        first = int(np.count_nonzero(rise > -1e-3)) if eye[2] > self.floor else height
        depth = (eye[2] - self.floor) / -rise[first:]
        axis = (np.arange(width) + 0.5 - 0.5 * width) / self._focal
        places, widths = [], []
        for k in (0, 1):
            middle = eye[k] + depth * (forward[k] + above[first:] * up[k])
            step = np.abs(np.gradient(middle)) if len(middle) > 1 else np.ones_like(middle)
            places.append((middle[:, None] + depth[:, None] * (axis * right[k])).astype(np.float32))
            widths.append(
                np.maximum(step, depth * abs(right[k]) / self._focal)[:, None].astype(np.float32)
            )
        share = checker(*places, *widths)
        fog = (1.0 - np.exp(-((depth / 30.0) ** 2))).astype(np.float32)[:, None]
        for channel in range(3):
            dark, light, far = FLOOR_DARK[channel], FLOOR_LIGHT[channel], HORIZON[channel]
            image[first:, :, channel] = (dark + (light - dark) * share) * (1 - fog) + far * fog
        return image, (first, *places)

    def _draw_relief(self, relief: Relief, eye: np.ndarray, lamp: np.ndarray):
        """Draws sky and relief; returns the image, shadow places as `_draw_floor`, and the depth.

        A shadow place is the ground at a pixel, moved along the line from the lamp to the floor.
        """
        image = self._fan.sky.copy()
        size, colors = image.shape[:2], image.reshape(-1, 3)
        # pixels without ground lie far from every shadow
        places = np.full((2, *size), 1e9, dtype=np.float32)
        depth = np.full(size, np.inf, dtype=np.float32)
        for ground in relief.view(eye, self._fan):
            colors[ground.pixel] = color_ground(ground, self._lamp, self._focal)
            depth.ravel()[ground.pixel] = ground.depth
            reach = (lamp[2] - self.floor) / np.maximum(lamp[2] - ground.point[2], 1.0)
            for k in (0, 1):
                places[k].ravel()[ground.pixel] = lamp[k] + (ground.point[k] - lamp[k]) * reach
        return image, (0, *places), depth

    def _paint(
        self, image: np.ndarray, eye: np.ndarray, patch: Patch, depth: np.ndarray | None
    ) -> None:
        """Paints a patch over the image, but where depth (height, width) [m] is smaller."""
        places, depths = self.project(patch.corners, eye)
        if depths.min() < _NEAR:
            return
        low = np.floor(places.min(axis=0)).astype(int).clip(0, self._size)
        high = np.ceil(places.max(axis=0)).astype(int).clip(0, self._size)
        if (high <= low).any():
            return
        mask = Image.new("L", tuple(4 * (high - low)))
        ImageDraw.Draw(mask).polygon([tuple(p) for p in 4.0 * (places - low) - 0.5], fill=255)
        cover = np.asarray(mask.reduce(4), dtype=np.float32) * (patch.opacity / 255.0)
        window = np.s_[low[1] : high[1], low[0] : high[0]]
        if depth is not None:
            cover = cover * (depth[window] > depths.mean())
        image[window] += cover[..., None] * (patch.color - image[window])

    def _cast_shadow(self, data, image, ground, eye, lamp, focus, radius) -> None:
        """Darkens the floor where a blurred map shows that the lamp does not reach it."""
        half = 1.6 * radius
        centre = focus - self._lamp * ((focus[2] - self.floor) / self._lamp[2])
        cells = np.linspace(-half, half, _SHADOW_CELLS)
        points = np.empty((_SHADOW_CELLS, _SHADOW_CELLS, 3))
        points[..., 0], points[..., 1] = centre[0] + cells, (centre[1] + cells)[:, None]
        points[..., 2] = self.floor
        rays = points.reshape(-1, 3) - lamp
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        hits = cast(self._model, data, lamp, rays, static=False)
        dark = (hits.geom >= 0).reshape(_SHADOW_CELLS, _SHADOW_CELLS).astype(np.float32)
        dark[[0, -1]], dark[:, [0, -1]] = 0.0, 0.0
        for _ in range(2):
            dark[1:-1] = 0.25 * (dark[:-2] + dark[2:]) + 0.5 * dark[1:-1]
            dark[:, 1:-1] = 0.25 * (dark[:, :-2] + dark[:, 2:]) + 0.5 * dark[:, 1:-1]
        places, depths = self.project(points[[0, 0, -1, -1], [0, -1, 0, -1]], eye)
        first, floor_x, floor_y = ground
        if depths.min() < _NEAR or self._relief is not None:
            low, high = np.array([0, first]), np.array(self._size)
        else:
            low = np.floor(places.min(axis=0)).astype(int).clip([0, first], self._size)
            high = np.ceil(places.max(axis=0)).astype(int).clip([0, first], self._size)
        if (high <= low).any():
            return
        here = np.s_[low[1] - first : high[1] - first, low[0] : high[0]]
        scale = np.float32((_SHADOW_CELLS - 1) / (2.0 * half))
        column = (floor_x[here] - np.float32(centre[0] - half)) * scale
        row = (floor_y[here] - np.float32(centre[1] - half)) * scale
        last = _SHADOW_CELLS - 1
        inside = (column > 0) & (column < last) & (row > 0) & (row < last)
        shade = 1.0 - 0.55 * _sample(dark, column[inside], row[inside])
        image[low[1] : high[1], low[0] : high[0]][inside] *= shade[:, None]

    def _bound(self, data: mujoco.MjData, eye: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns corners low, high (2,) [pixels] of a rectangle around all that rays can hit."""
        whole = np.zeros(2, dtype=int), np.array(self._size)
        if self._static or not self._moving.any():
            return whole
        reach = self._model.geom_rbound[self._moving]
        places, depths = self.project(data.geom_xpos[self._moving], eye)
        if (depths - reach).min() < _NEAR:
            return whole
        # (|x| + r) / (z - r) - |x| / z = (1 + |x| / z) r / (z - r) bounds the picture of a sphere
        stretch = 1.0 + np.abs(places - 0.5 * np.array(self._size)).max(axis=1) / self._focal
        half = (self._focal * reach * stretch / (depths - reach))[:, None]
        low = np.floor((places - half).min(axis=0)).astype(int).clip(0, self._size)
        high = np.ceil((places + half).max(axis=0)).astype(int).clip(0, self._size)
        return low, high

    def _draw_geoms(self, data, image, eye, lamp, behind: np.ndarray) -> np.ndarray:
        """Draws geoms nearer than `behind` (height, width) [m]; returns the new depth."""
        depth = behind.copy()
        low, high = self._bound(data, eye)
        if (high <= low).any():
            return depth
        y, x = np.mgrid[low[1] : high[1], low[0] : high[0]].reshape(2, -1)
        rays, cosine = self._aim(x + 0.5, y + 0.5)
        hits = cast(self._model, data, eye, rays, static=self._static)
        near = hits.distance * cosine < behind[y, x]
        hits.geom[~near] = -1
        depth[y, x] = np.where(near, hits.distance * cosine, depth[y, x])
        shape = tuple((high - low)[::-1])
        edge = _find_edges(hits.geom.reshape(shape)).ravel()
        inner = np.flatnonzero((hits.geom >= 0) & ~edge)
        image[y[inner], x[inner]] = self._shade(data, eye, lamp, rays, hits, inner)
        x, y = x[edge], y[edge]
        offsets = (np.arange(_SUBPIXELS) + 0.5) / _SUBPIXELS
        fine_y, fine_x = (a.ravel() for a in np.meshgrid(offsets, offsets, indexing="ij"))
        rays, cosine = self._aim((x[:, None] + fine_x).ravel(), (y[:, None] + fine_y).ravel())
        hits = cast(self._model, data, eye, rays, static=self._static)
        colors = np.repeat(image[y, x], _SUBPIXELS**2, axis=0)
        ground = np.repeat(behind[y, x], _SUBPIXELS**2)
        hit = np.flatnonzero((hits.geom >= 0) & (hits.distance * cosine < ground))
        colors[hit] = self._shade(data, eye, lamp, rays, hits, hit)
        image[y, x] = colors.reshape(len(x), _SUBPIXELS**2, 3).mean(axis=1)
        return depth

    def _shade(self, data, eye, lamp, rays, hits: Hits, chosen: np.ndarray) -> np.ndarray:
        """Returns colours (n, 3) of the chosen hits: sky, floor and lamp light, and a highlight."""
        rays, normal = rays[chosen], hits.normal[chosen]
        points = eye + rays * hits.distance[chosen, None]
        light = points - lamp
        far = np.linalg.norm(light, axis=1)
        light /= far[:, None]
        # 1 cm is more than the error of a ray's end at 20 m and less than the thinnest limb
        lit = cast(self._model, data, lamp, light, static=self._static).distance > far - 0.01
        facing = np.clip(-(normal * light).sum(axis=1), 0.0, 1.0) * lit
        middle = light + rays
        middle /= np.linalg.norm(middle, axis=1, keepdims=True)
        gloss = np.clip(-(normal * middle).sum(axis=1), 0.0, 1.0) ** 40 * lit
        bright = 0.42 + 0.16 * normal[:, 2] + 0.62 * facing
        albedo = self._albedo[hits.geom[chosen]]
        fixed = ~self._moving[hits.geom[chosen]]
        if fixed.any():
            box = np.full(int(fixed.sum()), 0.02)
            share = checker(points[fixed, 0], points[fixed, 1], box, box)[:, None]
            albedo[fixed] = FLOOR_DARK + (FLOOR_LIGHT - FLOOR_DARK) * share
        return (albedo * bright[:, None] + 0.22 * gloss[:, None]).astype(np.float32)


def _sample(table: np.ndarray, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Interpolates a table bilinearly at fractional places; outside it continues the border."""
    last = len(table) - 1
    column, row = column.clip(0, last - 0.001), row.clip(0, last - 0.001)
    left, top = column.astype(np.intp), row.astype(np.intp)
    column, row = column - left, row - top
    flat, start = table.ravel(), top * len(table) + left
    upper = flat[start] * (1 - column) + flat[start + 1] * column
    lower = flat[start + len(table)] * (1 - column) + flat[start + len(table) + 1] * column
    return (upper * (1 - row) + lower * row).astype(np.float32)


def _find_edges(geom: np.ndarray) -> np.ndarray:
    """Marks pixels (rows, columns) whose neighbour to a side, above or below shows another geom."""
    edge = np.zeros(geom.shape, dtype=bool)
    across, down = geom[:, 1:] != geom[:, :-1], geom[1:] != geom[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge
