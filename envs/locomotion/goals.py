"""Goals: the reward for a motion, given the task.

A goal maps the motion of M robots and their M tasks to M rewards; bonus and costs are `RewardTerms` of their own, so
a goal is the same for every robot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from metarl.core.tasks import Choice, Disc, TaskDistribution, Uniform, Variable
from metarl.envs.rendering.marker import Marker


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
class RewardTerms:
    """The part of the reward that does not depend on the task, and the goal's weight.

    Attributes:
        bonus: Added at every step.
        control_cost: Weight of the sum of squares of the action sent.
        contact_cost: Weight of the sum of squares of the contact forces; 0 leaves them out.
        contact_clip: Each contact force is clipped to this size.
        contact_cap: Largest contact cost of a step.
        goal_weight: Factor of the goal's reward.
    """

    bonus: float = 0.0
    control_cost: float = 0.0
    contact_cost: float = 0.0
    contact_clip: float = 1.0
    contact_cap: float = np.inf
    goal_weight: float = 1.0

    def contact_costs(self, forces: np.ndarray) -> np.ndarray:
        """Maps contact forces (M, n) [N, N m] to costs (M,)."""
        if np.isfinite(self.contact_clip):
            forces = np.clip(forces, -self.contact_clip, self.contact_clip)
        return np.minimum(self.contact_cost * np.square(forces).sum(axis=1), self.contact_cap)

    def formula(self, goal: Goal) -> str:
        """The whole reward of a step in the notation of the README."""
        parts = [
            goal.formula if self.goal_weight == 1.0 else f"{self.goal_weight:g} {goal.formula}"
        ]
        if self.bonus:
            parts.append(f"+ {self.bonus:g}")
        if self.control_cost:
            parts.append(f"- {self.control_cost:g} sum a^2")
        if self.contact_cost:
            forces = "clip(cfrc)" if np.isfinite(self.contact_clip) else "cfrc"
            parts.append(f"- {self.contact_cost:g} sum {forces}^2")
        if np.isfinite(self.contact_cap):
            parts.append(f"(at most {self.contact_cap:g})")
        return " ".join(parts)

    def floors(self, goal: Goal, horizon: int) -> dict[str, float]:
        """Returns of episodes of `horizon` steps by policies that do not adapt, by name."""
        weight, bonus = self.goal_weight, self.bonus
        return {name: horizon * (weight * v + bonus) for name, v in goal.floors().items()}


@dataclass(frozen=True)
class Forward:
    """Speed along x: v_x. The tasks differ only in the world (`envs/locomotion/variations.py`)."""

    tasks: TaskDistribution = field(default_factory=lambda: Uniform((), held_out=False))
    formula: str = "v_x"

    def reward(self, tasks: np.ndarray, velocity: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Maps velocity (M, 2) [m/s, world] to v_x (M,) [m/s]."""
        return velocity[:, 0].copy()

    def floors(self) -> dict[str, float]:
        """Only standing still is known: what a fast robot reaches depends on the world."""
        return {"stand still": 0.0}

    def marker(self, task: np.ndarray) -> Marker:
        """An arrow along +x."""
        return Marker("arrow", (1.0, 0.0))


@dataclass(frozen=True)
class Direction:
    """Speed along a direction in the plane: d . v with d = (cos angle, sin angle).

    Attributes:
        tasks: Where angles come from.
        formula: See Goal.
        balanced: Whether the directions cancel, so that no constant motion earns anything.
    """

    tasks: TaskDistribution = field(
        default_factory=lambda: Uniform((Variable("angle", "rad", 0.0, 2.0 * np.pi),))
    )
    formula: str = "d.v"
    balanced: bool = True

    def reward(self, tasks: np.ndarray, velocity: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Maps tasks (M, 1) [rad], velocity (M, 2) [m/s, world] to d . v (M,) [m/s]."""
        return np.cos(tasks[:, 0]) * velocity[:, 0] + np.sin(tasks[:, 0]) * velocity[:, 1]

    def floors(self) -> dict[str, float]:
        """Both floors are zero where directions cancel; else the best without the task is as fast as it can."""
        still = {"stand still": 0.0}
        return still | {"best without the task": 0.0} if self.balanced else still

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
