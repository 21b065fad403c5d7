"""Recorded states -> frames: GL where a context really opens, else a ray caster that needs no GL.

Both back ends film with the same camera and show the same marker. Lengths are metres in the world
frame; images have row 0 at the top.
"""

from __future__ import annotations

import copy
import functools
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import mujoco
import numpy as np

from envs.goals import Marker
from envs.rays import FLOOR_DARK, FLOOR_LIGHT, Patch, RayCaster

Backend = Literal["auto", "gl", "rays"]

MARKER_COLOR = np.array([0.05, 0.66, 0.38], dtype=np.float32)
"""Red, green, blue in [0, 1] of every goal; nothing else in a scene is green."""

_SMOOTHING = (
    15  # frames over which the camera averages the robot's path: steps shake, the picture does not
)

_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size="1"/></worldbody></mujoco>')
renderer = mujoco.Renderer(model, 16, 16)
renderer.update_scene(mujoco.MjData(model))
renderer.render()
"""


@functools.cache
def gl_works() -> bool:
    """Whether an off-screen GL context opens in this environment, tried in a child process.

    A child, because a missing driver can end the process, and because what MUJOCO_GL promises
    cannot be trusted.
    """
    command = [sys.executable, "-c", _PROBE]
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # MuJoCo writes its log into the working directory
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return False
    return done.returncode == 0


@dataclass(frozen=True)
class Figure:
    """A part of a marker.

    Attributes:
        kind: "arrow" and "disc" are flat, "post" faces the camera.
        start: Tail of the arrow, centre of the disc, foot of the post (3,) [m].
        end: Tip of the arrow, top of the post; the disc ignores it (3,) [m].
        width: Of the shaft, of the post, or the disc's diameter [m].
        normal: Of the plane of the figure (3,).
        opacity: In (0, 1].
    """

    kind: Literal["arrow", "disc", "post"]
    start: np.ndarray
    end: np.ndarray
    width: float
    normal: np.ndarray
    opacity: float = 1.0


@dataclass(frozen=True)
class Shot:
    """How an episode of L frames is filmed: angles and distance stay, the camera follows the robot.

    Attributes:
        root: Position of the robot (L, 3) [m].
        lookat: The point in the middle of the picture (L, 3) [m].
        radius: Of a sphere around the root that holds the robot at rest [m].
        planar: Whether the robot moves in the x-z plane.
        distance: From the camera to lookat [m].
        azimuth: Of the viewing direction, 0 along x, 90 along y [degrees].
        elevation: Of the viewing direction, negative looks down [degrees].
    """

    root: np.ndarray
    lookat: np.ndarray
    radius: float
    planar: bool
    distance: float
    azimuth: float
    elevation: float

    def axes(self) -> np.ndarray:
        """Right, up and forward of the camera, the rows of a matrix (3, 3)."""
        azimuth, elevation = math.radians(self.azimuth), math.radians(self.elevation)
        level = np.array([math.cos(azimuth), math.sin(azimuth), 0.0])
        forward = math.cos(elevation) * level + math.sin(elevation) * np.array([0.0, 0.0, 1.0])
        right = np.cross(level, [0.0, 0.0, 1.0])
        return np.stack([right, np.cross(right, forward), forward])


def checked_states(model: mujoco.MjModel, states: np.ndarray) -> np.ndarray:
    """Returns qpos snapshots (L, nq) in float64.

    Raises:
        ValueError: They are not finite or not (L, nq).
    """
    states = np.asarray(states, dtype=float)
    if states.ndim != 2 or states.shape[1] != model.nq or not len(states):
        raise ValueError(f"states must be (L, {model.nq}) with L >= 1, got {states.shape}")
    if not np.isfinite(states).all():
        broken = int(np.flatnonzero(~np.isfinite(states).all(axis=1))[0])
        raise ValueError(f"state {broken} of {len(states)} is not finite")
    return states


def plan_shot(
    model: mujoco.MjModel,
    states: np.ndarray,
    marker: Marker,
    camera: tuple[float, float] | None = None,
) -> Shot:
    """Places the camera: beside a planar robot, behind and above one that roams.

    Args:
        model: The robot in its scene.
        states: qpos (L, nq), L >= 1.
        marker: The goal. A target is kept in the picture up to 4 m from the robot.
        camera: Azimuth and elevation in its place [degrees].

    Returns:
        The shot.
    """
    data = mujoco.MjData(model)
    body = int(model.jnt_bodyid[0]) if model.njnt else model.nbody - 1
    mujoco.mj_kinematics(model, data)
    moving = model.body_weldid[model.geom_bodyid] > 0
    reach = np.linalg.norm(data.geom_xpos - data.xpos[body], axis=1) + model.geom_rbound
    radius = float(reach[moving].max(initial=0.1))
    root = np.empty((len(states), 3))
    for row, qpos in enumerate(states):
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        root[row] = data.xpos[body]
    planar = bool(model.njnt) and model.jnt_type[0] != mujoco.mjtJoint.mjJNT_FREE
    lookat = root.copy()
    distance = (4.2 if planar else 4.6) * radius
    if marker.kind == "target":
        apart = np.zeros_like(root)
        apart[:, :2] = np.asarray(marker.vector) - root[:, :2]
        length = np.linalg.norm(apart, axis=1, keepdims=True)
        lookat += 0.5 * apart * np.minimum(1.0, 4.0 / np.maximum(length, 1e-9))
        distance += 0.9 * float(np.minimum(length, 4.0).max())
    lookat[:, 2] += (0.15 if planar else 0.0) * radius
    window = np.ones(_SMOOTHING) / _SMOOTHING
    padded = np.pad(lookat, ((_SMOOTHING // 2, _SMOOTHING // 2), (0, 0)), mode="edge")
    lookat = np.stack([np.convolve(axis, window, mode="valid") for axis in padded.T], axis=1)
    azimuth, elevation = camera or ((90.0, -14.0) if planar else (60.0, -29.0))
    return Shot(root, lookat, radius, planar, distance, azimuth, elevation)


def marker_figures(marker: Marker, shot: Shot, row: int, floor: float) -> list[Figure]:
    """The parts of a marker in frame `row`.

    An arrow lies on the floor and starts at the robot, or hangs above a planar robot; a target is a
    disc with a post.
    """
    upright, vector = np.array([0.0, 0.0, 1.0]), np.array([*marker.vector, 0.0])
    if marker.kind == "target":
        foot = vector + [0.0, 0.0, floor + 0.01]
        top = foot + 0.9 * upright
        flat = [Figure("disc", foot, foot, width, upright, 0.45) for width in (0.9, 0.5)]
        facing = -shot.axes()[2]
        post = Figure("post", foot, top, 0.05, facing)
        return [*flat, post, Figure("disc", top, top, 0.22, facing)]
    start, normal = shot.root[row].copy(), upright
    start[2] = floor + 0.01
    if shot.planar:
        start[2], normal = shot.root[row, 2] + 0.75 * shot.radius, np.array([0.0, -1.0, 0.0])
    speed = float(np.linalg.norm(vector))
    width = 0.15 * shot.radius
    if speed < 0.05:
        return [Figure("disc", start, start, 2.0 * width, normal)]
    along = vector * (shot.radius * (1.3 + 0.25 * speed) / speed)
    if shot.planar:
        start -= 0.5 * along
    dot = Figure("disc", start, start, 2.0 * width, normal)
    return [dot, Figure("arrow", start, start + along, width, normal)]


def _outline(figure: Figure, right: np.ndarray) -> np.ndarray:
    """Corners (n, 3) [m] of a figure; a post extends across `right`, the camera's right (3,)."""
    axis = figure.end - figure.start
    if figure.kind == "disc":
        across = np.cross(figure.normal, [0.31, 0.59, 0.74])
        across /= np.linalg.norm(across)
        along = np.cross(figure.normal, across)
        angle = np.linspace(0.0, 2.0 * np.pi, 48, endpoint=False)[:, None]
        circle = np.cos(angle) * across + np.sin(angle) * along
        return figure.start + 0.5 * figure.width * circle
    if figure.kind == "post":
        side = 0.5 * figure.width * right
        return np.stack(
            [figure.start - side, figure.start + side, figure.end + side, figure.end - side]
        )
    length = float(np.linalg.norm(axis))
    along = axis / length
    side = np.cross(figure.normal, along) * figure.width
    neck = figure.end - along * min(2.6 * figure.width, 0.6 * length)
    shaft = [figure.start + 0.5 * side, neck + 0.5 * side]
    head = [neck + 1.4 * side, figure.end, neck - 1.4 * side]
    return np.stack([*shaft, *head, neck - 0.5 * side, figure.start - 0.5 * side])


