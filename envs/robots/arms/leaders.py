"""Joints that lead an arm's motion, and what drives it."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np

from metarl.envs.robots.arms.couplings import Coupling, find_couplings
from metarl.envs.robots.arms.effector import Effector
from metarl.envs.robots.moments import find_moments


def find_leaders(
    model: mujoco.MjModel, effector: Effector, couplings: Sequence[Coupling]
) -> list[int]:
    """Returns the joints that determine where the effector is: on its way, or leading them."""
    leader_of = {each.follower: each.leader for each in couplings}
    leaders = []
    for joint in effector.joints(model):
        while joint in leader_of:
            joint = leader_of[joint]
        if joint >= 0 and joint not in leaders:
            leaders.append(joint)
    return leaders


def is_underactuated(model: mujoco.MjModel, qpos: np.ndarray, effector: Effector) -> bool:
    """Returns whether an effector can move in a pose (nq,) against all actuators at once.

    That is the case where fewer actuators than independent joints move it.
    """
    couplings = find_couplings(model)
    motion = np.eye(model.nv)
    for each in couplings:
        follower = model.jnt_dofadr[each.follower]
        motion[follower] = 0.0
        if each.leader >= 0:
            leader = model.jnt_dofadr[each.leader]
            motion[follower] = each.speed_ratio(model, qpos) * motion[leader]
    leaders = model.jnt_dofadr[find_leaders(model, effector, couplings)]
    effects = find_moments(model, qpos) @ motion[:, leaders]
    return np.linalg.matrix_rank(effects) < len(leaders)
