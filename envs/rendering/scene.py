"""Scenes of recorded states, which a viewer can draw by itself: shapes, poses, goal and camera.

A scene is a dict of plain values and arrays, so that any environment can make one:

    geoms       list of {kind, size, color, body, position, rotation}
                kind and size: "sphere" (radius), "capsule" and "cylinder" (radius, half length
                along z), "box" and "ellipsoid" (half extents), "plane" (none, endless), or
                "hfield" (index into hfields); color: red, green, blue, opacity in [0, 1];
                body: index of the body that carries it, -1 for the world; position (3,) [m] and
                rotation (4,) [quaternion, w first] in that body
    hfields     list of {rows, columns, size, heights}
                size: half extents along x and y, height and depth [m]; heights
                (rows * columns,) in [0, 1], rows along y
    position    (L, B, 3) of the bodies [m, world], frame by frame
    rotation    (L, B, 4) of the bodies [quaternion, w first]
    root        (L, 3) of the robot [m, world]
    radius      radius of a sphere around the root that contains the robot [m]
    planar      the robot moves in the x-z plane
    marker      {kind, position, vector, size}
                "target" at a position (3,) [m, world] with a disc of radius size [m], "point" in
                space with a ball of radius size, or "arrow" at the robot along a vector (2,)
    camera      {azimuth, elevation, distance} [degrees, m] and lookat (L, 3) [m, world], as in
                `Shot` of `metarl/envs/rendering/camera.py`
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import mujoco
import numpy as np

from metarl.envs.rendering.camera import (
    POINT,
    Shot,
    check_states,
    plan_shot,
    read_geom_colors,
)
from metarl.envs.rendering.heightfield import crop_to_period, place_copies
from metarl.envs.rendering.marker import Marker

_SHOWN_GROUPS = 3
"""First group of geoms that is hidden, as in MuJoCo's viewer."""

_TARGET = 0.45  # radius of a target's disc [m]

_KINDS = {
    int(mujoco.mjtGeom.mjGEOM_SPHERE): ("sphere", 1),
    int(mujoco.mjtGeom.mjGEOM_CAPSULE): ("capsule", 2),
    int(mujoco.mjtGeom.mjGEOM_CYLINDER): ("cylinder", 2),
    int(mujoco.mjtGeom.mjGEOM_BOX): ("box", 3),
    int(mujoco.mjtGeom.mjGEOM_ELLIPSOID): ("ellipsoid", 3),
    int(mujoco.mjtGeom.mjGEOM_PLANE): ("plane", 0),
}
"""Kind and number of sizes; other geoms, such as meshes, are shown as their bounding boxes."""

_HFIELD = int(mujoco.mjtGeom.mjGEOM_HFIELD)


