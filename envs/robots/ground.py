"""The ground of a model: the plane on which its robot stands."""

from __future__ import annotations

import mujoco
import numpy as np

LEAST_UP = 0.5
"""Vertical part of the normal of a plane from which on it is ground and no wall."""

SAME_HEIGHT = 1e-3
"""Difference of height up to which two shapes carry a robot together [m]."""


def find_ground(model: mujoco.MjModel) -> int:
    """Returns the plane that does not move and carries the robot, the most level one, or -1.

    It must collide with the robot, unless that is an arm: its first joint is a hinge.
    """
    data = _pose(model)
    planes = np.flatnonzero(_is_static(model) & (model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE))
    found = [int(g) for g in planes if data.geom_xmat[g, 8] > LEAST_UP and can_carry(model, g)]

    def rank(geom: int) -> tuple[float, float]:
        return round(float(data.geom_xmat[geom, 8]), 6), float(data.geom_xpos[geom, 2])

    return max([g for g in found if collides(model, g)] or found, key=rank, default=-1)


def can_carry(model: mujoco.MjModel, geom: int) -> bool:
    """Tells if a geom does not move and collides with the robot, or if that is an arm."""
    is_arm = model.njnt == 0 or model.jnt_type[0] == mujoco.mjtJoint.mjJNT_HINGE
    return bool(_is_static(model)[geom]) and (is_arm or collides(model, geom))


def collides(model: mujoco.MjModel, geom: int) -> bool:
    """Tells if a geom can collide with one that moves, by its bits or a pair of the model."""
    others = ~_is_static(model)
    types, affinities = model.geom_contype, model.geom_conaffinity
    meets = (types[geom] & affinities) | (types & affinities[geom])
    pairs = np.column_stack([model.pair_geom1, model.pair_geom2])
    partners = pairs[(pairs == geom).any(axis=1)]
    return bool((meets[others] != 0).any() or others[partners].any())


def can_collide(model: mujoco.MjModel, geom: int) -> bool:
    """Tells if a geom has contacts at all, by its bits or a pair of the model."""
    is_paired = geom in model.pair_geom1 or geom in model.pair_geom2
    return bool(model.geom_contype[geom] | model.geom_conaffinity[geom]) or is_paired


def height_of(model: mujoco.MjModel, geom: int) -> float:
    """Returns the height of a plane that does not move, or of the top of another geom [m]."""
    data = _pose(model)
    if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_PLANE:
        return float(data.geom_xpos[geom, 2])
    return float(box_of(model, data, geom)[1, 2])


def slope_of(model: mujoco.MjModel, geom: int) -> float:
    """Returns the angle between the z axis of a geom that does not move and the vertical [rad]."""
    return float(np.arccos(np.clip(_pose(model).geom_xmat[geom, 8], -1.0, 1.0).round(9)))


def list_beside(model: mujoco.MjModel, ground: int, qpos: np.ndarray) -> list[str]:
    """Returns the names of other geoms, which do not move, that carry a robot at qpos (nq,)."""
    data = _pose(model, qpos)
    own = [box_of(model, data, int(geom)) for geom in np.flatnonzero(~_is_static(model))]
    if not own:
        return []
    low, high = np.min([box[0] for box in own], axis=0), np.max([box[1] for box in own], axis=0)
    least = height_of(model, ground) - SAME_HEIGHT
    found = []
    for geom in map(int, np.flatnonzero(_is_static(model))):
        if geom == ground or not collides(model, geom) or height_of(model, geom) < least:
            continue
        if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_PLANE:
            is_there = data.geom_xmat[geom, 8] > LEAST_UP
        else:
            start, end = box_of(model, data, geom)
            is_there = bool((start[:2] < high[:2]).all() and (end[:2] > low[:2]).all())
            is_there &= bool(start[2] < high[2])
        if is_there:
            found.append(model.geom(geom).name or f"geom {geom}")
    return found


def add_plane(spec: mujoco.MjSpec) -> mujoco.MjsGeom:
    """Adds a plane that meets every geom which can collide, whatever the model's defaults are."""
    robot = [geom for body in spec.bodies[1:] for geom in body.geoms]
    kind, affinity = 1, 1
    if any((g.contype or g.conaffinity) and not (g.contype | g.conaffinity) & 1 for g in robot):
        kind |= int(np.bitwise_or.reduce([geom.conaffinity for geom in robot]))
        affinity |= int(np.bitwise_or.reduce([geom.contype for geom in robot]))
    plane = spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[40, 40, 40])
    plane.contype, plane.conaffinity, plane.condim, plane.priority = kind, affinity, 3, 0
    plane.friction, plane.solmix = [1.0, 0.005, 0.0001], 1.0
    plane.solref, plane.solimp = [0.02, 1.0], [0.9, 0.95, 0.001, 0.5, 2.0]
    plane.margin = plane.gap = 0.0
    plane.pos, plane.quat, plane.fromto = [0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [np.nan] * 6
    plane.alt.type = mujoco.mjtOrientation.mjORIENTATION_QUAT
    plane.group, plane.rgba, plane.material = 0, [0.5, 0.5, 0.5, 1.0], ""
    plane.meshname = plane.hfieldname = ""
    return plane


def _pose(model: mujoco.MjModel, qpos: np.ndarray | None = None) -> mujoco.MjData:
    data = mujoco.MjData(model)
    if qpos is not None:
        data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    return data


def _is_static(model: mujoco.MjModel) -> np.ndarray:
    """Returns the mask (ngeom,) of the geoms that do not move."""
    return model.body_weldid[model.geom_bodyid] == 0


def box_of(model: mujoco.MjModel, data: mujoco.MjData, geom: int) -> np.ndarray:
    """Returns the lowest and the highest corner (2, 3) of the box around a geom [m, world]."""
    rotation = data.geom_xmat[geom].reshape(3, 3)
    centre = data.geom_xpos[geom] + rotation @ model.geom_aabb[geom, :3]
    half = np.abs(rotation) @ model.geom_aabb[geom, 3:]
    return np.array([centre - half, centre + half])
