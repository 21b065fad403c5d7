"""Evaluations in run folders: their paths, reading, writing, and aggregation over seeds.

Needs no torch, no environment and no learner, so it reads the files of older versions.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from metarl.core.errors import CheckpointError, ConfigError
from metarl.core.machine.files import load_json, write_atomically
from metarl.core.machine.yaml_files import load_yaml
from metarl.core.messages import printable_tree
from metarl.core.trees import check_form
from metarl.evaluation import seeds, statistics

FILE = "evaluation.json"


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings that decide the numbers of an evaluation; the defaults are those after training.

    Attributes:
        num_tasks: Held-out tasks.
        num_adaptations: K.
        deterministic: Measure the mode of the policy.
        env: Another environment than that of the training, or "".
        tasks: Chosen tasks, rows of D numbers, in place of held-out ones.
        is_teacher: Measure the teacher of a student.
    """

    num_tasks: int = 20
    num_adaptations: int = 3
    deterministic: bool = False
    env: str = ""
    tasks: tuple[tuple[float, ...], ...] = ()
    is_teacher: bool = False


def settings_of(result: Mapping[str, Any]) -> EvaluationSettings:
    """Returns the size of an evaluation of held-out tasks, as it was recorded."""
    return EvaluationSettings(result["num_tasks"], len(result["returns"]["mean"]) - 1)


def evaluation_path(run_dir: Path, settings: EvaluationSettings) -> Path:
    """Returns the path of an evaluation in `evaluations/`; its name has all settings.

    So evaluations with different settings never overwrite each other. A name is, for example,
    `tasks-40_adaptations-1_deterministic_env-ant-vel.json`.
    """
    parts = []
    if settings.tasks:
        rows = (",".join(f"{float(value)!r}" for value in task) for task in settings.tasks)
        parts.append("task-" + "+".join(rows))
    else:
        parts.append(f"tasks-{settings.num_tasks}")
    parts.append(f"adaptations-{settings.num_adaptations}")
    if settings.deterministic:
        parts.append("deterministic")
    if settings.is_teacher:
        parts.append("teacher")
    if settings.env:
        parts.append("env-" + settings.env)
    exact = "_".join(parts)
    slug = re.sub(r"[^\w.,+-]+", "-", exact)
    if slug != exact or len(slug) > _MAX_SLUG:  # a digest keeps different settings apart
        slug = f"{slug[:_MAX_SLUG]}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"
    return run_dir / "evaluations" / f"{slug}.json"


_MAX_SLUG = 100
"""Characters; a file system takes names of 255 bytes."""


def read(run: Path) -> dict[str, Any]:
    """Reads evaluation.json of a run folder.

    Raises:
        CheckpointError: It is missing, damaged, or lacks an entry of 0..K; the message has the
            command that makes it.
    """
    path, hint = run / FILE, f"make it with: python -m metarl evaluate {shlex.quote(str(run))}"
    try:
        result = load_json(path)
        check_form(result, _FORM)
        _check_lengths(result)
    except (OSError, ValueError, KeyError, TypeError) as error:
        cause = str(error) if isinstance(error, ValueError) else repr(error)
        raise CheckpointError(f"{path} cannot be read ({cause}); {hint}") from error
    return printable_tree(result)


_LARGEST = 1e100
"""Largest number that can be drawn and squared."""

_NUMBERS = [float]
_ERRORS = [(float, type(None))]
"""Errors and ends of intervals, which a single task does not have."""

_RETURNS = {
    "mean": _NUMBERS,
    "per_task": [_NUMBERS],
    "ci95": [_ERRORS],
    "stderr?": _ERRORS,
    "iqm?": _NUMBERS,
    "iqm_ci95?": [_ERRORS],
}
_DISTANCE = {"mean": _NUMBERS, "per_task": [_NUMBERS], "ci95": [_ERRORS]}
_FORM = {
    "env": str,
    "algo": str,
    **{f"{name}?": (int, type(None)) for name in ("env_version", "seed")},
    "num_tasks": int,
    "episodes_per_task": int,
    "env_steps_per_rollout?": _NUMBERS,
    **{f"{name}?": bool for name in ("held_out", "deterministic", "chosen_tasks")},
    "note?": str,
    "trained_on?": str,
    "returns": {**_RETURNS, "stderr": _ERRORS},
    "without_noise?": {"returns": _RETURNS, "distance?": _DISTANCE},
    "distance?": _DISTANCE,
    "share_of_tasks_made_worse": _NUMBERS,
    "faulted_episodes?": [int],
    "task_variables": [{"name": str, "unit": str}],
    "tasks": ([_NUMBERS], [{}]),
    "floors": {"*": float},
    "experience?": {"*": _NUMBERS},
    "checkpoint?": {"iteration": int, "env_steps": int},
    "intervals?": str,
}
"""Form of evaluation.json, as far as it is read."""


