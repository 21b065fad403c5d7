"""Camera of an episode, and the marker of its goal. Lengths are metres in the world frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import mujoco
import numpy as np

from metarl.envs.rendering.heightfield import Relief
from metarl.envs.rendering.marker import Marker
from metarl.envs.robots.robot import find_torso

_SMOOTHING = 15
"""Frames over which the camera averages the robot's path, to keep the picture steady."""

POINT = 0.08
"""Diameter of the mark of a point in space, as a share of the robot's radius."""

_UNCOLORED = np.array([0.5, 0.5, 0.5, 1.0], dtype=np.float32)
"""Colour of a geom whose model gives none."""


@dataclass(frozen=True)
class MarkerPart:
    """Part of a marker.

    Attributes:
        kind: "arrow" and "disc" are flat, "post" faces the camera.
        start: Tail of the arrow, centre of the disc, foot of the post (3,) [m].
        end: Tip of the arrow, top of the post; the disc ignores it (3,) [m].
        width: Width of the shaft or of the post, or diameter of the disc [m].
        normal: Normal of the part's plane (3,).
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
    """Camera over an episode of L frames; it follows the robot at fixed angles and distance.

    Attributes:
        root: Position of the robot (L, 3) [m].
        lookat: Point in the middle of the picture (L, 3) [m].
        radius: Radius of a sphere around the root that contains the robot at rest [m].
        planar: The robot moves in the x-z plane.
        distance: Distance from the camera to lookat [m].
        azimuth: Azimuth of the viewing direction, 0 along x, 90 along y [degrees].
        elevation: Elevation of the viewing direction, negative looks down [degrees].
    """

    root: np.ndarray
    lookat: np.ndarray
    radius: float
    planar: bool
    distance: float
    azimuth: float
    elevation: float

    def axes(self) -> np.ndarray:
        """Returns the camera's right, up and forward, the rows of a matrix (3, 3)."""
        azimuth, elevation = math.radians(self.azimuth), math.radians(self.elevation)
        level = np.array([math.cos(azimuth), math.sin(azimuth), 0.0])
        forward = math.cos(elevation) * level + math.sin(elevation) * np.array([0.0, 0.0, 1.0])
        right = np.cross(level, [0.0, 0.0, 1.0])
        return np.stack([right, np.cross(right, forward), forward])


def check_states(model: mujoco.MjModel, states: np.ndarray) -> np.ndarray:
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


def _find_root(model: mujoco.MjModel, planar: bool) -> int:
    """Returns the body that the camera follows: that of the base."""
    kinds = mujoco.mjtJoint
    base = [int(kinds.mjJNT_SLIDE), int(kinds.mjJNT_SLIDE), int(kinds.mjJNT_HINGE)]
    is_plane = planar and model.jnt_type[:3].tolist() == base  # else a robot of a plug-in
    return find_torso(model, is_plane) if model.njnt else model.nbody - 1


