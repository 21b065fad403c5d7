"""Readers of run folders, also those of older versions, and their grouping by experiment.

Builds no environment and no learner, so a folder is readable without the code of its run.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from metarl.config.changes import FREE_ON_RESUME
from metarl.core.errors import CheckpointError, ConfigError
from metarl.core.machine.files import load_json
from metarl.core.machine.yaml_files import load_yaml
from metarl.core.messages import printable, printable_tree
from metarl.core.trees import flatten
from metarl.evaluation import results
from metarl.learners.modes import label_settings
from metarl.runs.logger import read_records
from metarl.runs.published import name_of, output_path

EXPLANATION = "explain.json"
"""File of an explanation, as `metarl explain` writes it."""

_FREE_KEYS = {"seed"} | FREE_ON_RESUME
"""Keys of config.yaml, and groups of keys, in which runs of one group may differ."""

_VIDEOS = {".mp4", ".gif", ".html"}


@dataclass(frozen=True)
class RunData:
    """Contents of a run folder, for a published policy with what was made of it in `runs/`.

    Attributes:
        path: The folder.
        name: Name in a report, where it is unique.
        config: config.yaml with dotted keys.
        metrics: Columns of metrics.jsonl, one entry an iteration, NaN where a record lacks it.
        record: run.json, empty if there is none.
        evaluation: evaluation.json, None if there is none.
        videos: Paths of films and replays.
        other_evaluations: Paths of the evaluations with other settings, in evaluations/, and of a
            published policy also those that were made of it.
        explanation: explain.json, None if there is none.
    """

    path: Path
    name: str
    config: dict[str, Any]
    metrics: dict[str, np.ndarray]
    record: dict[str, Any]
    evaluation: dict[str, Any] | None
    videos: tuple[Path, ...]
    other_evaluations: tuple[Path, ...] = ()
    explanation: dict[str, Any] | None = None

    @property
    def env(self) -> str:
        """Name of the environment."""
        return str(self.config["env"])

    @property
    def algo(self) -> str:
        """Name of the learner."""
        return str(self.config["algo"])

    @property
    def label(self) -> str:
        """Name of the learner, with the mode of a baseline and additional observations."""
        return label_settings(self.config)

    @property
    def seed(self) -> Any:
        """Seed of the run."""
        return self.config.get("seed")

    @property
    def start(self) -> str:
        """Run that a fine-tuned one starts from, and its length, for people; "" without one."""
        source = self.record.get("init_from")
        if not isinstance(source, dict) or not isinstance(source.get("run"), str):
            return ""
        steps = source.get("env_steps")
        length = f" ({steps:,} steps)" if isinstance(steps, int) else ""
        return f"{Path(source['run']).name}{length}, whose training is not counted"

    def column(self, name: str) -> np.ndarray:
        """Returns a column of the metrics, all NaN if no record has it."""
        return self.metrics.get(name, np.full(len(self.metrics["iteration"]), np.nan))


@dataclass(frozen=True)
class Group:
    """Runs of one learner with the same settings on one environment: the seeds of one experiment.

    Attributes:
        label: Name of the learner, with the settings in which the groups of its environment differ.
        runs: The runs, one for each seed.
    """

    label: str
    runs: tuple[RunData, ...]

    @property
    def env(self) -> str:
        """Name of the environment."""
        return self.runs[0].env

    @cached_property
    def result(self) -> dict[str, Any] | None:
        """The combined evaluations, None without any; of one run, the numbers of its file."""
        found = [run.evaluation for run in self.runs if run.evaluation is not None]
        if not found:
            return None
        combined = results.aggregate(found)
        if len(found) == 1:
            combined["returns"] |= found[0]["returns"]
            combined |= {k: found[0][k] for k in ("oracle", "without_noise") if k in found[0]}
        return combined


def load_all(paths: Sequence[Path]) -> list[RunData]:
    """Reads run folders and gives them names; two with one name are called by their paths.

    Raises:
        CheckpointError: One is no run folder or has an unreadable file; names file and cause.
    """
    runs = [load(path) for path in paths]
    names = [run.name for run in runs]
    return [
        replace(run, name=printable(run.path)) if names.count(run.name) > 1 else run for run in runs
    ]


def load(path: Path) -> RunData:
    """Reads a run folder.

    Raises:
        CheckpointError: It is no run folder or has an unreadable file; names file and cause.
    """
    try:
        config = printable_tree(flatten(load_yaml(path / "config.yaml")))
        if "env" not in config or "algo" not in config:
            raise ConfigError(f"{path / 'config.yaml'}: has no env and algo")
    except ConfigError as error:
        raise CheckpointError(f"{path} is not a run folder: {error}") from error
    evaluation = None
    if (path / results.FILE).exists():
        evaluation = {"seed": config.get("seed"), **results.read(path)}
    folders = list(dict.fromkeys((path, output_path(path))))  # a published policy has two
    files = [file for folder in folders for file in sorted((folder / "videos").glob("*"))]
    videos = [file for file in files if file.suffix in _VIDEOS and file.name[0] != "."]
    others = [
        file for folder in folders for file in sorted((folder / "evaluations").glob("*.json"))
    ]
    others += [folder / results.FILE for folder in folders[1:] if (folder / results.FILE).exists()]
    explanations = [_read_explanation(folder / EXPLANATION, path) for folder in reversed(folders)]
    return RunData(
        path=path,
        name=printable(name_of(path)),
        config=config,
        metrics=_read_columns(path / "metrics.jsonl"),
        record=_read_record(path / "run.json"),
        evaluation=evaluation,
        videos=tuple(videos),
        other_evaluations=tuple(others),
        explanation=next(filter(None, explanations), None),
    )


def _read_record(path: Path) -> dict[str, Any]:
    """Reads a JSON file; returns nothing if there is none.

    Raises:
        CheckpointError: It cannot be read.
    """
    if not path.exists():
        return {}
    try:
        record = load_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
    return printable_tree(record) if isinstance(record, dict) else {}


def _read_explanation(path: Path, run: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    explanation = _read_record(path)
    if explanation.get("kind") not in ("memory", "parameters"):
        hint = f"make it again with: metarl explain {shlex.quote(str(run))}"
        raise CheckpointError(f"{path} cannot be read (it is no explanation); {hint}")
    return explanation


def _read_columns(path: Path) -> dict[str, np.ndarray]:
    """Returns the numbers of all records by name."""
    rows = [record for _, record in read_records(path)]
    names = {"iteration": None}
    for row in rows:
        names |= dict.fromkeys(k for k, v in row.items() if isinstance(v, (int, float)))
    return {name: np.array([_to_float(row.get(name)) for row in rows], float) for name in names}


def _to_float(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else np.nan


# --- groups --------------------------------------------------------------------------------------


def group_runs(runs: Sequence[RunData]) -> list[Group]:
    """Sorts runs into groups of seeds; runs and groups keep the given order.

    A key that a run of an older version lacks counts as equal. Two runs with one seed are two
    groups.
    """
    members: list[list[RunData]] = []
    for run in runs:
        match = next((group for group in members if _belongs(run, group)), None)
        if match is None:
            members.append([run])
        else:
            match.append(run)
    return [Group(_make_label(group, members), tuple(group)) for group in members]


def _select_settings(run: RunData) -> dict[str, Any]:
    return {
        key: value
        for key, value in run.config.items()
        if not {key, key.partition(".")[0]} & _FREE_KEYS
    }


def _belongs(run: RunData, group: Sequence[RunData]) -> bool:
    for other in group:
        mine, theirs = _select_settings(run), _select_settings(other)
        if run.label != other.label:
            return False
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


def _make_label(group: Sequence[RunData], groups: Sequence[Sequence[RunData]]) -> str:
    """Returns the learner's name, with the settings that distinguish the group, or the run's name.

    At most three settings are shown.
    """
    first = group[0]
    others = [
        other[0] for other in groups if other[0].env == first.env and other[0].label == first.label
    ]
    if len(others) == 1:
        return first.label
    keys = [key for key in differences(others) if key in _select_settings(first)]
    if not keys or len(keys) > 3:
        return f"{first.label} ({first.name})"
    settings = ", ".join(f"{key.rpartition('.')[2]} {first.config[key]}" for key in keys)
    alike = [other for other in others if all(other.config.get(k) == first.config[k] for k in keys)]
    return f"{first.label} ({settings if len(alike) == 1 else first.name})"


def differences(runs: Sequence[RunData]) -> list[str]:
    """Returns the keys of config.yaml that differ between runs, or that a run lacks."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    missing = object()
    return [
        key
        for key in keys
        if any(run.config.get(key, missing) != runs[0].config.get(key, missing) for run in runs)
    ]
