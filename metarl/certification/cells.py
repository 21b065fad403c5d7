"""Cells of a certificate: their environments, their tasks, and whether training had such tasks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from metarl.certification.grid import ALL, Axis, Grid, Value
from metarl.core.env import EnvSpec
from metarl.core.errors import ConfigError, nearest
from metarl.core.rng import stream
from metarl.core.tasks import Variable, full_range

NOMINAL = "nominal"
"""The cell of the environment's own tasks."""

PRODUCT = "product"
"""Name, in place of an axis, of the cells that combine all axes."""


@dataclass(frozen=True)
class Fixed:
    """Values of one task number in a cell.

    Attributes:
        values: Its value; the kinds that tasks have in turn; or the ends of a range.
        is_range: The values are the ends of a range.
    """

    values: tuple[float, ...]
    is_range: bool = False

    def draw(self, number: str, seed: int, num_tasks: int) -> np.ndarray:
        """Draws the numbers (N,) of the tasks; the same in every cell with these values."""
        rng = stream(seed, f"certify/{number}")
        if self.is_range:
            return rng.uniform(*self.values, num_tasks)
        return np.array(self.values)[rng.permutation(num_tasks) % len(self.values)]


@dataclass(frozen=True)
class Cell:
    """One place of the grid.

    Attributes:
        axis: Name of its axis, NOMINAL or PRODUCT.
        level: The level as text, "" of the nominal cell.
        env: Name of its environment.
        variations: Variations of the axes.
        fixed: Values of task numbers by column.
        num_own: Numbers of the environment without the variations; they come first.
    """

    axis: str
    level: str
    env: str
    variations: tuple[str, ...]
    fixed: Mapping[int, Fixed]
    num_own: int

    @property
    def name(self) -> str:
        """Name for people."""
        return f"{self.axis}: {self.level}" if self.level else self.axis


SpecOf = Callable[[str], EnvSpec]
"""Returns the spec of an environment by name."""


def split_words(env: str) -> list[str]:
    """Returns the parts of an environment's name: those of robot, goal and variations."""
    return env.rpartition(":")[2].partition("/")[0].split("-")


def compose(env: str, variations: Sequence[str]) -> str:
    """Returns the name of an environment with variations that it does not have yet."""
    start, slash, rest = (env, "", "") if ":" in env else env.partition("/")
    new = [each for each in variations if each and each not in split_words(env)]
    return "-".join([start, *new]) + slash + rest


def make_cells(grid: Grid, env: str, spec_of: SpecOf) -> list[Cell]:
    """Returns the nominal cell, those of each axis, and those of the product if asked for.

    Args:
        grid: The grid.
        env: Name of the environment.
        spec_of: Of the environments.

    Raises:
        ConfigError: There is no such environment, number or value; the message names the axis.
    """
    num_own = len(spec_of(env).tasks.variables)
    cells, levels = [Cell(NOMINAL, "", env, (), {}, num_own)], []
    for axis in grid.axes:
        try:
            spec_of(compose(env, [axis.variation]))
        except ConfigError as error:
            hint = "leave the axis out with --axes, or give a --grid for this environment"
            text = f"{env} has no variation {axis.variation!r}"
            raise ConfigError(f"axis {axis.name}: {text}; {hint}") from error
        try:
            levels.append(_read_levels(axis, env, spec_of))
        except ConfigError as error:
            raise ConfigError(f"axis {axis.name}: {error}") from error
        name, own = compose(env, [axis.variation]), (axis.variation,) if axis.variation else ()
        cells += [Cell(axis.name, text, name, own, fixed, num_own) for text, fixed in levels[-1]]
    return cells + (_multiply(grid.axes, levels, env, spec_of) if grid.product else [])


_Level = tuple[str, dict[int, Fixed]]
"""Text of a level, and the values of its numbers by column of the axis' environment."""