def plan_shot(
    model: mujoco.MjModel,
    states: np.ndarray,
    marker: Marker,
    camera: tuple[float, float] | None = None,
) -> Shot:
    """Places the camera: beside a planar robot, in front of an arm, behind and above any other.

    Args:
        model: The robot in its scene.
        states: qpos (L, nq), L >= 1.
        marker: The goal. A target is kept in the picture up to 4 m from the robot.
        camera: Azimuth and elevation, if others than these [degrees].

    Returns:
        The shot.
    """
    data = mujoco.MjData(model)
    is_free = bool(model.njnt) and model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE
    is_arm = marker.kind == "point"
    planar = bool(model.njnt) and not is_free and not is_arm
    body = _find_root(model, planar)
    mujoco.mj_kinematics(model, data)
    moving = model.body_weldid[model.geom_bodyid] > 0
    reach = np.linalg.norm(data.geom_xpos - data.xpos[body], axis=1) + model.geom_rbound
    radius = float(reach[moving].max(initial=0.1))
    root = np.empty((len(states), 3))
    for row, qpos in enumerate(states):
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        root[row] = data.xpos[body]
    lookat = root.copy()
    distance = (4.2 if planar else 3.0 if is_arm else 4.6) * radius
    if marker.kind == "target":
        apart = np.zeros_like(root)
        apart[:, :2] = np.asarray(marker.vector) - root[:, :2]
        length = np.linalg.norm(apart, axis=1, keepdims=True)
        lookat += 0.5 * apart * np.minimum(1.0, 4.0 / np.maximum(length, 1e-9))
        distance += 0.9 * float(np.minimum(length, 4.0).max())
    lookat[:, 2] += (0.15 if planar else 0.2 if is_arm else 0.0) * radius
    window = np.ones(_SMOOTHING) / _SMOOTHING
    padded = np.pad(lookat, ((_SMOOTHING // 2, _SMOOTHING // 2), (0, 0)), mode="edge")
    lookat = np.stack([np.convolve(axis, window, mode="valid") for axis in padded.T], axis=1)
    azimuth, elevation = camera or (
        (90.0, -14.0) if planar else (130.0, -20.0) if is_arm else (60.0, -29.0)
    )
    return Shot(root, lookat, radius, planar, distance, azimuth, elevation)


def place_marker(marker: Marker, shot: Shot, row: int, floor: float) -> list[MarkerPart]:
    """Returns the parts of a marker in frame `row`, at the height `floor` [m].

    An arrow lies on the floor and starts at the robot, or hangs above a planar robot; a target is a
    disc with a post, and a point in space a disc that faces the camera, with its height above the
    floor as a thin post.

    Args:
        marker: The goal.
        shot: The film's view of the robot.
        row: Number of the frame.
        floor: Height at which the marker lies, see `find_marker_level` [m].
    """
    if marker.kind == "none":
        return []
    upright, vector = np.array([0.0, 0.0, 1.0]), np.array([*marker.vector, 0.0][:3])
    if marker.kind == "point":
        foot, facing = vector * [1.0, 1.0, 0.0] + [0.0, 0.0, floor], -shot.axes()[2]
        post = MarkerPart("post", foot, vector, 0.008 * shot.radius, facing, 0.6)
        return [post, MarkerPart("disc", vector, vector, POINT * shot.radius, facing)]
    if marker.kind == "target":
        foot = vector + [0.0, 0.0, floor + 0.01]
        top = foot + 0.9 * upright
        flat = [MarkerPart("disc", foot, foot, width, upright, 0.45) for width in (0.9, 0.5)]
        facing = -shot.axes()[2]
        post = MarkerPart("post", foot, top, 0.05, facing)
        return [*flat, post, MarkerPart("disc", top, top, 0.22, facing)]
    start, normal = shot.root[row].copy(), upright
    start[2] = floor + 0.01
    if shot.planar:
        start[2], normal = shot.root[row, 2] + 0.75 * shot.radius, np.array([0.0, -1.0, 0.0])
    speed = float(np.linalg.norm(vector))
    width = 0.15 * shot.radius
    if speed < 0.05:
        return [MarkerPart("disc", start, start, 2.0 * width, normal)]
    along = vector * (shot.radius * (1.3 + 0.25 * speed) / speed)
    if shot.planar:
        start -= 0.5 * along
    dot = MarkerPart("disc", start, start, 2.0 * width, normal)
    return [dot, MarkerPart("arrow", start, start + along, width, normal)]


def outline(part: MarkerPart, right: np.ndarray) -> np.ndarray:
    """Returns the corners (n, 3) [m] of a part; a post extends along the camera's right (3,)."""
    axis = part.end - part.start
    if part.kind == "disc":
        across = np.cross(part.normal, [0.31, 0.59, 0.74])
        across /= np.linalg.norm(across)
        along = np.cross(part.normal, across)
        angle = np.linspace(0.0, 2.0 * np.pi, 48, endpoint=False)[:, None]
        circle = np.cos(angle) * across + np.sin(angle) * along
        return part.start + 0.5 * part.width * circle
    if part.kind == "post":
        side = 0.5 * part.width * right
        return np.stack([part.start - side, part.start + side, part.end + side, part.end - side])
    length = float(np.linalg.norm(axis))
    along = axis / length
    side = np.cross(part.normal, along) * part.width
    neck = part.end - along * min(2.6 * part.width, 0.6 * length)
    shaft = [part.start + 0.5 * side, neck + 0.5 * side]
    head = [neck + 1.4 * side, part.end, neck - 1.4 * side]
    return np.stack([*shaft, *head, neck - 0.5 * side, part.start - 0.5 * side])


def find_marker_level(
    model: mujoco.MjModel, relief: Relief | None, marker: Marker, shot: Shot, row: int
) -> float:
    """Returns the height at which a marker lies in frame `row` [m].

    This is the first plane, or 0; on a relief the ground of a target, or above the robot.

    Args:
        model: The robot in its scene.
        relief: The ground, if it is not flat.
        marker: The goal.
        shot: The film's view of the robot.
        row: Number of the frame.
    """
    if relief is not None and marker.kind == "target":
        return relief.height(*marker.vector[:2]) + 0.04
    if relief is not None:
        return float(shot.root[row, 2]) + 0.75 * shot.radius
    planes = np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE)
    return float(model.geom_pos[planes[0], 2]) if len(planes) else 0.0


def read_geom_colors(model: mujoco.MjModel) -> np.ndarray:
    """Returns red, green, blue and opacity (ngeom, 4).

    As in MuJoCo, a geom's own colour takes precedence over that of its material.
    """
    if not model.nmat:
        return model.geom_rgba
    bare = (model.geom_rgba == _UNCOLORED).all(axis=1) & (model.geom_matid >= 0)
    return np.where(bare[:, None], model.mat_rgba[model.geom_matid], model.geom_rgba)