def render_mujoco(
    model: mujoco.MjModel,
    states: np.ndarray,
    marker: Marker,
    *,
    width: int,
    height: int,
    camera: tuple[float, float] | None = None,
    backend: Backend = "auto",
) -> Iterator[np.ndarray]:
    """Draws an episode of a MuJoCo robot.

    Args:
        model: The robot in its scene; not changed.
        states: qpos snapshots (L, nq), L >= 1.
        marker: The goal.
        width: Of a frame [pixels].
        height: Of a frame [pixels].
        camera: Azimuth and elevation of the view, as in Shot [degrees]; by default that of `plan_shot`.
        backend: "auto" takes GL where it works (`gl_works`), else the ray caster.

    Yields:
        L frames (height, width, 3) uint8.

    Raises:
        ValueError: The states are not finite or not (L, nq).
    """
    states = checked_states(model, states)
    if backend == "auto":
        backend = "gl" if gl_works() else "rays"
    shot = plan_shot(model, states, marker, camera)
    frames = _gl_frames if backend == "gl" else _ray_frames
    return frames(model, states, marker, shot, (width, height))


def _floor_height(model: mujoco.MjModel) -> float:
    """Height [m] of the first plane, 0 without one."""
    planes = np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE)
    return float(model.geom_pos[planes[0], 2]) if len(planes) else 0.0


