"""Torques of actuators on the joints, and which of these compensate gravity."""

from __future__ import annotations

import functools

import mujoco
import numpy as np

from metarl.envs.robots.robot import Robot, bare_model


def find_moments(model: mujoco.MjModel, qpos: np.ndarray) -> np.ndarray:
    """Returns the torques (A, nv) on the joints of unit forces of the actuators in a pose (nq,)."""
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_fwdPosition(model, data)
    moments = np.zeros((model.nu, model.nv))
    sparse = data.moment_rownnz, data.moment_rowadr, data.moment_colind
    mujoco.mju_sparse2dense(moments, data.actuator_moment, *sparse)
    return moments


@functools.cache
def find_compensated(robot: Robot) -> dict[int, list[int]]:
    """Returns the joints whose actuators compensate gravity, with the actuators that move each."""
    model = bare_model(robot)
    if not model.jnt_actgravcomp.any() or not model.body_gravcomp.any():
        return {}
    moves = find_moments(model, robot.rest())[:, model.jnt_dofadr] != 0.0
    joints = np.flatnonzero(model.jnt_actgravcomp & moves.any(axis=0))
    return {int(joint): np.flatnonzero(moves[:, joint]).tolist() for joint in joints}
