"""Sweep files: what is trained, and the settings whose best values are searched for.

about: one line for people
env: half-cheetah-dir
algo: rl2
trials: 30
seeds: [0, 1]               # every trial trains each; the first decides about stopping early
settings: {iterations: 100}  # of every trial, over the preset
search:
  learner.lr: {low: 3e-4, high: 1e-2, log: true}
  learner.memory_size: {low: 32, high: 128, step: 32}
  learner.memory: {choices: [gru, mingru]}
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from metarl.config.idle import find_lacking
from metarl.config.parser import field_types, merge
from metarl.config.schema import PRESETS, TrainConfig, build_config
from metarl.config.shipped import find_shipped, list_shipped
from metarl.core.errors import ConfigError, require
from metarl.core.machine.yaml_files import load_yaml
from metarl.core.trees import flatten
from metarl.suites.suite import Run, check_seeds

FOLDER = PRESETS / "sweeps"
"""Folder of the sweeps that metarl brings along."""


@dataclass(frozen=True)
class Interval:
    """A setting that takes numbers.

    Attributes:
        low: Least value.
        high: Largest value.
        log: Search its logarithm.
        step: Distance of the values from each other; 0 takes all (whole numbers: 1).
        is_whole: The setting takes whole numbers.
    """

    low: float
    high: float
    log: bool = False
    step: float = 0.0
    is_whole: bool = False

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ConfigError: Names the field.
        """
        is_range = math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high
        require(is_range, "low", self.low, f"less than high = {self.high}, both finite")
        require(not self.log or self.low > 0.0, "low", self.low, "> 0 where log is true")
        require(not self.log or self.step == 0.0, "step", self.step, "left out where log is true")
        require(0.0 <= self.step < math.inf, "step", self.step, "at least 0")
        for name in ("low", "high", "step") if self.is_whole else ():
            value = float(getattr(self, name))
            require(value.is_integer(), name, value, "whole, as the setting is")
        number = (self.high - self.low) / self.step if self.step else 1.0
        is_divided = number > 0.5 and math.isclose(number, round(number), rel_tol=1e-9)
        hint = f"a divisor of high - low = {self.high - self.low:g}, so that high is tried too"
        require(is_divided, "step", self.step, hint)

    def ends(self) -> tuple[Any, ...]:
        """Returns the extreme values."""
        kind = int if self.is_whole else float
        return kind(self.low), kind(self.high)

    def suggest(self, trial: Any, name: str) -> Any:
        """Asks a trial of Optuna for a value."""
        low, high = self.ends()
        if self.is_whole:
            return trial.suggest_int(name, low, high, log=self.log, step=int(self.step) or 1)
        return trial.suggest_float(name, low, high, log=self.log, step=self.step or None)


@dataclass(frozen=True)
class Choices:
    """A setting that takes one of some values: numbers, texts, or booleans.

    Attributes:
        values: The values, in no order.
    """

    values: tuple[Any, ...]

    def ends(self) -> tuple[Any, ...]:
        """Returns the values."""
        return self.values

    def suggest(self, trial: Any, name: str) -> Any:
        """Asks a trial of Optuna for a value."""
        return trial.suggest_categorical(name, self.values)


@dataclass(frozen=True)
class Sweep:
    """A search for settings.

    Attributes:
        name: Name of its file.
        path: Its file.
        root: Folder of the run folders, of the study and of its page.
        env: Environment.
        algo: Learner.
        search: Dotted name -> where its values are searched for.
        settings: Dotted name -> value, of all trials.
        about: One line for people.
        trials: Number of trials, >= 1.
        seeds: Seeds of every trial.
        prune: Stop a trial that learns less than the median of those before, at equal iterations.
        sampler_seed: Seed of the search.
    """

    name: str
    path: Path
    root: Path
    env: str
    algo: str
    search: Mapping[str, Interval | Choices]
    settings: Mapping[str, Any]
    about: str = ""
    trials: int = 20
    seeds: tuple[int, ...] = (0,)
    prune: bool = True
    sampler_seed: int = 0

    def config(self, values: Mapping[str, Any]) -> TrainConfig[Any]:
        """Returns the settings of a trial.

        Raises:
            ConfigError: The values do not fit each other.
        """
        settings = {**self.settings, **values}
        config = build_config(self.env, self.algo, settings, free=self.search.keys())
        threads = config.sampler.threads or 1
        return replace(config, sampler=replace(config.sampler, threads=threads))

    def runs(self, values: Mapping[str, Any]) -> list[Run]:
        """Returns the runs of a trial; equal values have equal folders."""
        config = self.config(values)
        text = json.dumps(dict(sorted(values.items())))
        mark = hashlib.sha256(text.encode()).hexdigest()[:8]
        folder = self.root / f"trial-{mark}"
        return [Run(mark, replace(config, seed=s), folder / f"seed-{s}") for s in self.seeds]