def _pose(model: mujoco.MjModel, data: mujoco.MjData, qpos: np.ndarray) -> None:
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)


def _ray_frames(
    model: mujoco.MjModel, states: np.ndarray, marker: Marker, shot: Shot, size: tuple[int, int]
) -> Iterator[np.ndarray]:
    data, axes = mujoco.MjData(model), shot.axes()
    caster = RayCaster(model, axes, *size)
    for row, qpos in enumerate(states):
        _pose(model, data, qpos)
        patches = [
            Patch(
                _outline(figure, axes[0]),
                MARKER_COLOR,
                figure.opacity,
                bool(figure.normal[2] < 0.9),
            )
            for figure in marker_figures(marker, shot, row, _floor_height(model))
        ]
        eye = shot.lookat[row] - shot.distance * axes[2]
        yield caster.frame(data, eye, shot.root[row], shot.radius, patches)


def _gl_frames(
    model: mujoco.MjModel, states: np.ndarray, marker: Marker, shot: Shot, size: tuple[int, int]
) -> Iterator[np.ndarray]:
    model, data = _repainted(model), mujoco.MjData(model)
    model.vis.global_.offwidth, model.vis.global_.offheight = size
    camera = mujoco.MjvCamera()
    camera.distance, camera.azimuth, camera.elevation = shot.distance, shot.azimuth, shot.elevation
    with mujoco.Renderer(model, size[1], size[0]) as renderer:
        for row, qpos in enumerate(states):
            _pose(model, data, qpos)
            camera.lookat[:] = shot.lookat[row]
            renderer.update_scene(data, camera)
            for figure in marker_figures(marker, shot, row, _floor_height(model)):
                _add_geom(renderer.scene, figure)
            yield renderer.render().copy()


def _repainted(model: mujoco.MjModel) -> mujoco.MjModel:
    """A copy whose floor has the ray caster's colours and does not mirror.

    A mirrored goal looks like a second one.
    """
    model = copy.copy(model)
    model.mat_reflectance[:] = 0.0
    planes = np.flatnonzero(model.geom_type == int(mujoco.mjtGeom.mjGEOM_PLANE))
    model.geom_rgba[planes] = 1.0
    for material in set(model.geom_matid[planes].tolist()) - {-1}:
        texture = int(model.mat_texid[material, mujoco.mjtTextureRole.mjTEXROLE_RGB])
        if texture < 0 or model.tex_nchannel[texture] != 3:
            continue
        start = model.tex_adr[texture]
        end = start + 3 * model.tex_width[texture] * model.tex_height[texture]
        pixels = model.tex_data[start:end].reshape(-1, 3)
        light = pixels.sum(axis=1, dtype=int) > pixels.sum(axis=1, dtype=int).mean()
        pixels[:] = 255.0 * np.where(light[:, None], FLOOR_LIGHT, FLOOR_DARK)
        model.mat_rgba[material] = 1.0
    return model


def _add_geom(scene: mujoco.MjvScene, figure: Figure) -> None:
    geom = scene.geoms[scene.ngeom]
    kinds = mujoco.mjtGeom
    kind = {
        "arrow": kinds.mjGEOM_ARROW,
        "disc": kinds.mjGEOM_CYLINDER,
        "post": kinds.mjGEOM_CAPSULE,
    }
    color = np.append(MARKER_COLOR, figure.opacity).astype(np.float32)
    zeros = np.zeros(3)
    mujoco.mjv_initGeom(geom, kind[figure.kind], zeros, zeros, np.zeros(9), color)
    start, end = figure.start, figure.end
    if figure.kind == "disc":
        start, end = figure.start - 0.004 * figure.normal, figure.start + 0.004 * figure.normal
    mujoco.mjv_connector(geom, kind[figure.kind], 0.5 * figure.width, start, end)
    if figure.kind == "arrow":
        geom.size[2] *= 2.0  # the connector's arrow ends half way (MuJoCo 4.0)
    geom.emission = 0.4
    scene.ngeom += 1
