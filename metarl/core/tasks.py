"""Task distributions: named and bounded numbers with units, and fixed sets of tasks.

A *task* is a row of D numbers (notation of `metarl/core/rollout.py`). A distribution draws rows and
describes each number; rewards and physics are elsewhere. Its attribute `test` is the distribution
of held-out tasks: the same one if new draws suffice, or one of other ranges or kinds (`Split`).
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
        unit: SI unit, or "1" for a pure number.
        low: Smallest value in the distribution [unit].
        high: Largest value in the distribution [unit].
        bands: Intervals that contain all values [unit]; () is [low, high].
        labels: Names of the values 0, 1, 2, ..., if the number is an index of kinds.
        limits: Smallest and largest value that the environment can use [unit].
        is_whole: It can use whole numbers only.
    """

    name: str
    unit: str
    low: float
    high: float
    bands: tuple[tuple[float, float], ...] = ()
    labels: tuple[str, ...] = ()
    limits: tuple[float, float] = (-np.inf, np.inf)
    is_whole: bool = False


NOT_NEGATIVE = (0.0, np.inf)
"""Limits of a mass, a coefficient of friction or a factor."""


class HasTestTasks(Protocol):
    """A distribution that defines its held-out tasks; for others, these are new draws."""

    @property
    def test(self) -> TaskDistribution:
        """Distribution of the held-out tasks: the same D numbers, maybe in other ranges."""


class HasOpaqueTasks(Protocol):
    """A distribution whose numbers may be mere indices of its draws.

    Attributes:
        opaque: They are; the numbers do not describe the task.
    """

    opaque: bool


class TaskDistribution(HasTestTasks, Protocol):
    """Distribution of tasks."""

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The D numbers of a task, in order."""

    @property
    def held_out(self) -> bool:
        """A test task can differ from every training task."""

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks (num_tasks, D) [units of `variables`]."""


class GradedTasks(TaskDistribution, Protocol):
    """A distribution with levels of difficulty, for a curriculum."""

    def at_level(self, level: float) -> TaskDistribution:
        """Returns the training tasks of a level: 0 are the easiest, 1 are all."""


