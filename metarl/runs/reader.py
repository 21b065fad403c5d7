"""Run folders as they lie on the disk, also of older versions: read, named, and sorted into groups of seeds.

Builds no environment and no learner: nothing here depends on what a run was made with.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from metarl.core.errors import CheckpointError, ConfigError
from metarl.core.files import load_yaml
from metarl.core.trees import flatten
from metarl.evaluation import results
from metarl.runs.logger import read_records

_NO_SETTINGS = {"seed", "device", "iterations", "sampler.threads"}
"""Keys of config.yaml, beside those of the trainer, in which two samples of the same learner may differ."""

_VIDEOS = {".mp4", ".gif", ".html"}


@dataclass(frozen=True)
class RunData:
    """What a run folder holds.

    Attributes:
        path: The folder.
        name: What to call it, unique in a report.
        config: config.yaml with dotted keys.
        metrics: Columns of metrics.jsonl, NaN where a record lacks the number.
        record: run.json, empty if there is none.
        evaluation: evaluation.json, None if there is none.
        videos: Films and replays.
    """

    path: Path
    name: str
    config: dict[str, Any]
    metrics: dict[str, np.ndarray]
    record: dict[str, Any]
    evaluation: dict[str, Any] | None
    videos: tuple[Path, ...]

    @property
    def env(self) -> str:
        """Name of the environment."""
        return str(self.config["env"])

    @property
    def algo(self) -> str:
        """Name of the learner."""
        return str(self.config["algo"])

    @property
    def seed(self) -> Any:
        """Seed of the run."""
        return self.config.get("seed")

    def column(self, name: str) -> np.ndarray:
        """A column of the metrics, NaN if no record has it."""
        return self.metrics.get(name, np.full(len(self.metrics["iteration"]), np.nan))


@dataclass(frozen=True)
class Group:
    """Runs of one learner with the same settings on one environment: the seeds of one experiment.

    Attributes:
        label: The learner, with the settings that tell it from other groups on the environment.
        runs: The runs.
    """

    label: str
    runs: tuple[RunData, ...]

    @property
    def env(self) -> str:
        """Name of the environment."""
        return self.runs[0].env

    @cached_property
    def result(self) -> dict[str, Any] | None:
        """The evaluations of the runs put together, None without any; of one run the numbers of its file."""
        found = [run.evaluation for run in self.runs if run.evaluation is not None]
        if not found:
            return None
        together = results.aggregate(found)
        if len(found) == 1:
            together["returns"] |= found[0]["returns"]
            together |= {k: found[0][k] for k in ("oracle",) if k in found[0]}
        return together


def load_all(paths: Sequence[Path]) -> list[RunData]:
    """Reads run folders and gives them names.

    Raises:
        CheckpointError: One is no run folder, or what it holds cannot be read; names file and cause.
    """
    runs = [load(path) for path in paths]
    names = [run.name for run in runs]
    return [replace(run, name=str(run.path)) if names.count(run.name) > 1 else run for run in runs]


def load(path: Path) -> RunData:
    """Reads a run folder.

    Raises:
        CheckpointError: It is no run folder, or what it holds cannot be read; names file and cause.
    """
    try:
        config = flatten(load_yaml(path / "config.yaml"))
        if "env" not in config or "algo" not in config:
            raise ConfigError(f"{path / 'config.yaml'}: has no env and algo")
    except ConfigError as error:
        raise CheckpointError(f"{path} is not a run folder: {error}") from error
    evaluation = None
    if (path / results.FILE).exists():
        evaluation = {"seed": config.get("seed"), **results.read(path)}
    folder = path / "videos"
    videos = sorted(p for p in folder.glob("*") if p.suffix in _VIDEOS and p.name[0] != ".")
    return RunData(
        path=path,
        name=path.resolve().name,
        config=config,
        metrics=_columns(path / "metrics.jsonl"),
        record=_record(path / "run.json"),
        evaluation=evaluation,
        videos=tuple(videos),
    )


def _record(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
    return record if isinstance(record, dict) else {}


def _columns(path: Path) -> dict[str, np.ndarray]:
    """The numbers of every record."""
    rows = [record for _, record in read_records(path)]
    names = {"iteration": None}
    for row in rows:
        names |= dict.fromkeys(k for k, v in row.items() if isinstance(v, (int, float)))
    return {name: np.array([_number(row.get(name)) for row in rows], float) for name in names}


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else np.nan


# -------------------------------------------------------------------------------------------- groups


def group_runs(runs: Sequence[RunData]) -> list[Group]:
    """Sorts runs into groups of seeds, in the order in which they are given.

    Keys that a run of an older version lacks count as equal. Two runs with one seed are two groups.
    """
    members: list[list[RunData]] = []
    for run in runs:
        home = next((group for group in members if _belongs(run, group)), None)
        if home is None:
            members.append([run])
        else:
            home.append(run)
    return [Group(_label(group, members), tuple(group)) for group in members]


def _settings(run: RunData) -> dict[str, Any]:
    return {
        key: value
        for key, value in run.config.items()
        if key not in _NO_SETTINGS and not key.startswith("trainer.")
    }


def _belongs(run: RunData, group: Sequence[RunData]) -> bool:
    for other in group:
        mine, theirs = _settings(run), _settings(other)
        if run.seed == other.seed or any(mine[k] != theirs[k] for k in mine.keys() & theirs):
            return False
        if run.evaluation and other.evaluation:
            both = (run.evaluation, other.evaluation)
            versions, lengths = zip(
                *((e.get("env_version"), len(e["returns"]["mean"])) for e in both), strict=True
            )
            if len(set(versions)) > 1 or len(set(lengths)) > 1:
                return False
    return True


def _label(group: Sequence[RunData], groups: Sequence[Sequence[RunData]]) -> str:
    """The learner, with settings in which it differs from its like on the environment, or else the run's name."""
    first = group[0]
    others = [
        other[0] for other in groups if other[0].env == first.env and other[0].algo == first.algo
    ]
    if len(others) == 1:
        return first.algo
    keys = [key for key in differences(others) if key in _settings(first)]
    if not keys or len(keys) > 3:
        return f"{first.algo} ({first.name})"
    words = ", ".join(f"{key.rpartition('.')[2]} {first.config[key]}" for key in keys)
    alike = [other for other in others if all(other.config.get(k) == first.config[k] for k in keys)]
    return f"{first.algo} ({words})" if len(alike) == 1 else f"{first.algo} ({first.name})"


def differences(runs: Sequence[RunData]) -> list[str]:
    """Keys of config.yaml that are not the same in all runs; a key that one lacks is a difference."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    missing = object()
    return [
        key
        for key in keys
        if any(run.config.get(key, missing) != runs[0].config.get(key, missing) for run in runs)
    ]