def _check_lengths(result: Mapping[str, Any]) -> None:
    """Raises a ValueError that names a list whose length is not K + 1."""
    returns, length = result["returns"], len(result["returns"]["mean"])
    names = ("stderr", "ci95", "per_task", "iqm", "iqm_ci95")
    lists = {f"returns.{name}": returns[name] for name in names if name in returns}
    lists |= {f"experience.{name}": values for name, values in experience(result).items()}
    if "without_noise" in result:
        quiet = result["without_noise"]["returns"]
        names = ("mean", "ci95", "per_task")
        lists |= {f"without_noise.returns.{name}": quiet[name] for name in names}
    for prefix, tree in (("", result), ("without_noise.", result.get("without_noise", {}))):
        of_tree = tree.get("distance", {})
        lists |= {f"{prefix}distance.{name}": of_tree[name] for name in _DISTANCE if of_tree}
    counts = ("share_of_tasks_made_worse", "faulted_episodes")
    lists |= {name: result[name] for name in counts if name in result}
    for name, values in lists.items():
        if len(values) != length:
            raise ValueError(f"{name} has {len(values)} entries, returns.mean {length}")
        widths = {"ci95": 2, "iqm_ci95": 2, "per_task": len(result["tasks"])}
        width = widths.get(name.rpartition(".")[2])
        if width is not None and any(len(row) != width for row in values):
            raise ValueError(f"a row of {name} has not {width} entries")
    names, tasks = len(result["task_variables"]), result["tasks"]
    lists |= {"returns.mean": returns["mean"], "tasks": tasks}
    for name, values in {**lists, "floors": list(result["floors"].values())}.items():
        if any(abs(number) > _LARGEST for number in _numbers(values)):
            raise ValueError(f"{name} has a number beyond {_LARGEST:g}")
    is_rows = any(isinstance(row, list) for row in tasks)  # older versions wrote records, too
    if not length or not tasks or (is_rows and any(len(row) != names for row in tasks)):
        raise ValueError(f"tasks must be a list of rows of {names} numbers")


def _numbers(values: Sequence[Any]) -> list[float]:
    """Returns the numbers of a list, or of a list of rows."""
    rows = (each if isinstance(each, list) else [each] for each in values)
    return [number for row in rows for number in row if isinstance(number, (int, float))]


def write(path: Path, result: dict[str, Any]) -> None:
    """Writes an evaluation as JSON, atomically; creates its folder."""
    text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, text)


def describe_difference(run: Path, result: Mapping[str, Any]) -> str:
    """Compares the mean returns of an evaluation with those of evaluation.json in a run folder.

    Returns:
        One line; empty if the two are of other tasks or settings.
    """
    recorded = read(run)
    for name in ("env", "num_tasks", "deterministic", "chosen_tasks"):
        if recorded.get(name) != result.get(name):
            return ""
    pairs = list(zip(recorded["returns"]["mean"], result["returns"]["mean"], strict=False))
    text = ", ".join(f"{before:.2f}" for before, _ in pairs)
    largest = max(abs(before - now) for before, now in pairs)
    return f"recorded in {run / FILE}: {text}; largest difference {largest:.2g}"


def experience(result: Mapping[str, Any]) -> dict[str, list[float]]:
    """Returns the mean experience in a task before entry k, also for results that lack it."""
    if "experience" in result:
        return result["experience"]
    return statistics.count_experience(
        result["env_steps_per_rollout"], result["episodes_per_task"], pools=True
    )