@dataclass(frozen=True)
class Uniform:
    """Independent uniform draws between the bounds of each variable."""

    variables: tuple[Variable, ...]
    held_out: bool = True

    @property
    def test(self) -> TaskDistribution:
        """The distribution itself: new draws."""
        return self

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks (num_tasks, D) [units of `variables`]."""
        low = np.array([v.low for v in self.variables])
        high = np.array([v.high for v in self.variables])
        return rng.uniform(low, high, (num_tasks, len(self.variables)))


@dataclass(frozen=True)
class Disc:
    """A point in a disc, uniform by area.

    Attributes:
        radius: Radius of the disc around the origin [unit].
        names: Names of the two coordinates.
        unit: Unit of the coordinates.
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
        """The distribution itself: new draws."""
        return self

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws points (num_tasks, 2) [unit]."""
        # the square root makes equal areas equally likely
        radius = self.radius * np.sqrt(rng.uniform(size=num_tasks))
        angle = rng.uniform(0.0, 2.0 * np.pi, num_tasks)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


@dataclass(frozen=True)
class Choice:
    """One of a few values, with equal frequency.

    The draw is stratified: N tasks contain every value floor(N / len(values)) times, the rest at
    random, in random order. With two values and N = 20, every ninth unstratified draw would have 14
    or more of one value.

    Attributes:
        variable: The number of the task.
        values: Its possible values [unit of `variable`].
    """

    variable: Variable
    values: tuple[float, ...]
    held_out: bool = False

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The number of the task."""
        return (self.variable,)

    @property
    def test(self) -> TaskDistribution:
        """The distribution itself: there are no other values."""
        return self

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks (num_tasks, 1) [unit of `variable`]."""
        values = np.asarray(self.values, dtype=float)
        rounds, rest = divmod(num_tasks, len(values))
        tasks = np.concatenate([np.tile(values, rounds), rng.permutation(values)[:rest]])
        return rng.permutation(tasks)[:, None]


@dataclass(frozen=True)
class Grades:
    """One of a few values in the order of difficulty, drawn as by `Choice`.

    Attributes:
        all: The values.
    """

    all: Choice
    held_out: bool = False

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The number of the task."""
        return self.all.variables

    @property
    def test(self) -> TaskDistribution:
        """All values."""
        return self

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks (num_tasks, 1) [unit of `variables`]."""
        return self.all.sample(rng, num_tasks)

    def at_level(self, level: float) -> TaskDistribution:
        """Returns the choice of the first values: at level 0 of one, at level 1 of all."""
        values = self.all.values
        # a hair more, because 0.1 + 0.2 > 0.3
        return Choice(self.all.variable, values[: 1 + int(level * (len(values) - 1) + 1e-6)])


@dataclass(frozen=True)
class Fixed:
    """A finite set of tasks, drawn in random order and equally often.

    Attributes:
        variables: The D numbers of a task.
        tasks: The rows of the set [units of `variables`].
    """

    variables: tuple[Variable, ...]
    tasks: tuple[tuple[float, ...], ...]
    held_out: bool = True

    @property
    def test(self) -> TaskDistribution:
        """The distribution itself: a set does not know its origin."""
        return self

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks (num_tasks, D) from successive permutations of the set."""
        rows = np.asarray(self.tasks, dtype=float)
        rounds = -(-num_tasks // len(rows))
        order = np.concatenate([rng.permutation(len(rows)) for _ in range(rounds)])[:num_tasks]
        return rows[order]


@dataclass(frozen=True)
class Bands:
    """One number, uniform in one of several bands of equal frequency.

    Attributes:
        name: Name of the number.
        unit: Unit of the number.
        bands: Smallest and largest value of each band [unit].
        log: The logarithm of the number is uniform instead.
        limits: See Variable.
    """

    name: str
    unit: str
    bands: tuple[tuple[float, float], ...]
    log: bool = False
    held_out: bool = True
    limits: tuple[float, float] = (-np.inf, np.inf)

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The number, between the ends of the outermost bands."""
        low, high = min(b[0] for b in self.bands), max(b[1] for b in self.bands)
        bands = self.bands if len(self.bands) > 1 else ()
        return (Variable(self.name, self.unit, low, high, bands, limits=self.limits),)

    @property
    def test(self) -> TaskDistribution:
        """The distribution itself: new draws."""
        return self

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks (num_tasks, 1) [unit], stratified over the bands like `Choice`."""
        ends = np.log(self.bands) if self.log else np.array(self.bands)
        band = Choice(_INDEX, tuple(range(len(ends)))).sample(rng, num_tasks)[:, 0].astype(int)
        tasks = rng.uniform(ends[band, 0], ends[band, 1])[:, None]
        return np.exp(tasks) if self.log else tasks


_INDEX = Variable("index", "1", 0.0, np.inf)


@dataclass(frozen=True)
class Sometimes:
    """Zero, or with some probability a whole number between two bounds, ends included.

    Attributes:
        name: Name of the number.
        unit: Unit of the number.
        low: Smallest number other than zero [unit].
        high: Largest number [unit].
        share: Probability of a number other than zero.
    """

    name: str
    unit: str
    low: int
    high: int
    share: float
    held_out: bool = False

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The number."""
        ends, limits = (0.0, float(self.high)), NOT_NEGATIVE
        return (Variable(self.name, self.unit, *ends, limits=limits, is_whole=True),)

    @property
    def test(self) -> TaskDistribution:
        """The distribution itself."""
        return self

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks (num_tasks, 1) [unit]."""
        chosen = rng.uniform(size=num_tasks) < self.share
        number = rng.integers(self.low, self.high, num_tasks, endpoint=True)
        return np.where(chosen, number, 0.0)[:, None]


@dataclass(frozen=True)
class Split:
    """Training tasks, and held-out tasks of other ranges or kinds.

    Attributes:
        train: Distribution of the training tasks, which `sample` draws.
        test: Distribution of the held-out tasks, of the same D numbers.
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
    """Tasks of independent parts: the numbers of the first part, then those of the second, ..."""

    parts: tuple[TaskDistribution, ...]

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The numbers of all parts, in order."""
        return tuple(v for part in self.parts for v in part.variables)

    @property
    def held_out(self) -> bool:
        """A test task can differ from every training task in some part."""
        return any(part.held_out for part in self.parts)

    @property
    def test(self) -> TaskDistribution:
        """The product of the parts' held-out distributions."""
        return Product(tuple(part.test for part in self.parts))

    def sample(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks (num_tasks, D) [units of `variables`], part by part."""
        columns = [part.sample(rng, num_tasks) for part in self.parts]
        return np.concatenate([np.empty((num_tasks, 0)), *columns], axis=1)


def full_range(distribution: TaskDistribution) -> tuple[np.ndarray, np.ndarray]:
    """Returns the smallest and largest value (D,) of each number over training and test tasks."""
    train_and_test = (distribution.variables, distribution.test.variables)
    low = np.array([[v.low for v in variables] for variables in train_and_test]).min(axis=0)
    high = np.array([[v.high for v in variables] for variables in train_and_test]).max(axis=0)
    return low, high


def fixed_set(distribution: TaskDistribution, rng: np.random.Generator, num_tasks: int) -> Fixed:
    """Draws a finite set of tasks from a distribution.

    Args:
        distribution: Source of the tasks.
        rng: The stream of the set; the same stream gives the same set.
        num_tasks: Size of the set, at least 1.

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
