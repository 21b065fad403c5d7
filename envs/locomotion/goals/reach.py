"""The goal of an arm: bring its end effector to a hidden place."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import mujoco
import numpy as np

from metarl.core.errors import ConfigError
from metarl.core.tasks import TaskDistribution, Variable
from metarl.envs.rendering.marker import Marker
from metarl.envs.robots.arms.couplings import Coupling, find_couplings
from metarl.envs.robots.arms.effector import Effector, find_effector
from metarl.envs.robots.arms.leaders import find_leaders
from metarl.envs.robots.ground import height_of
from metarl.envs.robots.robot import Robot, bare_model

_SAMPLES = 1000
"""Targets from which the bounds of the tasks and the reference rewards are computed."""

_CANDIDATES = 200
"""Targets of them that are compared as the place to hold without the task."""

_MOST_POSES = 200
"""Random poses for a target, beyond which a model is refused."""

_GAP = 1e-3
"""Error of an equality constraint from which a pose is impossible [m or rad]."""

_DEPTH = 0.01
"""Penetration of shapes from which a pose is impossible [m]."""


@dataclass(frozen=True)
class Reach:
    """Closeness of the end effector to a point in space: -|x - g|.

    Attributes:
        robot: An arm.
    """

    robot: Robot
    formula: str = "-|x - g|"
    least_bonus: ClassVar[float] = 0.0  # an arm does not fall

    @property
    def revisions(self) -> int:
        """Changes of the goal for the robot: joints that follow others once had own angles."""
        model = bare_model(self.robot)
        followers = {each.follower for each in find_couplings(model)}
        return int(not followers.isdisjoint(_effector(self.robot).joints(model)))

    @property
    def tasks(self) -> TaskDistribution:
        """Points that the end effector can reach [m, world]."""
        return Reachable(self.robot)

    def reward(self, tasks: np.ndarray, velocity: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Maps tasks (M, 3) [m], position (M, 3) of end effectors [m] to -distance (M,) [m]."""
        return -np.linalg.norm(position - tasks, axis=1)

    def floors(self) -> dict[str, float]:
        """Returns those of holding the home pose, and the reachable place nearest to all targets.

        They are means over targets; the way to the place is not counted.
        """
        return dict(_floors(self.robot))

    def marker(self, task: np.ndarray) -> Marker:
        """Returns a ball at the point."""
        return Marker("point", (float(task[0]), float(task[1]), float(task[2])))


@dataclass(frozen=True)
class Reachable:
    """Places of an arm's end effector in random poses.

    The angles of the joints that move it are uniform in their ranges, the other joints are at home;
    those that an equality constraint couples to others follow them. Poses that the ranges of these
    or another constraint exclude, in which shapes penetrate by more than 1 cm, or with the end
    effector below the ground, are drawn again; so are places outside the bounds of the variables.

    Attributes:
        robot: The arm.
    """

    robot: Robot
    held_out: bool = True

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The coordinates of the point [m, world]."""
        low, high = _bounds(self.robot)
        ends = zip("xyz", low, high, strict=True)
        return tuple(Variable(f"target_{axis}", "m", *each) for axis, *each in ends)

    @property
    def test(self) -> TaskDistribution:
        """The distribution itself: new draws."""
        return self

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws points (num_tasks, 3) [m, world].

        Raises:
            ConfigError: Hardly any pose of the arm is possible.
        """
        low, high = np.array(_bounds(self.robot))
        return _draw(self.robot, rng, num_tasks, low, high)


def _draw(
    robot: Robot,
    rng: np.random.Generator,
    count: int,
    low: np.ndarray | float = -np.inf,
    high: np.ndarray | float = np.inf,
) -> np.ndarray:
    """Draws points (count, 3) between low and high [m]."""
    model, effector = bare_model(robot), _effector(robot)
    couplings = find_couplings(model)
    data, joints = mujoco.MjData(model), find_leaders(model, effector, couplings)
    data.qpos[:] = robot.rest()
    places, ranges = model.jnt_qposadr[joints], joint_ranges(model)[joints]
    ground = height_of(model, model.geom(robot.ground).id)
    points: list[np.ndarray] = []
    for _ in range(_MOST_POSES * count):
        if len(points) == count:
            break
        data.qpos[places] = rng.uniform(*ranges.T)
        for each in couplings:
            each.apply(model, data.qpos)
        mujoco.mj_fwdPosition(model, data)
        point = effector.position(data)
        is_deep = data.contact.dist.min(initial=0.0) < -_DEPTH
        is_inside = bool(((low <= point) & (point <= high)).all())
        if (
            is_inside
            and not is_deep
            and _is_possible(model, data, couplings)
            and point[2] >= ground
        ):
            points.append(point)
    if len(points) < count:
        hint = "in nearly all random poses its shapes collide; try contacts: none"
        if model.neq:
            hint = "nearly all random poses break its equality constraints, or its shapes collide"
        raise ConfigError(f"reach: {robot.name}: {hint}")
    return np.array(points).reshape(count, 3)


def _is_possible(model: mujoco.MjModel, data: mujoco.MjData, couplings: Sequence[Coupling]) -> bool:
    """Returns whether a pose keeps all equality constraints, and the followers in their ranges."""
    followers = [each.follower for each in couplings]
    position = data.qpos[model.jnt_qposadr[followers]]
    low, high = model.jnt_range[followers].T
    is_free = ~model.jnt_limited[followers].astype(bool)
    is_equality = data.efc_type == int(mujoco.mjtConstraint.mjCNSTR_EQUALITY)
    gap = np.abs(data.efc_pos[is_equality]).max(initial=0.0)
    return bool((is_free | ((low <= position) & (position <= high))).all() and gap < _GAP)


def _effector(robot: Robot) -> Effector:
    effector = find_effector(bare_model(robot), robot.effector)
    if effector is None:
        raise ConfigError(f"reach: {robot.name} has no end effector; arms have one (base: fixed)")
    return effector


def joint_ranges(model: mujoco.MjModel) -> np.ndarray:
    """Returns smallest and largest position (njnt, 2) [rad or m]; half a turn without limits."""
    is_limited = model.jnt_limited.astype(bool)[:, None]
    return np.where(is_limited, model.jnt_range, (-np.pi, np.pi))


@functools.cache
def _points(robot: Robot) -> np.ndarray:
    """Returns places (n, 3) [m] of one fixed stream."""
    return _draw(robot, np.random.default_rng(0), _SAMPLES)


def _bounds(robot: Robot) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the smallest and the largest coordinates of the points, to the next cm."""
    points = _points(robot)
    low = np.floor(100.0 * points.min(axis=0))
    high = np.maximum(np.ceil(100.0 * points.max(axis=0)), low + 1.0)  # an arm may be flat
    return tuple((low / 100.0).tolist()), tuple((high / 100.0).tolist())


@functools.cache
def _floors(robot: Robot) -> tuple[tuple[str, float], ...]:
    model, points = bare_model(robot), _points(robot)
    data = mujoco.MjData(model)
    data.qpos[:] = robot.rest()
    mujoco.mj_kinematics(model, data)
    still = np.linalg.norm(points - _effector(robot).position(data), axis=1).mean()
    candidates = points[:_CANDIDATES, None]
    best = np.linalg.norm(candidates - points, axis=2).mean(axis=1).min()
    return ("stand still", -float(still)), ("best without the task", -float(best))