def complete(result: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the entries that older versions did not write, but returns without noise."""
    returns, length = result["returns"], len(result["returns"]["mean"])
    counts = {"faulted_episodes": [0] * length, "experience": experience(result)}
    full = {"held_out": None, "note": "", **counts, **result}
    if "intervals" not in full:
        full = {**full, "intervals": statistics.describe_intervals(result["tasks"])}
    if "iqm" not in returns:
        pooled = statistics.over_tasks(result["tasks"], np.array(returns["per_task"]), 0)
        full = {"strata": pooled.strata, **full, "returns": {**pooled.returns, **returns}}
    return full


def aggregate(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Combines the evaluations of several seeds.

    Args:
        results: Contents of evaluation.json, of one environment and one learner with the same K.

    Returns:
        A tree for JSON like that of one evaluation. `per_seed` has the means of the runs and
        `stderr_over_seeds` the standard error of their mean. The intervals are about a freshly
        trained seed, see `seeds`; `intervals` says so. `without_noise` is there if every run has
        it.

    Raises:
        ConfigError: Environment, learner or K differ, or two seeds are equal; names both values.
    """
    first = results[0]
    for name in ("env", "env_version", "algo"):
        _require_equal(name, [result.get(name) for result in results])
    for name in ("deterministic", "chosen_tasks"):
        _require_equal(name, [result.get(name, False) for result in results])
    _require_equal("trained_on", [result.get("trained_on", result["env"]) for result in results])
    _require_equal(
        "number of adaptations", [len(result["returns"]["mean"]) - 1 for result in results]
    )
    names = [result.get("seed") for result in results]
    for name in names:
        if name is not None and names.count(name) > 1:
            raise ConfigError(f"two runs have seed {name}; they are not two samples")
    experiences = [experience(result) for result in results]
    sizes = [result["episodes_per_task"] for result in results]
    combined, pooled = _combine(results, [result["tasks"] for result in results])
    if all("without_noise" in result for result in results):
        quiet = [result["without_noise"] for result in results]
        combined["without_noise"], _ = _combine(quiet, [result["tasks"] for result in results])
    return {
        **{name: first.get(name) for name in ("env", "env_version", "algo")},
        "seeds": names,
        "checkpoints": [result.get("checkpoint") for result in results],
        "num_tasks": sum(result["num_tasks"] for result in results),
        "episodes_per_task": sizes[0] if len(set(sizes)) == 1 else sizes,
        "deterministic": first.get("deterministic", False),
        "trained_on": first.get("trained_on", first["env"]),
        "chosen_tasks": first.get("chosen_tasks", False),
        "held_out": first.get("held_out"),
        "note": first.get("note", ""),
        "experience": {
            name: np.mean([each[name] for each in experiences], axis=0).tolist()
            for name in ("episodes", "env_steps")
        },
        "strata": pooled.strata,
        "intervals": pooled.intervals,
        **combined,
        "floors": first["floors"],
    }


def _combine(
    results: Sequence[Mapping[str, Any]], tasks: Sequence[Any]
) -> tuple[dict[str, Any], statistics.Pooled]:
    """Combines the returns of seeds and their counts; returns the estimates too."""
    per_task = [np.array(result["returns"]["per_task"]) for result in results]
    pooled = seeds.over_seeds(list(zip(tasks, per_task, strict=True)), 0)
    means = np.array([returns.mean(axis=1) for returns in per_task])
    spread = stats.sem(means, axis=0).tolist() if len(means) > 1 else [None] * means.shape[1]
    faults = [result.get("faulted_episodes", [0] * means.shape[1]) for result in results]
    tree = {
        "returns": {**pooled.returns, "per_seed": means.T.tolist(), "stderr_over_seeds": spread},
        "share_of_tasks_made_worse": statistics.share_made_worse(np.concatenate(per_task, axis=1)),
        "faulted_episodes": np.sum(faults, axis=0).tolist(),
    }
    if all("distance" in result for result in results):
        of_tasks = [np.array(result["distance"]["per_task"]) for result in results]
        far = seeds.over_seeds(list(zip(tasks, of_tasks, strict=True)), 0).returns
        tree["distance"] = {"mean": far["mean"], "ci95": far["ci95"]}
        tree["distance"]["per_task"] = np.concatenate(of_tasks, axis=1).tolist()
    return tree, pooled


def _require_equal(name: str, values: Sequence[Any]) -> None:
    other = next((value for value in values if value != values[0]), values[0])
    if other != values[0]:
        hint = "give runs that have the same"
        raise ConfigError(f"the runs differ in {name}: {values[0]} and {other}; {hint}")


def read_oracle(run: Path, env: str) -> dict[str, Any]:
    """Returns the final return of an oracle, a policy that observes the task.

    Args:
        run: Run folder of the oracle, evaluated.
        env: The environment of the comparison.

    Returns:
        `run`, and `mean` and `ci95` of its last entry, which need not be the largest.

    Raises:
        CheckpointError: The evaluation cannot be read; the message has the command that makes it.
        ConfigError: The oracle is of another environment, or its policy does not observe the task.
    """
    result = read(run)
    file = run / "config.yaml"
    config = load_yaml(file) if file.exists() else {}
    mode = (config.get("learner") or {}).get("mode")
    if config and not (config.get("observe_task") or mode == "oracle"):
        hint = "give a run of --observe-task or of --learner.mode oracle"
        raise ConfigError(f"--oracle {run}: its policy does not observe the task; {hint}")
    if result["env"] != env:
        raise ConfigError(f"--oracle {run}: it is of {result['env']}, not of {env}")
    returns = result["returns"]
    return {"run": run.name, "mean": returns["mean"][-1], "ci95": returns["ci95"][-1]}
