"""Task distributions: named, bounded numbers with units, and fixed train and test sets by seed.

A *task* is a row of D numbers (D of the alphabet in `metarl/core/learner.py`). A distribution draws rows and says what each
number means; it knows nothing of rewards or physics. Its twin `test` draws the held-out tasks: itself, where fresh
draws are held out enough, or other ranges and kinds (`Split`).
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
        low: Smallest value a task of the distribution can have [unit].
        high: Largest value a task of the distribution can have [unit].
        bands: Where between them the values lie, if not everywhere [unit].
        labels: What the values 0, 1, 2, ... are called, if they number kinds.
    """

    name: str
    unit: str
    low: float
    high: float
    bands: tuple[tuple[float, float], ...] = ()
    labels: tuple[str, ...] = ()


class HasTestTasks(Protocol):
    """A distribution with held-out tasks of its own; without it, fresh draws are the test tasks."""

    @property
    def test(self) -> TaskDistribution:
        """Returns the distribution of held-out tasks: the same D numbers, maybe in other ranges."""


class HasOpaqueTasks(Protocol):
    """A distribution whose numbers may only count its draws and say nothing about the task."""

    opaque: bool


class TaskDistribution(HasTestTasks, Protocol):
    """Distribution of tasks: what a task consists of and how tasks are drawn."""

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

    @property
    def test(self) -> TaskDistribution:
        """Itself: fresh draws."""
        return self

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks (num_tasks, D) [units of `variables`]."""
        low = np.array([v.low for v in self.variables])
        high = np.array([v.high for v in self.variables])
        return rng.uniform(low, high, (num_tasks, len(self.variables)))


@dataclass(frozen=True)
class Disc:
    """A point drawn uniformly from a disc, by area.

    Attributes:
        radius: Radius of the disc around the origin [unit].
        names: Names of the two coordinates.
        unit: Of the coordinates.
    """

    radius: float
    held_out: bool = True
    names: tuple[str, str] = ("goal_x", "goal_y")
    unit: str = "m"

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The two coordinates of the point [unit]."""
        return tuple(Variable(name, self.unit, -self.radius, self.radius) for name in self.names)

    @property
    def test(self) -> TaskDistribution:
        """Itself: fresh draws."""
        return self

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws points (num_tasks, 2) [unit]; the square root makes equal areas equally likely."""
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

    @property
    def test(self) -> TaskDistribution:
        """Itself: there are no other values."""
        return self

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

    @property
    def test(self) -> TaskDistribution:
        """Itself: a set knows nothing of where it was drawn from."""
        return self

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks (num_tasks, D): whole permutations of the set until num_tasks are reached."""
        rows = np.asarray(self.tasks, dtype=float)
        rounds = -(-num_tasks // len(rows))
        order = np.concatenate([rng.permutation(len(rows)) for _ in range(rounds)])[:num_tasks]
        return rows[order]


@dataclass(frozen=True)
class Bands:
    """One number, uniform in one of several bands that have equal shares.

    Attributes:
        name: Of the number.
        unit: Of the number.
        bands: Lowest and highest value of each band [unit].
        log: Whether its logarithm is uniform instead.
    """

    name: str
    unit: str
    bands: tuple[tuple[float, float], ...]
    log: bool = False
    held_out: bool = True

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The one number, between the ends of the outermost bands."""
        low, high = min(b[0] for b in self.bands), max(b[1] for b in self.bands)
        gaps = self.bands if len(self.bands) > 1 else ()
        return (Variable(self.name, self.unit, low, high, gaps),)

    @property
    def test(self) -> TaskDistribution:
        """Itself: fresh draws."""
        return self

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks (num_tasks, 1) [unit]; stratified over the bands as `Choice` over its values."""
        ends = np.log(self.bands) if self.log else np.array(self.bands)
        which = Choice(_INDEX, tuple(range(len(ends)))).sample(rng, num_tasks)[:, 0].astype(int)
        drawn = rng.uniform(ends[which, 0], ends[which, 1])[:, None]
        return np.exp(drawn) if self.log else drawn


_INDEX = Variable("index", "1", 0.0, np.inf)


@dataclass(frozen=True)
class Sometimes:
    """Zero in most tasks; in a share of them a whole number between two bounds, ends included.

    Attributes:
        name: Of the number.
        unit: Of the number.
        low: Smallest number but zero [unit].
        high: Largest number [unit].
        share: Probability of not being zero.
    """

    name: str
    unit: str
    low: int
    high: int
    share: float
    held_out: bool = False

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The one number."""
        return (Variable(self.name, self.unit, 0.0, float(self.high)),)

    @property
    def test(self) -> TaskDistribution:
        """Itself."""
        return self

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks (num_tasks, 1) [unit]."""
        chosen = rng.uniform(size=num_tasks) < self.share
        number = rng.integers(self.low, self.high, num_tasks, endpoint=True)
        return np.where(chosen, number, 0.0)[:, None]


@dataclass(frozen=True)
class Split:
    """Tasks to train on, and tasks of other ranges or kinds to test on.

    Attributes:
        train: What `sample` draws from.
        test: The held-out twin, of the same D numbers.
    """

    train: TaskDistribution
    test: TaskDistribution
    held_out: bool = True

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The D numbers in their training ranges."""
        return self.train.variables

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws training tasks (num_tasks, D) [units of `variables`]."""
        return self.train.sample(rng, num_tasks)


@dataclass(frozen=True)
class Product:
    """Tasks joined from independent parts: the numbers of the first, then those of the second, and so on."""

    parts: tuple[TaskDistribution, ...]

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The numbers of all parts, in order."""
        return tuple(v for part in self.parts for v in part.variables)

    @property
    def held_out(self) -> bool:
        """Whether a test task can differ from every training task: one part that can is enough."""
        return any(part.held_out for part in self.parts)

    @property
    def test(self) -> TaskDistribution:
        """The product of the parts' held-out twins."""
        return Product(tuple(part.test for part in self.parts))

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks (num_tasks, D) [units of `variables`], one part after the other."""
        columns = [part.sample(rng, num_tasks) for part in self.parts]
        return np.concatenate([np.empty((num_tasks, 0)), *columns], axis=1)


def joined(*parts: TaskDistribution) -> TaskDistribution:
    """The product of the parts that have numbers; a part that stands alone is returned as it is."""
    kept = tuple(part for part in parts if part.variables)
    return kept[0] if len(kept) == 1 else Product(kept)


def full_range(distribution: TaskDistribution) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value (D,) of each number over training and test tasks [units]."""
    both = (distribution.variables, distribution.test.variables)
    low = np.array([[v.low for v in variables] for variables in both]).min(axis=0)
    high = np.array([[v.high for v in variables] for variables in both]).max(axis=0)
    return low, high


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


def describe_task(variables: Sequence[Variable], task: np.ndarray) -> str:
    """Describes a task (D,) for captions and messages: "angle 1.57 rad, kind stairs"."""
    return ", ".join(
        _describe_value(variable, value) for variable, value in zip(variables, task, strict=True)
    )


def _describe_value(variable: Variable, value: float) -> str:
    name = variable.name.replace("_", " ")
    if variable.labels:
        return f"{name} {variable.labels[int(value)]}"
    number = f"{value:.2f}".removesuffix(".00")  # limb 5, not 5.00
    return f"{name} {number}" + ("" if variable.unit == "1" else f" {variable.unit}")
