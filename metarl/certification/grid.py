"""The grid of a certificate: a YAML file of axes, each a task number and its levels."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import metarl
from metarl.config.shipped import find_shipped, list_shipped
from metarl.core.errors import ConfigError, nearest, require
from metarl.core.machine.yaml_files import load_yaml
from metarl.core.ranges import MOST_ADAPTATIONS, MOST_TASKS, require_count

FOLDER = Path(metarl.__file__).parent / "configs" / "certify"
"""Grids that metarl brings along."""

DEFAULT = "legged"

ALL = "all"
"""Value that stands for every kind of a number with names: as levels one after another, else in
turn over the tasks of a cell."""

Value = float | str | tuple[float, float]
"""A number, the name of a kind, ALL, or the ends of a range from which each task draws."""


@dataclass(frozen=True)
class Axis:
    """One task number at several levels.

    Attributes:
        name: Name of the axis.
        variation: Part of an environment's name that has the number; "" is the environment itself.
        vary: The number.
        levels: Its values, one for each cell, or ALL.
        set: Values of other numbers, by their name or a pattern such as "gear *". Numbers that are
            left out are drawn as in training.
    """

    name: str
    variation: str
    vary: str
    levels: tuple[Value, ...] | str
    set: Mapping[str, Value]


@dataclass(frozen=True)
class Grid:
    """A declared grid.

    Attributes:
        about: One line for people.
        num_tasks: N, tasks of a cell.
        attempts: Episodes of a trial, in which a policy may adapt.
        axes: The axes.
        product: Also combine every level of each axis with every level of the others.
    """

    about: str
    num_tasks: int
    attempts: int
    axes: tuple[Axis, ...]
    product: bool = False

    def __post_init__(self) -> None:
        require_count("num_tasks", self.num_tasks, 1, MOST_TASKS)
        require_count("attempts", self.attempts, 1, MOST_ADAPTATIONS)

    def tree(self) -> dict[str, Any]:
        """Returns what decides the numbers of the certificate, as a tree for JSON."""
        tree = {name: value for name, value in asdict(self).items() if name != "about"}
        return json.loads(json.dumps(tree))  # lists for tuples


def list_grids() -> dict[str, Path]:
    """Returns name -> file of the grids that metarl brings along."""
    return list_shipped(FOLDER)


def find_grid(file: str) -> Path:
    """Returns the file of a grid that is given as a path, or as a name of `list_grids`.

    Raises:
        ConfigError: There is neither; the message names the nearest.
    """
    return find_shipped(file, list_grids(), "--grid", "grids")


_KEYS = ("about", "num_tasks", "attempts", "product", "axes")
_AXIS_KEYS = ("variation", "vary", "levels", "set")


def read_grid(path: Path) -> Grid:
    """Reads the file of a grid.

    Raises:
        ConfigError: A key or a value cannot be used; the message names file, axis and key.
    """
    tree = load_yaml(path)
    _check_keys(tree, _KEYS, f"{path}: ")
    axes = tree.get("axes")
    if not isinstance(axes, Mapping) or not axes:
        raise ConfigError(f"{path}: axes = {axes!r:.80}: must be a group of axes by name")
    product = tree.get("product", False)
    require(isinstance(product, bool), f"{path}: product", product, "true or false")
    counts = {}
    for name, default in (("num_tasks", 40), ("attempts", 3)):
        counts[name] = tree.get(name, default)
        is_count = type(counts[name]) is int and counts[name] >= 1
        require(is_count, f"{path}: {name}", counts[name], "a whole number >= 1")
    read = tuple(_read_axis(str(name), axis, path) for name, axis in axes.items())
    return Grid(str(tree.get("about", "")), **counts, axes=read, product=product)


def _check_keys(tree: Mapping[Any, Any], allowed: Collection[str], where: str) -> None:
    for key in tree:
        if key not in allowed:
            raise ConfigError(f"{where}unknown key {key}{nearest(str(key), allowed)}")


def _read_axis(name: str, tree: Any, path: Path) -> Axis:
    where = f"{path}: axis {name}"
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{where} = {tree!r:.80}: must be a group of keys")
    _check_keys(tree, _AXIS_KEYS, f"{where}: ")
    texts = {}
    for key in ("variation", "vary"):
        texts[key] = tree.get(key, "")
        is_name = isinstance(texts[key], str) and (key == "vary" or ":" not in texts[key])
        require(is_name, f"{where}: {key}", texts[key], "a name")  # ":" would name code
    require(texts["vary"] != "", f"{where}: vary", texts["vary"], "the name of a task number")
    levels, fixed = tree.get("levels"), tree.get("set", {})
    if levels != ALL:
        is_list = isinstance(levels, list) and len(levels) > 0
        require(is_list, f"{where}: levels", levels, "a list of values, or all")
        levels = tuple(_read_value(each, f"{where}: levels") for each in levels)
    require(isinstance(fixed, Mapping), f"{where}: set", fixed, "a group of numbers and values")
    fixed = {str(key): _read_value(each, f"{where}: set.{key}") for key, each in fixed.items()}
    return Axis(name, **texts, levels=levels, set=fixed)


def _read_value(value: Any, field: str) -> Value:
    if isinstance(value, str):
        return value
    numbers = value if isinstance(value, list) else [value]
    is_number = all(type(each) in (int, float) and math.isfinite(each) for each in numbers)
    hint = "a finite number, a range [low, high], the name of a kind, or all"
    is_range = len(numbers) == 2 and is_number and numbers[0] <= numbers[1]
    require(is_range if isinstance(value, list) else is_number, field, value, hint)
    return (float(numbers[0]), float(numbers[1])) if isinstance(value, list) else float(value)


def select_axes(grid: Grid, names: Collection[str]) -> tuple[Axis, ...]:
    """Returns the axes of these names, in the order of the grid; all without a name.

    Raises:
        ConfigError: There is no such axis; names the nearest.
    """
    known = [axis.name for axis in grid.axes]
    for name in names:
        if name not in known:
            hint = nearest(name, known) or f"; the grid has {', '.join(known)}"
            raise ConfigError(f"--axes {name}: no such axis{hint}")
    return tuple(axis for axis in grid.axes if not names or axis.name in names)
