"""Evaluations as they lie in run folders: evaluation.json read, put together over seeds, and shown as a table.

Needs no torch, no environment and no learner, so it reads what older versions wrote.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from metarl.core.errors import CheckpointError, ConfigError
from metarl.evaluation import statistics

FILE = "evaluation.json"


def read(run: Path) -> dict[str, Any]:
    """Reads evaluation.json of a run folder.

    Raises:
        CheckpointError: It is missing, damaged, or has not the entries 0 .. K everywhere; the message says how to make it.
    """
    path, cure = run / FILE, f"make it with: python -m metarl evaluate {run}"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        result["env"]
        _check_lengths(result)
    except (OSError, ValueError, KeyError, TypeError) as error:
        words = str(error) if isinstance(error, ValueError) else repr(error)
        raise CheckpointError(f"{path} cannot be read ({words}); {cure}") from error
    return result


def _check_lengths(result: Mapping[str, Any]) -> None:
    """Raises a ValueError that names a list without one entry for each number of adaptations."""
    returns, length = result["returns"], len(result["returns"]["mean"])
    lists = {f"returns.{name}": returns[name] for name in ("stderr", "ci95", "per_task")}
    lists |= {f"experience.{name}": values for name, values in experience(result).items()}
    if "faulted_episodes" in result:
        lists["faulted_episodes"] = result["faulted_episodes"]
    for name, values in lists.items():
        if len(values) != length:
            raise ValueError(f"{name} has {len(values)} entries, returns.mean {length}")


def write(path: Path, result: dict[str, Any]) -> None:
    """Writes evaluation.json aside and renames it once."""
    text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def experience(result: Mapping[str, Any]) -> dict[str, list[float]]:
    """Mean experience in a task before the episodes of entry k, of a result or of one written before it was recorded."""
    if "experience" in result:
        return result["experience"]
    return statistics.count_experience(
        result["env_steps_per_rollout"], result["episodes_per_task"], pools=True
    )


def complete(result: Mapping[str, Any]) -> dict[str, Any]:
    """Adds to a result what those who wrote it left out: interquartile means, strata, faults; keeps all that is there."""
    returns, length = result["returns"], len(result["returns"]["mean"])
    found = {"faulted_episodes": [0] * length, "experience": experience(result), **result}
    if "iqm" not in returns:
        pooled, strata = statistics.over_tasks(
            [(result["tasks"], np.array(returns["per_task"]))], 0
        )
        found = {"strata": strata, **found, "returns": {**pooled, **returns}}
    return found


def aggregate(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Puts the evaluations of several seeds together.

    Args:
        results: Contents of evaluation.json, of one environment and one learner with the same number of adaptations.

    Returns:
        A tree for JSON like that of one evaluation. `per_seed` holds the runs' means and `stderr_over_seeds` the standard
        error of their mean: the intervals, stratified by seed, are about these runs and say nothing of other seeds.

    Raises:
        ValueError: They disagree on what was measured, or two have the same seed; names both values.
    """
    first = results[0]
    for name in ("env", "env_version", "algo"):
        _same(name, [result.get(name) for result in results])
    _same("number of adaptations", [len(result["returns"]["mean"]) - 1 for result in results])
    seeds = [result.get("seed") for result in results]
    for seed in seeds:
        if seed is not None and seeds.count(seed) > 1:
            raise ValueError(f"two runs have seed {seed}; they are no two samples")
    runs = [(r["tasks"], np.array(r["returns"]["per_task"])) for r in results]
    returns, strata = statistics.over_tasks(runs, 0)
    means = np.array([result["returns"]["mean"] for result in results])
    spread = stats.sem(means, axis=0).tolist() if len(means) > 1 else [None] * means.shape[1]
    met = [experience(result) for result in results]
    sizes = [result["episodes_per_task"] for result in results]
    worse = np.concatenate([per_task for _, per_task in runs], axis=1)
    return {
        **{name: first.get(name) for name in ("env", "env_version", "algo")},
        "seeds": seeds,
        "checkpoints": [result.get("checkpoint") for result in results],
        "num_tasks": sum(result["num_tasks"] for result in results),
        "episodes_per_task": sizes[0] if len(set(sizes)) == 1 else sizes,
        "held_out": first["held_out"],
        "note": first["note"],
        "experience": {
            name: np.mean([each[name] for each in met], axis=0).tolist()
            for name in ("episodes", "env_steps")
        },
        "strata": strata,
        "returns": {**returns, "per_seed": means.T.tolist(), "stderr_over_seeds": spread},
        "share_of_tasks_made_worse": statistics.share_made_worse(worse),
        "faulted_episodes": np.sum(
            [result.get("faulted_episodes", [0] * means.shape[1]) for result in results], axis=0
        ).tolist(),
        "floors": first["floors"],
    }


def _same(name: str, values: Sequence[Any]) -> None:
    other = next((value for value in values if value != values[0]), values[0])
    if other != values[0]:
        raise ValueError(f"the runs differ in {name}: {values[0]} and {other}")


def read_oracle(run: Path, env: str) -> dict[str, Any]:
    """Reads what a policy that observes the task reaches, from the evaluation of its run.

    Args:
        run: Run folder of the oracle.
        env: The environment that it is compared on.

    Returns:
        `run`, and `mean` and `ci95` of its last entry: a final value, not the largest.

    Raises:
        CheckpointError: There is no evaluation that can be read; the message says how to make one.
        ConfigError: It is of another environment.
    """
    result = read(run)
    if result["env"] != env:
        raise ConfigError(f"--oracle {run}: it is of {result['env']}, not of {env}")
    returns = result["returns"]
    return {"run": run.name, "mean": returns["mean"][-1], "ci95": returns["ci95"][-1]}


EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class EvaluationSettings:
    """STUB."""

    num_tasks: int
    num_adaptations: int
    deterministic: bool = False
    tasks: Any = None
    env: Any = None


def evaluation_path(run_dir, settings, default):
    """STUB."""
    if settings == default:
        return run_dir / EVALUATION
    import hashlib

    (run_dir / "evaluations").mkdir(exist_ok=True)
    return run_dir / "evaluations" / f"{hashlib.md5(repr(settings).encode()).hexdigest()}.json"
