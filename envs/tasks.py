"""Task distributions: named, bounded numbers with units, and fixed train and test sets by seed.

A *task* is a row of D numbers (D of the alphabet in `metarl/types.py`). A distribution draws rows and says what each
number means; it knows nothing of rewards or physics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Variable:
    """One number of a task.

    Attributes:
        name: Identifier, for example "angle".
        unit: SI unit or "1" for a pure number.
        low: Smallest value a task can have [unit].
        high: Largest value a task can have [unit].
    """

    name: str
    unit: str
    low: float
    high: float


class TaskDistribution(Protocol):
    """What a task consists of and how tasks are drawn."""

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The D numbers of a task, in order."""

    @property
    def held_out(self) -> bool:
        """Whether a test task can differ from every training task."""

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks (num_tasks, D) [units of `variables`]."""


@dataclass(frozen=True)
class Uniform:
    """Independent uniform draws between the bounds of each variable."""

    variables: tuple[Variable, ...]
    held_out: bool = True

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks (num_tasks, D) [units of `variables`]."""
        low = np.array([v.low for v in self.variables])
        high = np.array([v.high for v in self.variables])
        return rng.uniform(low, high, (num_tasks, len(self.variables)))


@dataclass(frozen=True)
class Disc:
    """A point drawn uniformly from a disc, by area.

    Attributes:
        radius: Radius of the disc around the origin [m].
    """

    radius: float
    held_out: bool = True

    @property
    def variables(self) -> tuple[Variable, ...]:
        """x and y of the point [m]."""
        return tuple(
            Variable(name, "m", -self.radius, self.radius) for name in ("goal_x", "goal_y")
        )

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws points (num_tasks, 2) [m]; the square root makes equal areas equally likely."""
        radius = self.radius * np.sqrt(rng.uniform(size=num_tasks))
        angle = rng.uniform(0.0, 2.0 * np.pi, num_tasks)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


@dataclass(frozen=True)
class Choice:
    """One of a few values, in equal shares.

    The draw is stratified: a meta-batch of N tasks holds every value floor(N / len(values)) times, the rest at random,
    in random order. With two tasks and N = 20 an unstratified draw has 14 or more of one kind every ninth iteration.

    Attributes:
        variable: The one number of the task.
        values: The values it can take [unit of `variable`].
    """

    variable: Variable
    values: tuple[float, ...]
    held_out: bool = False

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The one number of the task."""
        return (self.variable,)

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks (num_tasks, 1) [unit of `variable`]."""
        values = np.asarray(self.values, dtype=float)
        whole, rest = divmod(num_tasks, len(values))
        drawn = np.concatenate([np.tile(values, whole), rng.permutation(values)[:rest]])
        return rng.permutation(drawn)[:, None]


@dataclass(frozen=True)
class Fixed:
    """A finite set of tasks, cycled through in random order so that every task is met equally often.

    Attributes:
        variables: The D numbers of a task.
        tasks: The set, a tuple of rows [units of `variables`].
    """

    variables: tuple[Variable, ...]
    tasks: tuple[tuple[float, ...], ...]
    held_out: bool = True

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks (num_tasks, D): whole permutations of the set until num_tasks are reached."""
        rows = np.asarray(self.tasks, dtype=float)
        rounds = -(-num_tasks // len(rows))
        order = np.concatenate([rng.permutation(len(rows)) for _ in range(rounds)])[:num_tasks]
        return rows[order]


def fixed_set(distribution: TaskDistribution, rng: np.random.Generator, num_tasks: int) -> Fixed:
    """Turns a distribution into a finite training set drawn once from it.

    Args:
        distribution: Where the tasks come from.
        rng: The stream of the set; the same stream gives the same set.
        num_tasks: Size of the set, at least 1.

    Returns:
        The finite distribution.

    Raises:
        ValueError: num_tasks is less than 1.
    """
    if num_tasks < 1:
        raise ValueError(f"a task set needs at least one task, got {num_tasks}")
    rows = distribution.sample(rng, num_tasks)
    return Fixed(distribution.variables, tuple(map(tuple, rows.tolist())), distribution.held_out)


def describe(variables: Sequence[Variable], task: np.ndarray) -> str:
    """Says a task in words, for captions and error messages: "angle 1.57 rad"."""
    parts = [
        f"{v.name} {value:.2f}" + ("" if v.unit == "1" else f" {v.unit}")
        for v, value in zip(variables, task, strict=True)
    ]
    return ", ".join(parts)
