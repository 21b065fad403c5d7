"""Goals: the reward of a motion, given the task.

A goal maps the motion of M robots and their M tasks to M rewards. Bonus and costs are separate
(`RewardTerms`), so that a goal is the same for every robot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np

from metarl.core.tasks import Choice, Disc, TaskDistribution, Uniform, Variable
from metarl.envs.rendering.marker import Marker

MARGIN = 0.5
"""Reward of a step [m or m/s] that a robot at rest keeps in the worst task, for its jitter."""


class Objective(Protocol):
    """The purpose of a robot: the tasks, and the reward as text."""

    @property
    def tasks(self) -> TaskDistribution:
        """Distribution of the tasks."""

    @property
    def formula(self) -> str:
        """The reward as text: v velocity [m/s], d direction, s sign, g goal."""

    def floors(self) -> dict[str, float]:
        """Returns the reference rewards per step, without bonus and costs, by name of the policy.

        They are means over the tasks, of policies that do not adapt.
        """

    @property
    def least_bonus(self) -> float:
        """Bonus with which a robot at rest earns something in every step of every task.

        With less, to fall pays, because it ends the costs of the goal.
        """

    def marker(self, task: np.ndarray) -> Marker:
        """Returns the marker that pictures show for a task (D,)."""


class Goal(Objective, Protocol):
    """A reward of the motion in the plane, or of an end effector's in space (`Reach`)."""

    def reward(self, tasks: np.ndarray, velocity: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Maps tasks (M, D), velocity (M, 2) [m/s, world], position (M, 2) [m, world] to (M,).

        Of an end effector, velocity and position are (M, 3).
        """


@dataclass(frozen=True)
class RewardTerms:
    """The part of the reward that does not depend on the task, and the goal's weight.

    Attributes:
        bonus: Reward of every step after which the robot is healthy, as in Gymnasium's v5.
        control_cost: Weight of the sum of squares of the action, after scaling and clipping, in
            units of Robot.action_scale.
        contact_cost: Weight of the sum of squares of the contact forces; 0 leaves them out.
        contact_clip: Bound of the absolute value of each contact force [N, N m].
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

    def add(
        self,
        parts: Mapping[str, np.ndarray],
        effort: np.ndarray,
        healthy: np.ndarray,
        forces: np.ndarray | None,
    ) -> dict[str, np.ndarray]:
        """Returns the parts of the reward (M,): those of the goal with its weight, bonus and costs.

        Args:
            parts: Of the goal, each (M,).
            effort: Sum of squares of the action (M,), see control_cost.
            healthy: Mask (M,) of robots that have not fallen.
            forces: Contact forces (M, ...) [N, N m]; None without a contact cost.
        """
        parts = {name: self.goal_weight * values for name, values in parts.items()}
        parts["healthy"] = self.bonus * healthy
        parts["control"] = -self.control_cost * effort
        if forces is not None:
            parts["contact"] = -self.contact_costs(forces.reshape(len(effort), -1))
        return parts

    def formula(self, goal: Objective) -> str:
        """Returns the whole reward of a step as text: a action, cfrc contact forces.

        healthy is 1 if the robot is healthy after the step, else 0.
        """
        parts = [
            goal.formula if self.goal_weight == 1.0 else f"{self.goal_weight:g} {goal.formula}"
        ]
        if self.bonus:
            parts.append(f"+ {self.bonus:g} healthy")
        if self.control_cost:
            parts.append(f"- {self.control_cost:g} sum a^2")
        if self.contact_cost:
            forces = "clip(cfrc)" if np.isfinite(self.contact_clip) else "cfrc"
            parts.append(f"- {self.contact_cost:g} sum {forces}^2")
        if np.isfinite(self.contact_cap):
            parts.append(f"(at most {self.contact_cap:g})")
        return " ".join(parts)

    def floors(self, goal: Objective, horizon: int) -> dict[str, float]:
        """Computes the reference returns of `horizon` healthy steps, by name of the policy.

        A policy that falls, as the action zero of the Humanoid does, earns less.
        """
        weight, bonus = self.goal_weight, self.bonus
        return {name: horizon * (weight * v + bonus) for name, v in goal.floors().items()}


@dataclass(frozen=True)
class Forward:
    """Speed along x: v_x. Tasks differ only in the variations of the world."""

    tasks: TaskDistribution = field(default_factory=lambda: Uniform((), held_out=False))
    formula: str = "v_x"
    least_bonus: ClassVar[float] = 0.0

    def reward(self, tasks: np.ndarray, velocity: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Maps velocity (M, 2) [m/s, world] to v_x (M,) [m/s]."""
        return velocity[:, 0].copy()

    def floors(self) -> dict[str, float]:
        """Returns that of standing still; other policies' returns depend on the world."""
        return {"stand still": 0.0}

    def marker(self, task: np.ndarray) -> Marker:
        """Returns an arrow along +x."""
        return Marker("arrow", (1.0, 0.0))


@dataclass(frozen=True)
class Direction:
    """Speed along a direction in the plane: d . v with d = (cos angle, sin angle).

    Attributes:
        tasks: Distribution of the angle.
        formula: See Goal.
        balanced: The mean direction is zero, and so the mean reward of any constant motion.
    """

    tasks: TaskDistribution = field(
        default_factory=lambda: Uniform((Variable("angle", "rad", 0.0, 2.0 * np.pi),))
    )
    formula: str = "d.v"
    least_bonus: ClassVar[float] = 0.0
    balanced: bool = True

    def reward(self, tasks: np.ndarray, velocity: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Maps tasks (M, 1) [rad], velocity (M, 2) [m/s, world] to d . v (M,) [m/s]."""
        return np.cos(tasks[:, 0]) * velocity[:, 0] + np.sin(tasks[:, 0]) * velocity[:, 1]

    def floors(self) -> dict[str, float]:
        """Returns zero for both policies if balanced; else the best one depends on the robot."""
        still = {"stand still": 0.0}
        return still | {"best without the task": 0.0} if self.balanced else still

    def marker(self, task: np.ndarray) -> Marker:
        """Returns an arrow along the direction."""
        return Marker("arrow", (float(np.cos(task[0])), float(np.sin(task[0]))))


@dataclass(frozen=True)
class ForwardBackward:
    """Speed along x with the task's sign: s v_x."""

    tasks: TaskDistribution = field(
        default_factory=lambda: Choice(Variable("sign", "1", -1.0, 1.0), (-1.0, 1.0))
    )
    formula: str = "s v_x"
    least_bonus: ClassVar[float] = 0.0

    def reward(self, tasks: np.ndarray, velocity: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Maps tasks (M, 1), velocity (M, 2) [m/s, world] to s v_x (M,) [m/s]."""
        return tasks[:, 0] * velocity[:, 0]

    def floors(self) -> dict[str, float]:
        """Returns zero for both policies, because the signs cancel."""
        return {"stand still": 0.0, "best without the task": 0.0}

    def marker(self, task: np.ndarray) -> Marker:
        """Returns an arrow along +x or -x."""
        return Marker("arrow", (float(task[0]), 0.0))


@dataclass(frozen=True)
class Velocity:
    """Closeness to a forward speed: -|v_x - g|.

    Attributes:
        high: Largest speed of a task [m/s]; tasks are uniform in [0, high].
    """

    high: float = 3.0
    formula: str = "-|v_x - g|"

    @property
    def tasks(self) -> TaskDistribution:
        """Speeds, uniform in `[0, high]` [m/s]."""
        return Uniform((Variable("speed", "m/s", 0.0, self.high),))

    @property
    def least_bonus(self) -> float:
        """The largest speed, and MARGIN."""
        return self.high + MARGIN

    def reward(self, tasks: np.ndarray, velocity: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Maps tasks (M, 1) [m/s], velocity (M, 2) [m/s, world] to -|v_x - g| (M,) [m/s]."""
        return -np.abs(velocity[:, 0] - tasks[:, 0])

    def floors(self) -> dict[str, float]:
        """Returns the mean errors: high / 2 at rest, high / 4 at the constant speed high / 2."""
        return {"stand still": -self.high / 2, "best without the task": -self.high / 4}

    def marker(self, task: np.ndarray) -> Marker:
        """Returns an arrow along x with the length of the speed."""
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

    @property
    def least_bonus(self) -> float:
        """The largest distance and MARGIN, rounded up to a whole number."""
        return float(np.ceil(np.sqrt(2.0) * self.radius + MARGIN))

    def reward(self, tasks: np.ndarray, velocity: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Maps tasks (M, 2) [m], position (M, 2) [m, world] to the negative L1 distance (M,)."""
        return -np.abs(position - tasks).sum(axis=1)

    def floors(self) -> dict[str, float]:
        """Returns -(E|gx| + E|gy|) = -8 r / (3 pi), as the origin is the best constant position."""
        floor = -8.0 * self.radius / (3.0 * np.pi)
        return {"stand still": floor, "best without the task": floor}

    def marker(self, task: np.ndarray) -> Marker:
        """Returns a target at the point."""
        return Marker("target", (float(task[0]), float(task[1])))