@dataclass(frozen=True)
class _Head:
    """Keys of a sweep file that are numbers and texts."""

    env: str
    algo: str = "maml-trpo"
    about: str = ""
    trials: int = 20
    seeds: tuple[int, ...] = (0,)
    prune: bool = True
    sampler_seed: int = 0

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        require(self.trials >= 1, "trials", self.trials, "at least 1")
        require(0 <= self.sampler_seed < 2**32, "sampler_seed", self.sampler_seed, "0..2^32 - 1")
        require(bool(self.env), "env", self.env, "the name of an environment")


def list_sweeps() -> dict[str, Path]:
    """Returns name -> file of the sweeps that metarl brings along."""
    return list_shipped(FOLDER)


def find_sweep(file: str) -> Path:
    """Returns the file of a sweep that is given as a path, or as a name of `list_sweeps`.

    Raises:
        ConfigError: There is neither; the message names the nearest.
    """
    return find_shipped(file, list_sweeps(), "sweep", "sweeps")


def read_sweep(path: Path, root: Path | None = None) -> Sweep:
    """Reads a sweep file, and tries every extreme value of every setting out.

    Args:
        path: The file.
        root: Folder of the results, by default `runs/sweeps/<name>`.

    Raises:
        ConfigError: A key, name or value cannot be used; the message names file and key.
    """
    tree = load_yaml(path)
    keys = {"settings", "search"}
    own = {key: value for key, value in tree.items() if key not in keys}
    head = merge(
        _Head("x"),
        {"env": "", **own},
        where=f"{path}: ",
        allowed=_Head.__dataclass_fields__.keys() | keys,
    )
    settings, search = (tree.get(key, {}) for key in ("settings", "search"))
    for key, value in (("settings", settings), ("search", search)):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: {key} = {value!r}: must be a group of keys")
    if not search:
        raise ConfigError(f"{path}: search is missing: name the settings to search for")
    dimensions = {
        name: _read_dimension(f"{path}: search.{name}: ", v) for name, v in search.items()
    }
    root = root or Path("runs") / "sweeps" / path.stem
    sweep = Sweep(
        path.stem, path, root, search=dimensions, settings=flatten(settings), **vars(head)
    )
    sweep = replace(sweep, search=_read_kinds(sweep))
    _try_ends(sweep)
    return sweep


_KEYS = {field.name for field in fields(Interval)} - {"is_whole"}
"""Keys of an interval in a file."""


def _read_dimension(where: str, value: Any) -> Interval | Choices:
    if isinstance(value, Mapping) and "choices" in value:
        choices = value["choices"]
        if len(value) > 1 or not isinstance(choices, list) or len(choices) < 2:
            raise ConfigError(f"{where}{dict(value)!r}: must be choices, a list of two or more")
        for each in choices:
            if not isinstance(each, bool | int | float | str):
                raise ConfigError(f"{where}{each!r}: must be a number, a text, true or false")
            if choices.count(each) > 1:  # 1, 1.0 and true are equal
                raise ConfigError(f"{where}{each!r}: is given twice; name each choice once")
        return Choices(tuple(choices))
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}{value!r}: must be {{low: .., high: ..}} or {{choices: [..]}}")
    try:
        ends = {"low": math.nan, "high": math.nan}
        return merge(Interval(0.0, 1.0), {**ends, **value}, allowed=_KEYS)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from error


def _read_kinds(sweep: Sweep) -> dict[str, Interval | Choices]:
    """Returns the search with whole numbers where a setting takes them.

    Raises:
        ConfigError: A setting is fixed already, or takes whole numbers and has other ends.
    """
    for name in sweep.search:
        if name in ("seed", "env", "algo") or name in sweep.settings:
            raise ConfigError(f"{sweep.path}: search.{name}: is fixed already")
    try:
        kinds, search = field_types(sweep.config({})), dict(sweep.search)
    except ConfigError as error:
        raise ConfigError(f"{sweep.path}: {error}") from error
    for name, dimension in sweep.search.items():
        if isinstance(dimension, Interval) and kinds.get(name) in (int, int | None):
            try:
                search[name] = replace(dimension, is_whole=True)
            except ConfigError as error:
                raise ConfigError(f"{sweep.path}: search.{name}: {error}") from error
    return search


def _require_effect(name: str, config: TrainConfig[Any], search: Collection[str]) -> None:
    """Requires that a setting has an effect, or depends on another one that is searched for.

    Raises:
        ConfigError: It does not; says what it needs.
    """
    need = find_lacking(config).get(name)
    if need and not set(need.others) & set(search):
        raise ConfigError(f"has no effect {need.describe(flatten(asdict(config)))}")


def _try_ends(sweep: Sweep) -> None:
    """Builds the settings of all extreme values, one setting at a time.

    Raises:
        ConfigError: One cannot be used; names it.
    """
    first = {name: dimension.ends()[0] for name, dimension in sweep.search.items()}
    for name, dimension in sweep.search.items():
        for value in dimension.ends():
            try:
                _require_effect(name, sweep.config(first | {name: value}), sweep.search)
            except ConfigError as error:
                raise ConfigError(f"{sweep.path}: search.{name} = {value}: {error}") from error
