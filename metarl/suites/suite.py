"""Suite files: declared sets of runs, algorithm x environment x seeds.

    about: one line for people
    seeds: [0, 1, 2]                  # of every entry that gives none
    settings: {trainer: {video: false}}
    runs:
      - {env: half-cheetah-dir, algo: rl2, iterations: 100, learner: {lr: 1e-3}}

An entry of `runs` has the keys of a preset, `env`, `algo`, `observe_task` and the like, and `seeds`
and `label`. It goes over `settings`, which go over the preset. `init_from` is relative to the
folder of the file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from metarl import builders
from metarl.config.changes import find_changes
from metarl.config.identity import label_config
from metarl.config.parser import merge
from metarl.config.schema import (
    IN_FILE,
    PRESETS,
    TrainConfig,
    build_config,
    from_yaml,
)
from metarl.config.shipped import find_shipped, list_shipped
from metarl.core.errors import ConfigError, nearest, require
from metarl.core.machine.files import clean_name
from metarl.core.machine.yaml_files import load_yaml
from metarl.core.trees import flatten
from metarl.learners.modes import find_mode
from metarl.runs import provenance
from metarl.runs.folder import check_parent, newest_step

FOLDER = PRESETS / "suites"
"""Folder of the suites that metarl brings along."""

Role = Literal["learner", "multi-task", "oracle", "scratch"]
"""Part of a run in a comparison: a policy that adapts, or one of the three baselines."""


@dataclass(frozen=True)
class Run:
    """One training of a suite.

    Attributes:
        label: Name of its entry in tables; runs of an entry differ in their seed only.
        config: All settings.
        folder: Run folder; settings and output of the process are beside it.
    """

    label: str
    config: TrainConfig[Any]
    folder: Path

    @property
    def name(self) -> str:
        """Name in messages, `<entry>/seed-<seed>`."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def settings(self) -> Path:
        """File of all settings, from which the run is started."""
        return self.folder.with_name(f"{self.folder.name}.yaml")

    @property
    def log(self) -> Path:
        """File of the output of its processes."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def role(self) -> Role:
        """Part in a comparison."""
        if self.config.observe_task:
            return "oracle"
        mode: Role | None = find_mode(self.config.learner)  # ty: ignore[invalid-assignment]
        return mode or "learner"


@dataclass(frozen=True)
class Suite:
    """A declared set of runs.

    Attributes:
        name: Name of its file.
        path: Its file.
        about: One line for people.
        root: Folder of the run folders.
        runs: The runs, in the order in which they start.
    """

    name: str
    path: Path
    about: str
    root: Path
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class _Head:
    """Keys of a suite file that are no settings of runs."""

    about: str = ""
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        check_seeds(self.seeds)


@dataclass(frozen=True)
class _EntryHead:
    """Keys of an entry that are no settings of its runs."""

    label: str = ""
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        check_seeds(self.seeds)


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Requires distinct numbers >= 0, at least one.

    Raises:
        ConfigError: They are not.
    """
    distinct = len(set(seeds)) == len(seeds) and min(seeds, default=-1) >= 0
    require(distinct, "seeds", list(seeds), "distinct numbers >= 0")


_HEAD, _ENTRY_HEAD = {"about", "seeds"}, {"label", "seeds"}
_SHARED = IN_FILE - {"env", "algo", "seed"}
"""Settings that all runs of a suite can share."""


def list_suites() -> dict[str, Path]:
    """Returns name -> file of the suites that metarl brings along."""
    return list_shipped(FOLDER)


def find_suite(file: str) -> Path:
    """Returns the file of a suite that is given as a path, or as a name of `list_suites`.

    Raises:
        ConfigError: There is neither; the message names the nearest.
    """
    return find_shipped(file, list_suites(), "suite", "suites")


def read_suite(path: Path, root: Path | None = None) -> Suite:
    """Reads a suite file.

    Args:
        path: The file.
        root: Folder of the run folders, by default `runs/suites/<name>`.

    Raises:
        ConfigError: A key, name or value cannot be used; the message names file, entry and key.
    """
    tree = load_yaml(path)
    where = f"{path}: "
    head = merge(
        _Head(),
        {key: value for key, value in tree.items() if key not in ("settings", "runs")},
        where=where,
        allowed=_HEAD | {"settings", "runs"},
    )
    shared, entries = tree.get("settings", {}), tree.get("runs")
    if not isinstance(shared, Mapping):
        raise ConfigError(f"{where}settings = {shared!r}: must be a group of keys")
    _check_keys(shared, _SHARED, f"{where}settings: ")
    if not isinstance(entries, list) or not entries:
        hint = "such as [{env: navigation-2d, algo: rl2}]"
        raise ConfigError(f"{where}runs = {entries!r:.80}: must be a list of runs, {hint}")
    root = root or Path("runs") / "suites" / path.stem
    runs: list[Run] = []
    for number, entry in enumerate(entries, 1):
        group = _read_entry(entry, number, path, head.seeds, shared, root)
        for other in runs:
            if other.folder.parent == group[0].folder.parent:
                hint = "give one of them a label"
                raise ConfigError(f"{where}two entries are {group[0].folder.parent.name}; {hint}")
        runs += group
    return Suite(path.stem, path, head.about, root, tuple(runs))


