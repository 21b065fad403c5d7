"""Goals: the reward for a motion, given the task.

A goal maps the motion of M robots and their M tasks to M rewards; bonus and costs belong to the environment
(`envs/base.py`), so a goal is the same for every robot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from envs.tasks import Choice, Disc, TaskDistribution, Uniform, Variable


@dataclass(frozen=True)
class Marker:
    """What a video draws to show the goal.

    Attributes:
        kind: "arrow" in the direction of `vector` from the robot, or "target" at the point `vector`.
        vector: (2,) [m, world] for a target; (2,) of any length for an arrow, longer for a faster goal.
    """

    kind: Literal["arrow", "target"]
    vector: tuple[float, float]


class Goal(Protocol):
    """A reward that depends on the task."""

    @property
    def tasks(self) -> TaskDistribution:
        """Where tasks come from."""

    @property
    def formula(self) -> str:
        """The reward in the notation of the README."""

    def reward(self, tasks: np.ndarray, velocity: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Maps tasks (M, D), velocity (M, 2) [m/s, world], position (M, 2) [m, world] to rewards (M,)."""

    def floors(self) -> dict[str, float]:
        """Mean reward per step over the tasks, without bonus and costs, of policies that do not adapt."""

    def marker(self, task: np.ndarray) -> Marker:
        """What a video draws for a task (D,)."""


@dataclass(frozen=True)
class Direction:
    """Speed along a direction in the plane: d . v with d = (cos angle, sin angle)."""

    tasks: TaskDistribution = field(
        default_factory=lambda: Uniform((Variable("angle", "rad", 0.0, 2.0 * np.pi),))
    )
    formula: str = "d.v"

    def reward(self, tasks: np.ndarray, velocity: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Maps tasks (M, 1) [rad], velocity (M, 2) [m/s, world] to d . v (M,) [m/s]."""
        return np.cos(tasks[:, 0]) * velocity[:, 0] + np.sin(tasks[:, 0]) * velocity[:, 1]

    def floors(self) -> dict[str, float]:
        """Both floors are zero: directions cancel."""
        return {"stand still": 0.0, "best without the task": 0.0}

    def marker(self, task: np.ndarray) -> Marker:
        """An arrow along the direction."""
        return Marker("arrow", (float(np.cos(task[0])), float(np.sin(task[0]))))


@dataclass(frozen=True)
class ForwardBackward:
    """Speed along x with the task's sign: s v_x."""

    tasks: TaskDistribution = field(
        default_factory=lambda: Choice(Variable("sign", "1", -1.0, 1.0), (-1.0, 1.0))
    )
    formula: str = "s v_x"

    def reward(self, tasks: np.ndarray, velocity: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Maps tasks (M, 1), velocity (M, 2) [m/s, world] to s v_x (M,) [m/s]."""
        return tasks[:, 0] * velocity[:, 0]

    def floors(self) -> dict[str, float]:
        """Both floors are zero: the signs cancel."""
        return {"stand still": 0.0, "best without the task": 0.0}

    def marker(self, task: np.ndarray) -> Marker:
        """An arrow along +x or -x."""
        return Marker("arrow", (float(task[0]), 0.0))


@dataclass(frozen=True)
class Velocity:
    """Closeness to a forward speed: -|v_x - g|.

    Attributes:
        high: Largest speed asked for [m/s]; tasks are uniform between 0 and it.
    """

    high: float = 3.0
    formula: str = "-|v_x - g|"

    @property
    def tasks(self) -> TaskDistribution:
        """Speeds, uniform between 0 and `high` [m/s]."""
        return Uniform((Variable("speed", "m/s", 0.0, self.high),))

    def reward(self, tasks: np.ndarray, velocity: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Maps tasks (M, 1) [m/s], velocity (M, 2) [m/s, world] to -|v_x - g| (M,) [m/s]."""
        return -np.abs(velocity[:, 0] - tasks[:, 0])

    def floors(self) -> dict[str, float]:
        """Standing still misses by high / 2 on average, the constant speed high / 2 by high / 4."""
        return {"stand still": -self.high / 2, "best without the task": -self.high / 4}

    def marker(self, task: np.ndarray) -> Marker:
        """An arrow along x, as long as the speed."""
        return Marker("arrow", (float(task[0]), 0.0))


@dataclass(frozen=True)
class Position:
    """Closeness to a point in the plane: -(|x - gx| + |y - gy|).

    Attributes:
        radius: Goals are uniform, by area, in a disc of this radius [m].
    """

    radius: float = 3.0
    formula: str = "-(|x - gx| + |y - gy|)"

    @property
    def tasks(self) -> TaskDistribution:
        """Points in the disc [m]."""
        return Disc(self.radius)

    def reward(self, tasks: np.ndarray, velocity: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Maps tasks (M, 2) [m], position (M, 2) [m, world] to the negative L1 distance (M,) [m]."""
        return -np.abs(position - tasks).sum(axis=1)

    def floors(self) -> dict[str, float]:
        """E|gx| + E|gy| in a disc of radius r is 8 r / (3 pi); the origin is also the best constant place."""
        floor = -8.0 * self.radius / (3.0 * np.pi)
        return {"stand still": floor, "best without the task": floor}

    def marker(self, task: np.ndarray) -> Marker:
        """A target at the point."""
        return Marker("target", (float(task[0]), float(task[1])))
