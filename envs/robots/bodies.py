"""Bodies and masses of a robot, without those of other things in its model."""

from __future__ import annotations

import mujoco
import numpy as np

from metarl.envs.robots.arms.effector import find_effector
from metarl.envs.robots.ground import box_of
from metarl.envs.robots.robot import Robot, bare_model

LEAST_SHARE = 0.01
"""Share of the mass welded to a base below which the base is a mere frame, as in URDF."""

SAME_LEVEL = 0.1
"""Height above the lowest shape up to which a body is a foot, as a share of the robot's height."""


def carrier(robot: Robot) -> int:
    """Returns the body that carries a payload: the torso, or that of an arm's end effector."""
    effector = find_effector(bare_model(robot), robot.effector)
    return effector.body if effector else robot.torso()


def moving_bodies(robot: Robot) -> np.ndarray:
    """Returns the mask (nbody,) of the bodies that move with the torso or on an arm."""
    model = bare_model(robot)
    if robot.fixed:
        root = model.body_rootid[carrier(robot)]
        return (model.body_weldid > 0) & (model.body_rootid == root)
    return model.body_treeid == model.body_treeid[robot.torso()]


def torso_mass(robot: Robot) -> float:
    """Returns the mass of the torso [kg], with the bodies welded to it if it has hardly any."""
    model, torso = bare_model(robot), robot.torso()
    if heaviest_of_torso(robot) == torso:
        return float(model.body_mass[torso])
    return float(model.body_mass[model.body_weldid == model.body_weldid[torso]].sum())


def heaviest_of_torso(robot: Robot) -> int:
    """Returns the torso, or the heaviest body welded to one that has hardly any mass."""
    model, torso = bare_model(robot), robot.torso()
    welded = np.flatnonzero(model.body_weldid == model.body_weldid[torso])
    mass = model.body_mass[welded]
    is_frame = model.body_mass[torso] <= LEAST_SHARE * mass.sum()
    return int(welded[mass.argmax()]) if is_frame else torso


def moving_mass(robot: Robot) -> float:
    """Returns the mass of these bodies [kg]."""
    # with zeros, so that the sum of a robot alone has the bits of that of all bodies
    return float(np.where(moving_bodies(robot), bare_model(robot).body_mass, 0.0).sum())


def extent(robot: Robot) -> np.ndarray:
    """Returns the robot's length, width and height (3,) at rest [m], of its geoms' bounds."""
    model, is_own = bare_model(robot), moving_bodies(robot)
    data = mujoco.MjData(model)
    data.qpos[:] = robot.rest()
    mujoco.mj_kinematics(model, data)
    own = is_own[model.geom_bodyid]
    if not own.any():
        return np.ptp(data.xpos[is_own], axis=0)
    rotation = data.geom_xmat[own].reshape(-1, 3, 3)
    box = model.geom_aabb[own]
    centre = data.geom_xpos[own] + np.einsum("gij,gj->gi", rotation, box[:, :3])
    half = np.einsum("gij,gj->gi", np.abs(rotation), box[:, 3:])
    return (centre + half).max(axis=0) - (centre - half).min(axis=0)


def hip_height(robot: Robot) -> float:
    """Returns the height of the highest joint at which a leg begins, at rest [m, world].

    Legs are the branches of the body from which all feet hang; of a robot with one leg, it is the
    height of the base.
    """
    model, is_own = bare_model(robot), moving_bodies(robot)
    data = mujoco.MjData(model)
    data.qpos[:] = robot.rest()
    mujoco.mj_kinematics(model, data)
    base = float(data.qpos[robot.height_index])
    collides = (model.geom_contype | model.geom_conaffinity) != 0
    geoms = np.flatnonzero(collides & is_own[model.geom_bodyid])
    low = np.array([box_of(model, data, int(geom))[0, 2] for geom in geoms])
    if not len(low):
        return base
    level = low.min() + SAME_LEVEL * (base - low.min())
    paths = [_path_to(model, int(body)) for body in set(model.geom_bodyid[geoms[low <= level]])]
    common = set.intersection(*map(set, paths))
    legs = {body for path in paths for body in path} - common
    is_hip = np.isin(model.jnt_bodyid, [b for b in legs if model.body_parentid[b] in common])
    return float(data.xanchor[is_hip, 2].max()) if is_hip.any() else base


def _path_to(model: mujoco.MjModel, body: int) -> list[int]:
    """Returns a body and those that carry it."""
    path = [body]
    while path[-1]:
        path.append(int(model.body_parentid[path[-1]]))
    return path