def _check_keys(tree: Mapping[Any, Any], allowed: Collection[str], where: str) -> None:
    for key in tree:
        if key not in allowed:
            raise ConfigError(f"{where}unknown key {key}{nearest(str(key), sorted(allowed))}")


def _read_entry(
    entry: Any,
    number: int,
    path: Path,
    seeds: tuple[int, ...],
    shared: Mapping[str, Any],
    root: Path,
) -> list[Run]:
    """Returns the runs of an entry, one for each seed."""
    where = f"{path}: run {number}"
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where} = {entry!r}: must be a group of keys")
    env, algo = entry.get("env"), entry.get("algo", "maml-trpo")
    if not env:
        hint = "name an environment of metarl train --list-envs"
        raise ConfigError(f"{where}: env is missing; {hint}")
    where = f"{where} ({env}, {algo}): "
    _check_keys(entry, (IN_FILE - {"seed"}) | _ENTRY_HEAD, where)
    own = {key: value for key, value in entry.items() if key in _ENTRY_HEAD}
    head = merge(_EntryHead(seeds=seeds), own, where=where)
    given = {k: v for k, v in entry.items() if k not in {"env", "algo"} | _ENTRY_HEAD}
    try:
        common, chosen = flatten(shared), flatten(given)
        free = common.keys() - chosen.keys()  # of other runs, too
        config = build_config(env, algo, common | chosen, free=free)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from error
    threads = config.sampler.threads or 1
    config = replace(config, sampler=replace(config.sampler, threads=threads))
    name = head.label or label_config(config)
    if config.init_from is not None:
        start = (path.parent.resolve() / config.init_from).resolve()
        config = replace(config, init_from=start)
        name = head.label or f"{name} from {_name_start(start)}"
    folder = root / clean_name(f"{env}_{name}")
    return [Run(name, replace(config, seed=seed), folder / f"seed-{seed}") for seed in head.seeds]


def _name_start(run: Path) -> str:
    """Names the run that others start from; seeds of a suite or of `--seeds` with their parent."""
    is_seed = re.fullmatch(r"seed-\d+", run.name) is not None
    return f"{run.parent.name}/{run.name}" if is_seed else run.name


# --- checks before the start ----------------------------------------------------------------------


def check_suite(suite: Suite) -> None:
    """Builds every environment once, and compares the run folders that exist with the suite.

    Raises:
        ConfigError: An environment or the observation of one does not exist, a run folder is of
            other settings or of another version of its environment, or the folder of the runs is a
            run itself or a file.
        EnvironmentContractError: A plug-in cannot be started.
    """
    check_parent("--run-dir", suite.root)
    specs: dict[tuple[Any, ...], Any] = {}
    for run in suite.runs:
        config = run.config
        key = (config.env, config.observe_task, config.observe_terrain, find_mode(config.learner))
        if key not in specs:
            try:
                env = builders.build_env(config)
            except ConfigError as error:
                raise ConfigError(f"{suite.path}: {error}") from error
            specs[key] = env.spec
            env.close()
        check_folder(run, specs[key])


def check_folder(run: Run, spec: Any) -> None:
    """Compares the folder of a run with its settings and the environment, if it exists.

    Raises:
        ConfigError: It is of other settings or another version of the environment, or is longer.
    """
    if not (run.folder / "config.yaml").is_file():
        return
    hint = "move it away, or choose another --run-dir"
    recorded = from_yaml(run.folder / "config.yaml")
    if recorded.init_from is not None:
        recorded = replace(recorded, init_from=recorded.init_from.resolve())
    for name, (old, new) in find_changes(recorded, run.config).items():
        raise ConfigError(f"{run.folder} has {name} {old}, now {new}; {hint}")
    if line := provenance.describe_version_change(run.folder, spec):
        raise ConfigError(f"{line}; {hint}")
    done = newest_step(run.folder) or 0
    if done > run.config.iterations:
        raise ConfigError(
            f"{run.folder} has {done} iterations, now {run.config.iterations}; {hint}"
        )