def mujoco_scene(
    model: mujoco.MjModel,
    states: np.ndarray,
    marker: Marker,
    camera: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Builds the scene of an episode of a MuJoCo robot.

    Args:
        model: The robot in its scene; not changed.
        states: qpos snapshots (L, nq), L >= 1.
        marker: The goal.
        camera: Azimuth and elevation of the first view [degrees]; by default those of a film.

    Returns:
        The scene.

    Raises:
        ValueError: The states are not finite or not (L, nq).
    """
    model, states = crop_to_period(model), check_states(model, states)
    shot = plan_shot(model, states, marker, camera)
    shown = np.flatnonzero((model.geom_group < _SHOWN_GROUPS) & (read_geom_colors(model)[:, 3] > 0))
    moving = model.body_weldid[model.geom_bodyid] > 0
    bodies = np.unique(model.geom_bodyid[shown[moving[shown]]])
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    hfields: list[dict[str, Any]] = []
    geoms = [_describe_geom(model, data, int(geom), bodies, hfields) for geom in shown]
    geoms += _copy_ground(model, geoms, shot.root)
    position, rotation = _compute_poses(model, data, states, bodies)
    return {
        "geoms": geoms,
        "hfields": hfields,
        "position": position,
        "rotation": rotation,
        "root": shot.root,
        "radius": shot.radius,
        "planar": shot.planar,
        "marker": _describe_marker(model, data, marker, shot),
        "camera": {
            "azimuth": shot.azimuth,
            "elevation": shot.elevation,
            "distance": shot.distance,
            "lookat": shot.lookat,
        },
    }


def _describe_marker(
    model: mujoco.MjModel, data: mujoco.MjData, marker: Marker, shot: Shot
) -> dict[str, Any]:
    """Describes a marker: a target or an arrow on the ground, or a point in space."""
    x, y, *z = marker.vector
    position = [x, y, *(z or [_ground_height(model, data, (x, y))])]
    size = 0.5 * POINT * shot.radius if z else _TARGET
    return {**asdict(marker), "position": position, "size": size}


def _compute_poses(
    model: mujoco.MjModel, data: mujoco.MjData, states: np.ndarray, bodies: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Computes positions (L, B, 3) and rotations (L, B, 4) of bodies; changes data."""
    position = np.empty((len(states), len(bodies), 3))
    rotation = np.empty((len(states), len(bodies), 4))
    for row, qpos in enumerate(states):
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        position[row], rotation[row] = data.xpos[bodies], data.xquat[bodies]
    return position, rotation


def _describe_geom(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    geom: int,
    bodies: np.ndarray,
    hfields: list[dict[str, Any]],
) -> dict[str, Any]:
    """Describes a geom relative to its moving body or the world; appends its heightfield."""
    kind, count = _KINDS.get(int(model.geom_type[geom]), ("box", 3))
    size = model.geom_size[geom, :count].tolist()
    body = int(model.geom_bodyid[geom])
    if body in bodies:
        place = int(np.searchsorted(bodies, body))
        position, rotation = model.geom_pos[geom].copy(), model.geom_quat[geom].copy()
    else:
        place, rotation = -1, np.empty(4)
        position = data.geom_xpos[geom].copy()
        mujoco.mju_mat2Quat(rotation, data.geom_xmat[geom])
    if model.geom_type[geom] == _HFIELD:
        kind, size = "hfield", [len(hfields)]
        hfields.append(_describe_hfield(model, int(model.geom_dataid[geom])))
    elif int(model.geom_type[geom]) not in _KINDS:
        centre, size = model.geom_aabb[geom, :3].copy(), model.geom_aabb[geom, 3:].tolist()
        mujoco.mju_rotVecQuat(centre, centre.copy(), rotation)
        position += centre
    return {
        "kind": kind,
        "size": size,
        "color": read_geom_colors(model)[geom].tolist(),
        "body": place,
        "position": position.tolist(),
        "rotation": rotation.tolist(),
    }


def _copy_ground(
    model: mujoco.MjModel, geoms: list[dict[str, Any]], root: np.ndarray
) -> list[dict[str, Any]]:
    """Describes copies of a periodic heightfield along the path root (L, 3) [m]."""
    copies = []
    for x, y in place_copies(model, root).tolist():
        ground = next(geom for geom in geoms if geom["kind"] == "hfield")
        position = [ground["position"][0] + x, ground["position"][1] + y, ground["position"][2]]
        copies.append({**ground, "position": position})
    return copies


def _describe_hfield(model: mujoco.MjModel, index: int) -> dict[str, Any]:
    rows, columns = int(model.hfield_nrow[index]), int(model.hfield_ncol[index])
    start = int(model.hfield_adr[index])
    return {
        "rows": rows,
        "columns": columns,
        "size": model.hfield_size[index].tolist(),
        "heights": model.hfield_data[start : start + rows * columns].copy(),
    }


def _ground_height(model: mujoco.MjModel, data: mujoco.MjData, point: tuple[float, float]) -> float:
    """Returns the height [m] of the heightfields at a point (2,) [m], or of the first plane."""
    top = 1e3
    start, down = np.array([*point, top]), np.array([0.0, 0.0, -1.0])
    normal = np.zeros(3)
    fields = np.flatnonzero(model.geom_type == _HFIELD)
    heights = [
        top - distance
        for geom in fields
        if (distance := mujoco.mj_rayHfield(model, data, int(geom), start, down, normal)) >= 0
    ]
    planes = np.flatnonzero(model.geom_type == int(mujoco.mjtGeom.mjGEOM_PLANE))
    return max(heights) if heights else float(model.geom_pos[planes[0], 2]) if len(planes) else 0.0