def _multiply(
    axes: Sequence[Axis], levels: Sequence[Sequence[_Level]], env: str, spec_of: SpecOf
) -> list[Cell]:
    """Returns the cells that combine a level of every axis.

    Raises:
        ConfigError: Two axes have the same variation, so they cannot be combined.
    """
    used = [axis.variation for axis in axes]
    for axis in axes:
        if used.count(axis.variation) > 1:
            both = " and ".join(a.name for a in axes if a.variation == axis.variation)
            hint = "choose one of them with --axes"
            raise ConfigError(f"product: {both} vary the same {axis.variation or env}; {hint}")
    num_own, offset, shifts = len(spec_of(env).tasks.variables), 0, []
    for axis in axes:
        shifts.append(offset)
        offset += len(spec_of(compose(env, [axis.variation])).tasks.variables) - num_own
    cells, name = [], compose(env, used)
    for chosen in itertools.product(*levels):
        fixed: dict[int, Fixed] = {}
        for (_, own), shift in zip(chosen, shifts, strict=True):
            fixed |= {c if c < num_own else c + shift: value for c, value in own.items()}
        text = ", ".join(f"{a.name} {t}" for a, (t, _) in zip(axes, chosen, strict=True))
        cells.append(Cell(PRODUCT, text, name, tuple(filter(None, used)), fixed, num_own))
    return cells


def _read_levels(axis: Axis, env: str, spec_of: SpecOf) -> list[_Level]:
    """Returns the levels of an axis."""
    spec, num_own = spec_of(compose(env, [axis.variation])), len(spec_of(env).tasks.variables)
    variables = spec.tasks.variables
    # a new variation has numbers of its own; one that the environment has does not
    start = num_own if num_own < len(variables) else 0
    low, high = full_range(spec.tasks)

    def find(pattern: str) -> list[int]:
        names = [each.name for each in variables[start:]]
        # a name that two variations have begins with that of its owner for one of them
        wholes = f"{axis.variation} {pattern}", pattern
        matches = ([i for i, each in enumerate(names) if fnmatchcase(each, w)] for w in wholes)
        found = [start + i for i in next(filter(None, matches), [])]
        if not found:
            hint = nearest(pattern, names) or f"; it has {', '.join(names) or 'none'}"
            raise ConfigError(f"{spec.name} has no number {pattern!r}{hint}")
        return found

    def read(column: int, value: Value) -> Fixed:
        return _read_value(variables[column], value, float(low[column]), float(high[column]))

    fixed = {c: read(c, value) for name, value in axis.set.items() for c in find(name)}
    columns = find(axis.vary)
    values: Sequence[Value] = axis.levels
    if axis.levels == ALL:
        values = variables[columns[0]].labels
        if not values:
            raise ConfigError(f"levels: all: {axis.vary} has no names of kinds; list its values")
    return [
        (_describe(value, variables[columns[0]]), fixed | {c: read(c, value) for c in columns})
        for value in values
    ]


def _read_value(variable: Variable, value: Value, low: float, high: float) -> Fixed:
    """Checks a value of a number whose range over training and test tasks is [low, high]."""
    name, labels = variable.name, variable.labels
    if isinstance(value, str):
        if value == ALL and labels:
            return Fixed(tuple(map(float, range(len(labels)))))
        if value in labels:
            return Fixed((float(labels.index(value)),))
        kinds = f"one of {', '.join([*labels, ALL])}" if labels else f"in [{low:g}, {high:g}]"
        raise ConfigError(f"{name} = {value!r}: must be {kinds}{nearest(value, labels)}")
    ends = value if isinstance(value, tuple) else (value,)
    for end in ends:
        if not low <= end <= high:
            raise ConfigError(f"{name} = {end:g}: must be in [{low:g}, {high:g}] {variable.unit}")
        if labels and end != int(end):
            raise ConfigError(f"{name} = {end:g}: must be the name or the number of a kind")
    return Fixed(ends, is_range=isinstance(value, tuple))


