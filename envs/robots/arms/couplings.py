"""Joints that follow others: equality constraints of joints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np


@dataclass(frozen=True)
class Coupling:
    """A joint whose position is a polynomial of another's, both relative to the model's pose.

    Attributes:
        follower: The joint.
        leader: The other, or -1: the follower is held at a place.
        polynomial: Its coefficients, the constant first.
    """

    follower: int
    leader: int
    polynomial: tuple[float, ...]

    def apply(self, model: mujoco.MjModel, qpos: np.ndarray) -> None:
        """Sets the follower in a pose (nq,)."""
        place = model.jnt_qposadr[self.follower]
        value = np.polynomial.Polynomial(self.polynomial)(self._offset(model, qpos))
        qpos[place] = model.qpos0[place] + value

    def speed_ratio(self, model: mujoco.MjModel, qpos: np.ndarray) -> float:
        """Returns the speed of the follower for a speed of one of the leader."""
        return float(np.polynomial.Polynomial(self.polynomial).deriv()(self._offset(model, qpos)))

    def _offset(self, model: mujoco.MjModel, qpos: np.ndarray) -> float:
        if self.leader < 0:
            return 0.0
        place = model.jnt_qposadr[self.leader]
        return float(qpos[place] - model.qpos0[place])


def find_couplings(model: mujoco.MjModel) -> list[Coupling]:
    """Returns the active equality constraints of joints, leaders before their followers."""
    waiting: dict[int, Coupling] = {}
    for i in range(model.neq):
        if model.eq_type[i] == int(mujoco.mjtEq.mjEQ_JOINT) and model.eq_active0[i]:
            follower, leader = int(model.eq_obj1id[i]), int(model.eq_obj2id[i])
            polynomial = tuple(model.eq_data[i, :5].tolist())
            waiting.setdefault(follower, Coupling(follower, leader, polynomial))
    ordered: list[Coupling] = []
    while ready := [each for each in waiting.values() if each.leader not in waiting]:
        ordered += ready
        for each in ready:
            del waiting[each.follower]
    return ordered  # joints that follow each other in a circle are in none


def couple_state(
    model: mujoco.MjModel, couplings: Sequence[Coupling], qpos: np.ndarray, qvel: np.ndarray
) -> None:
    """Sets the followers' positions (nq,) and speeds (nv,) to those that their leaders give."""
    for each in couplings:
        each.apply(model, qpos)
        ratio = each.speed_ratio(model, qpos)
        leader = qvel[model.jnt_dofadr[each.leader]] if each.leader >= 0 else 0.0
        qvel[model.jnt_dofadr[each.follower]] = ratio * leader
