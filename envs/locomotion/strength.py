"""Strength of actuators: what the physics makes of a control, in proportion to a factor."""

from __future__ import annotations

import functools

import mujoco
import numpy as np

from metarl.envs.locomotion.world import COMPENSATION, World
from metarl.envs.robots.moments import find_compensated, find_moments
from metarl.envs.robots.robot import Robot, bare_model

STRENGTH_FIELDS = (
    *("actuator_gear", "actuator_gainprm", "actuator_biasprm", "actuator_forcerange"),
    *("jnt_actfrcrange", "tendon_actfrcrange", COMPENSATION),
)
"""Model fields that `scale_strength` writes."""


def scale_strength(world: World, factors: np.ndarray) -> None:
    """Multiplies the force of every actuator, its limits and compensation, by factors (M, A).

    Of a motor, whose force does not depend on the motion, that is the gear, unless something else
    depends on the gear, too. Of others, whose gear would change the place or speed at which they
    aim, it is gain, bias and limit.
    """
    has_free_gear = _find_motors(world.model) & ~_find_used_gears(world.model)
    scale = factors[..., None]
    world.fields["actuator_gear"][:, has_free_gear] *= scale[:, has_free_gear]
    for name in ("actuator_gainprm", "actuator_biasprm", "actuator_forcerange"):
        world.fields[name][:, ~has_free_gear] *= scale[:, ~has_free_gear]
    for name, target, actuators in _find_limits(world.robot):
        # the limit is of their sum: it loses as much as they lose on average
        factor = factors[:, actuators].mean(axis=1)
        world.fields[name][:, target] *= factor[:, None]
    for place, actuators in enumerate(find_compensated(world.robot).values()):
        world.fields[COMPENSATION][:, place] *= factors[:, actuators].mean(axis=1)


def count_revisions(robot: Robot) -> int:
    """Returns the changes of what strength means for a robot.

    Once joint limits kept theirs; a weaker motor had less damping and armature, and sensors of its
    place and speed showed less; and weak actuators compensated gravity in full.
    """
    model = bare_model(robot)
    is_moving = model.actuator_gaintype != mujoco.mjtGain.mjGAIN_FIXED
    was_motor = is_moving & (model.actuator_biasprm == 0.0).all(axis=1)
    has_used_gear = (_find_motors(model) & _find_used_gears(model)).any()
    changes = was_motor.any() or _find_limits(robot), has_used_gear, find_compensated(robot)
    return sum(map(bool, changes))


def _find_motors(model: mujoco.MjModel) -> np.ndarray:
    """Returns the mask (A,) of actuators whose force is their control times a constant."""
    is_fixed = model.actuator_gaintype == mujoco.mjtGain.mjGAIN_FIXED
    return is_fixed & (model.actuator_biasprm == 0.0).all(axis=1)


def _find_used_gears(model: mujoco.MjModel) -> np.ndarray:
    """Returns the mask (A,) of actuators on whose gear more depends than the torque.

    It is the damping and armature of the actuator at its joint, and what its sensors show.
    """
    own = (model.actuator_armature, model.actuator_damping, model.actuator_dampingpoly)
    is_used = np.any([values.reshape(model.nu, -1).any(axis=1) for values in own], axis=0)
    of_actuator = model.sensor_objtype == mujoco.mjtObj.mjOBJ_ACTUATOR
    is_used[model.sensor_objid[of_actuator]] = True
    return is_used


@functools.cache
def _find_limits(robot: Robot) -> tuple[tuple[str, int, list[int]], ...]:
    """Returns the limits of the sum of several actuators: field, row, and the actuators."""
    model = bare_model(robot)
    is_tendon = model.actuator_trntype == mujoco.mjtTrn.mjTRN_TENDON
    tendons = np.where(is_tendon, model.actuator_trnid[:, 0], -1)
    moves = find_moments(model, robot.rest())[:, model.jnt_dofadr] != 0.0
    joints = [
        ("jnt_actfrcrange", int(joint), np.flatnonzero(moves[:, joint]).tolist())
        for joint in np.flatnonzero(model.jnt_actfrclimited)
    ]
    pulled = [
        ("tendon_actfrcrange", int(tendon), np.flatnonzero(tendons == tendon).tolist())
        for tendon in np.flatnonzero(model.tendon_actfrclimited)
    ]
    return tuple(limit for limit in (*joints, *pulled) if limit[2])
