"""When a robot is healthy: it has not fallen, and the simulation is sound; a trial of its home."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from metarl.core.errors import ConfigError
from metarl.envs.robots.compiling import collect_warnings
from metarl.envs.robots.robot import Robot, bare_model

MAX_SPEED = 1e4
"""Bound of qvel [m/s or rad/s] beyond which a simulation has diverged, as in the environment."""

FIRST_STEPS = 5
"""Control steps without an action within which no usable home pose falls."""

LONGEST_FALL = 0.3
"""Time within which a robot with feet must land: from 0.44 m; models tried need 0.18 [s]."""

FALLEN = 0.2
"""Drop after that time from which on a robot falls and does not hover [m]."""

STANDING = 2.0
"""Time for which the robot should stand without an action [s]."""


@dataclass(frozen=True)
class HeightBand:
    """Healthy while the torso's height is in a closed interval.

    Attributes:
        low: Smallest healthy height [m, above the ground].
        high: Largest healthy height [m, above the ground].
    """

    low: float
    high: float

    def __call__(self, height: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Tests the health, see HealthCheck."""
        return (height >= self.low) & (height <= self.high)


@dataclass(frozen=True)
class OpenBand:
    """Healthy while the torso's height is in an open interval.

    Attributes:
        low: Lower end [m, above the ground].
        high: Upper end [m, above the ground].
    """

    low: float
    high: float

    def __call__(self, height: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Tests the health, see HealthCheck."""
        return (height > self.low) & (height < self.high)


@dataclass(frozen=True)
class Standing:
    """Healthy while a free base is at a height in an open interval and not tilted too far.

    Attributes:
        low: Lower end [m, above the ground].
        high: Upper end [m, above the ground].
        tilt: Bound of the angle between the base's z axis and the vertical [rad].
    """

    low: float
    high: float
    tilt: float

    def __call__(self, height: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Tests the health, see HealthCheck."""
        x, y = qpos[:, 4], qpos[:, 5]
        level = 1.0 - 2.0 * (x * x + y * y) / np.square(qpos[:, 3:7]).sum(axis=1)
        return (height > self.low) & (height < self.high) & (level > np.cos(self.tilt))


@dataclass(frozen=True)
class Upright:
    """Healthy while a planar robot's torso is high and upright; all bounds are exclusive.

    Attributes:
        low: Lower bound of the torso's height [m, above the ground].
        high: Upper bound of the torso's height [m, above the ground].
        angle: Bound of the pitch to either side [rad].
        limit: Bound of the entries of qvel, and of qpos from the pitch on [units of qpos, qvel].
    """

    low: float
    high: float
    angle: float
    limit: float = np.inf

    def __call__(self, height: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Tests the health, see HealthCheck."""
        upright = (height > self.low) & (height < self.high) & (np.abs(qpos[:, 2]) < self.angle)
        if np.isinf(self.limit):
            return upright
        slow = (np.abs(qvel) < self.limit).all(axis=1)
        return upright & slow & (np.abs(qpos[:, 2:]) < self.limit).all(axis=1)


def start_at_home(robot: Robot, model: mujoco.MjModel, height: float = 0.0) -> mujoco.MjData:
    """Returns a simulation at rest in the home pose, lifted by a height [m], without an action."""
    data = mujoco.MjData(model)
    data.qpos[:] = robot.rest()
    if not robot.fixed:
        data.qpos[robot.height_index] += height
    data.ctrl[:] = robot.action_centre or 0.0
    return data


def make_step(robot: Robot, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
    """Makes one control step; returns whether the robot is healthy after it."""
    for _ in range(robot.frame_skip):
        mujoco.mj_step(model, data)
    return is_healthy(robot, data)


def is_healthy(robot: Robot, data: mujoco.MjData) -> bool:
    """Returns whether a robot on level ground is healthy."""
    if robot.healthy is None:
        return True
    height = data.qpos[robot.height_index][None]
    return bool(robot.healthy(height, data.qpos[None], data.qvel[None])[0])


def has_diverged(data: mujoco.MjData) -> bool:
    """Returns whether the simulation is of no use any more."""
    return not (np.abs(data.qvel) < MAX_SPEED).all() or not np.isfinite(data.qpos).all()


def refuse_fall(robot: Robot, subject: str) -> None:
    """Refuses a robot that falls at once; the subject begins the message.

    Raises:
        ConfigError: It does.
    """
    with collect_warnings():  # MuJoCo would print them, and write a file
        fall = find_fall(robot, bare_model(robot))
    if fall:
        hint = "put the robot upright on its ground, or change health"
        raise ConfigError(f"{subject}: in this pose the robot {fall}; {hint}")


def find_fall(robot: Robot, model: mujoco.MjModel) -> str:
    """Returns why no episode can begin in the home pose, "" where one can.

    The robot is unhealthy there, or without an action within FIRST_STEPS control steps, its centre
    of mass is below the ground, or it has feet and falls longer than LONGEST_FALL before it touches
    the ground. A robot that falls over later is usable: a policy can learn to balance it.
    """
    if robot.healthy is None:
        return ""
    data = start_at_home(robot, model)
    if not is_healthy(robot, data):
        return "is not healthy (see health)"
    if _is_buried(robot, model, data):
        return "has its centre of mass below the ground"
    steps, lands = 0, not robot.feet
    while steps < FIRST_STEPS or not lands:
        is_up, steps = make_step(robot, model, data), steps + 1
        lands = lands or _lands(model, data)
        if has_diverged(data):
            return f"makes the simulation diverge within {data.time:.2g} s"
        if not is_up:
            return f"falls within {data.time:.2g} s without an action"
        if not lands and data.time > LONGEST_FALL:
            drop = robot.rest()[robot.height_index] - data.qpos[robot.height_index]
            text = f"is too high: it falls {LONGEST_FALL:g} s without touching the ground"
            return text if drop > FALLEN else ""  # one without gravity stays where it is
    return ""


def _is_buried(robot: Robot, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
    """Returns whether the robot's centre of mass is below its ground, if that is a plane."""
    ground = model.geom(robot.ground).id
    mujoco.mj_fwdPosition(model, data)
    normal = data.geom_xmat[ground].reshape(3, 3)[:, 2]
    above = normal @ (data.subtree_com[robot.torso()] - data.geom_xpos[ground])
    return bool(model.geom_type[ground] == mujoco.mjtGeom.mjGEOM_PLANE and above < 0.0)


def _lands(model: mujoco.MjModel, data: mujoco.MjData) -> bool:
    """Returns whether something that moves touches something that does not."""
    is_static = model.body_weldid[model.geom_bodyid] == 0
    return bool(is_static[data.contact.geom].any())
