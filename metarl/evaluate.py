"""Evaluation: the trial without the update, on held-out tasks, with honest statistics.

The task is the unit: episodes of one task are averaged first, and standard errors and intervals are over tasks.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from metarl.collect import Key, trial
from metarl.errors import naming_failures
from metarl.rng import stream
from metarl.threads import one_torch_thread
from metarl.types import BatchEnv, Learner

BOOTSTRAP_RESAMPLES = 10_000


@dataclass(frozen=True)
class Evaluation:
    """Returns of a learner on tasks, adaptation by adaptation.

    Attributes:
        tasks: (N, D).
        returns: (K + 1, N, E) undiscounted, policy noise on.
        env_steps: Mean environment steps of one task in one rollout, for each of the K + 1.
    """

    tasks: np.ndarray
    returns: np.ndarray
    env_steps: list[float]


def held_out_tasks(spec: Any, seed: int, num_tasks: int) -> np.ndarray:
    """Draws test tasks (num_tasks, D) from a stream of their own, so that they are fixed by the seed.

    They come from `spec.tasks.test`, which can be other kinds than those of training. Where the environment has a
    handful of tasks only (`spec.tasks.held_out` is false) they are the training tasks, and `spec.note` says so.
    """
    # a plug-in's distribution may have no twin
    return getattr(spec.tasks, "test", spec.tasks).sample(stream(seed, "test-tasks"), num_tasks)


def evaluate(
    env: BatchEnv,
    learner: Learner[Any],
    tasks: np.ndarray,
    *,
    num_episodes: int,
    num_adaptations: int,
    key: Key,
) -> Evaluation:
    """Runs one trial on the tasks.

    Args:
        env: The environment.
        learner: The learner; it is not changed.
        tasks: (N, D).
        num_episodes: E, episodes per task and rollout, as many as the learner adapts from.
        num_adaptations: K.
        key: The streams.

    Returns:
        The returns after 0..K adaptations; they do not depend on the number of threads.

    Raises:
        NumericalError: A gradient of the adaptation is not finite.
        EnvironmentContractError: A task had no valid step to adapt to.
    """
    with naming_failures(f"evaluation of {env.spec.name}"), one_torch_thread():
        rollouts, _ = trial(env, learner, tasks, num_episodes, num_adaptations, key)
    returns = np.stack([r.returns().numpy() for r in rollouts])
    return Evaluation(tasks, returns, [r.num_steps() / len(tasks) for r in rollouts])


@dataclass(frozen=True)
class Interval:
    """A mean over tasks.

    Attributes:
        mean: Mean of the tasks' mean returns.
        stderr: Its standard error over tasks; NaN for one task.
        low: Lower end of the 95 % percentile bootstrap interval.
        high: Upper end.
    """

    mean: float
    stderr: float
    low: float
    high: float


def interval(per_task: np.ndarray, rng: np.random.Generator) -> Interval:
    """Averages over tasks, with a standard error and a 95 % percentile bootstrap interval.

    Args:
        per_task: Mean return of each task (N,).
        rng: The stream of the resampling.

    Returns:
        The interval; its ends are NaN for a single task.
    """
    mean = float(per_task.mean())
    if len(per_task) < 2:
        return Interval(mean, math.nan, math.nan, math.nan)
    result = stats.bootstrap(
        (per_task,),
        np.mean,
        n_resamples=BOOTSTRAP_RESAMPLES,
        method="percentile",
        rng=rng,
    ).confidence_interval
    return Interval(mean, float(stats.sem(per_task)), float(result.low), float(result.high))


def summary(evaluation: Evaluation, spec: Any, algo: str, seed: int) -> dict[str, Any]:
    """Builds the contents of evaluation.json.

    Args:
        evaluation: What was measured.
        spec: The environment's spec: name, floors, note, variables of a task.
        algo: Name of the learner.
        seed: Seed of the bootstrap.

    Returns:
        A tree for JSON; NaN (one task has no standard error) becomes null.
    """
    per_task = evaluation.returns.mean(axis=2)
    rows = [interval(row, stream(seed, "bootstrap", k)) for k, row in enumerate(per_task)]
    worse = [float((row < per_task[0]).mean()) for row in per_task]
    return {
        "env": spec.name,
        "env_version": spec.version,
        "algo": algo,
        "num_tasks": evaluation.returns.shape[1],
        "episodes_per_task": evaluation.returns.shape[2],
        "env_steps_per_rollout": evaluation.env_steps,
        "held_out": spec.tasks.held_out,
        "note": spec.note,
        "returns": {
            "mean": [row.mean for row in rows],
            "stderr": [_finite(row.stderr) for row in rows],
            "ci95": [[_finite(row.low), _finite(row.high)] for row in rows],
            "per_task": per_task.tolist(),
        },
        "share_of_tasks_made_worse": worse,
        "task_variables": [{"name": v.name, "unit": v.unit} for v in spec.tasks.variables],
        "tasks": evaluation.tasks.tolist(),
        "floors": spec.floors,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def table(result: dict[str, Any]) -> str:
    """Writes a summary for people."""
    kind = "held-out tasks" if result["held_out"] else "tasks (test = train)"
    lines = [
        f"{result['env']}  {result['algo']}  {result['num_tasks']} {kind} x "
        f"{result['episodes_per_task']} episodes",
        f"{'adaptations':>11}  {'return':>9}  {'std.err.':>8}  {'95 % interval':>20}  {'made worse':>10}",
    ]
    returns = result["returns"]
    for k, mean in enumerate(returns["mean"]):
        stderr, (low, high) = returns["stderr"][k], returns["ci95"][k]
        error = "-" if stderr is None else f"{stderr:.2f}"
        ends = "-" if low is None else f"[{low:.1f}, {high:.1f}]"
        worse = f"{100 * result['share_of_tasks_made_worse'][k]:.0f} %" if k else ""
        lines.append(f"{k:>11}  {mean:>9.2f}  {error:>8}  {ends:>20}  {worse:>10}")
    floors = ", ".join(f"{name} {value:.1f}" for name, value in result["floors"].items())
    lines.append(f"floors: {floors or 'not known'}")
    if result["note"]:
        lines.append(f"note: {result['note']}")
    return "\n".join(lines)


def write(path: Path, result: dict[str, Any]) -> None:
    """Writes evaluation.json aside and renames it once."""
    text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