def _describe(value: Value, variable: Variable) -> str:
    if isinstance(value, str):
        return value
    ends = value if isinstance(value, tuple) else (value,)
    if variable.labels and len(ends) == 1:
        return variable.labels[int(ends[0])]
    unit = "" if variable.unit == "1" else f" {variable.unit}"
    return " to ".join(f"{end:g}" for end in ends) + unit


def draw_tasks(cell: Cell, spec: EnvSpec, seed: int, num_tasks: int) -> np.ndarray:
    """Draws the tasks (num_tasks, D) of a cell.

    The environment's own numbers are those of test tasks. Numbers of a variation that the axis does
    not name are drawn as in training. All are the same in every cell with these numbers, so that
    cells differ by their levels alone.
    """
    tasks = spec.tasks.test.sample(stream(seed, "certify-tasks"), num_tasks)
    drawn = spec.tasks.sample(stream(seed, "certify-world"), num_tasks)
    tasks[:, cell.num_own :] = drawn[:, cell.num_own :]
    for column, value in cell.fixed.items():
        tasks[:, column] = value.draw(spec.tasks.variables[column].name, seed, num_tasks)
    return tasks


# --- the training distribution --------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """Distribution of the tasks that a policy was trained on.

    Attributes:
        env: Name of the environment.
        variables: Numbers of its training tasks.
        test: Numbers of its test tasks.
    """

    env: str
    variables: tuple[Variable, ...]
    test: tuple[Variable, ...]


NEUTRAL: Mapping[str, Mapping[str, float]] = {
    "load": {"load": 0.0},
    "payload": {"payload": 0.0},
    "push": {"push": 0.0},
    "wind": {"wind_*": 0.0},
    "delay": {"delay": 0.0},
    "actuator": {"gear *": 1.0, "delay": 0.0},
}
"""Variation -> values of its numbers with which it changes nothing."""


def describe_outside(cell: Cell, spec: EnvSpec, tasks: np.ndarray, training: Training) -> list[str]:
    """Returns a text for each reason why tasks (N, D) of a cell were not among those of training.

    It is empty for a cell inside the training distribution.
    """
    words, before = split_words(cell.env), split_words(training.env)
    reasons = [f"training had no {word}" for word in words if word not in before]
    known = {v.name: (v, t) for v, t in zip(training.variables, training.test, strict=True)}
    for variable, values in zip(spec.tasks.variables, tasks.T, strict=True):
        if variable.name in known:
            own, test = known[variable.name]
            if not _is_inside(own, test, values):
                reasons.append(_describe_values(own, values))
    missing = [word for word in before if word not in words]
    lacking = [word for word in missing if not _can_be_neutral(word, training.variables)]
    return reasons + [f"training always had {word}" for word in lacking]


def _can_be_neutral(word: str, variables: Sequence[Variable]) -> bool:
    """Returns whether a variation changes nothing in some training tasks."""
    values = NEUTRAL.get(word, {})
    return bool(values) and all(
        variable.low <= value <= variable.high
        for pattern, value in values.items()
        for variable in variables
        if fnmatchcase(variable.name, pattern)
    )


def _is_inside(variable: Variable, test: Variable, values: np.ndarray) -> bool:
    bands = np.array(variable.bands or [(variable.low, variable.high)])
    inside = ((values[:, None] >= bands[:, 0]) & (values[:, None] <= bands[:, 1])).any(axis=1)
    if variable.labels and test.low == test.high and variable.low != variable.high:
        inside &= values != test.low  # a held-out kind between those of training
    return bool(inside.all())


def _describe_values(variable: Variable, values: np.ndarray) -> str:
    if variable.labels:
        kinds = [variable.labels[int(value)] for value in np.unique(values)]
        return f"{variable.name} {', '.join(kinds)}"
    ends = sorted({f"{values.min():g}", f"{values.max():g}"}, key=float)
    trained = variable.bands or ((variable.low, variable.high),)
    ranges = " or ".join(f"{low:g} to {high:g}" for low, high in trained)
    return f"{variable.name} {' to '.join(ends)}, trained on {ranges}"
