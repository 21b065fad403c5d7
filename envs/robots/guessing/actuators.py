"""Guesses how the policy's outputs become controls: centre, scale and range of every actuator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np

from metarl.core.errors import ConfigError
from metarl.envs.robots.own import COLUMNS

SERVO_SCALE = 0.4
"""Largest change of a servo's target for a policy output of one [rad or m]."""

ARM_SCALE = 1.0
"""That of a servo of an arm, which has further to go [rad or m]."""

SERVO_ERROR = 0.6
"""Distance from its target at which the servo made of a motor has its largest torque [rad]."""

SERVO_DAMPING = 0.025
"""Damping of such a servo, as a share of its stiffness [s]."""


def joints_of(model: mujoco.MjModel) -> list[int | None]:
    """Returns the joint that each actuator drives, or None for tendons and sites."""
    kinds = [int(mujoco.mjtTrn.mjTRN_JOINT), int(mujoco.mjtTrn.mjTRN_JOINTINPARENT)]
    return [
        int(joint) if kind in kinds else None
        for kind, joint in zip(model.actuator_trntype, model.actuator_trnid[:, 0], strict=True)
    ]


def guess_actuators(
    model: mujoco.MjModel, home: np.ndarray, path: Path, *, is_arm: bool = False
) -> tuple[dict[str, dict[str, float]], str]:
    """Returns centre, scale and range of every actuator, and how many are of which kind.

    Args:
        model: The model.
        home: Rest position (nq,).
        path: Of the model, for messages.
        is_arm: It has a fixed base.

    Raises:
        ConfigError: An actuator has no range.
    """
    kinds: dict[str, int] = {}
    table = {}
    joints = joints_of(model)
    lengths, is_one_sided = _lengths_of(model, home), False
    stand = _guess_servos(model, joints, is_arm=is_arm)
    holds = "arm holds its pose" if is_arm else "robot can stand"
    for i, joint in enumerate(joints):
        is_servo = model.actuator_biasprm[i, 1] < 0.0
        is_speed = not is_servo and model.actuator_biasprm[i, 2] < 0.0
        kind = "position servos" if is_servo else "speed servos" if is_speed else "motors"
        low, high = _control_range(model, i, joint, is_servo, path)
        stiffness = stand[i] if stand else 0.0
        if stiffness:
            low, high = model.jnt_range[joint] if model.jnt_limited[joint] else (-np.pi, np.pi)
            is_servo, kind = True, f"motors made servos, so that the {holds}"
        kinds[kind] = kinds.get(kind, 0) + 1
        is_own = is_servo and not stiffness
        aim, unit = _aim_of(model, i, lengths[i]) if is_own else (0.0, 1.0)
        if stiffness:
            aim = home[model.jnt_qposadr[joint]]
        centre = float(np.clip(aim, low, high))
        # from an end of its range, an output of one goes to the other
        scale = high - low if centre in (low, high) else 0.5 * (high - low)
        is_one_sided |= centre in (low, high)
        if is_servo and joint is not None:
            # the length of a servo of the model is the position times its gear
            gear = 1.0 if stiffness else model.actuator_gear[i, 0] * unit
            scale = min((ARM_SCALE if is_arm else SERVO_SCALE) * abs(gear), scale)
        row = (centre, scale, low, high, stiffness, SERVO_DAMPING * stiffness)
        values = [round(float(value), 6) for value in row]
        table[model.actuator(i).name] = dict(zip(COLUMNS, values, strict=True))
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    reason = f"{counts}; control = centre + scale x output, within low and high"
    if is_one_sided:
        reason += "; with its centre at one end of the range, output 1 or -1 is the other end"
    return table, reason


def _lengths_of(model: mujoco.MjModel, home: np.ndarray) -> np.ndarray:
    """Returns the lengths (A,) of the actuators at home: of a joint its position times the gear."""
    data = mujoco.MjData(model)
    data.qpos[:] = home
    mujoco.mj_fwdPosition(model, data)
    return data.actuator_length.copy()


def _aim_of(model: mujoco.MjModel, actuator: int, length: float) -> tuple[float, float]:
    """Returns the control with which a position servo aims at a length, and that per length."""
    gain = float(model.actuator_gainprm[actuator, 0])
    if gain == 0.0:
        return 0.0, 1.0
    constant, per_length = (float(value) for value in model.actuator_biasprm[actuator, :2])
    return (-per_length * length - constant) / gain, -per_length / gain


def _guess_servos(
    model: mujoco.MjModel, joints: Sequence[int | None], *, is_arm: bool
) -> list[float]:
    """Returns the stiffness of servos made of motors, if all are motors of a robot with a pose.

    An arm has one, and a robot with a free base and a keyframe.
    """
    has_pose = is_arm or (model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE and model.nkey > 0)
    is_motor = (model.actuator_biasprm == 0.0).all() and model.actuator_ctrllimited.all()
    if not has_pose or not is_motor or None in joints:
        return []
    hinges = [model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE for joint in joints]
    force = np.abs(model.actuator_ctrlrange).max(axis=1) * np.abs(model.actuator_gainprm[:, 0])
    torque = force * np.abs(model.actuator_gear[:, 0])
    if not all(hinges) or not (torque > 0.0).all():
        return []
    return [float(f"{value / SERVO_ERROR:.3g}") for value in torque]


def _control_range(
    model: mujoco.MjModel, actuator: int, joint: int | None, is_servo: bool, path: Path
) -> tuple[float, float]:
    """Returns the range of an actuator's control: its own, or of its joint or force."""
    if model.actuator_ctrllimited[actuator]:
        low, high = model.actuator_ctrlrange[actuator]
    elif is_servo and joint is not None and model.jnt_limited[joint]:
        low, high = sorted(model.jnt_range[joint] * model.actuator_gear[actuator, 0])
    elif not is_servo and model.actuator_forcelimited[actuator]:
        gain = model.actuator_gainprm[actuator, 0] or 1.0
        low, high = sorted(model.actuator_forcerange[actuator] / gain)
    else:
        name = model.actuator(actuator).name
        raise ConfigError(f"{path}: actuator {name} has no ctrlrange; add one to the model")
    return float(low), float(high)
