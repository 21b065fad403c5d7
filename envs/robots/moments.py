"""Torques of actuators on the joints."""

from __future__ import annotations

import mujoco
import numpy as np


def find_moments(model: mujoco.MjModel, qpos: np.ndarray) -> np.ndarray:
    """Returns the torques (A, nv) on the joints of unit forces of the actuators in a pose (nq,)."""
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_fwdPosition(model, data)
    moments = np.zeros((model.nu, model.nv))
    sparse = data.moment_rownnz, data.moment_rowadr, data.moment_colind
    mujoco.mju_sparse2dense(moments, data.actuator_moment, *sparse)
    return moments
