"""Compares few-shot learners over seeds, and returns one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metarl.core.errors import name_failures, require
from metarl.core.ranges import LARGEST_COUNT, MOST_TASKS, require_count, require_seed
from metarl.evaluation.seeds import over_seeds
from metarl.fewshot.names import ITERATIONS, SHOTS
from metarl.fewshot.registry import check_learner, make_learner, make_problem
from metarl.fewshot.training import measure, train

NUM_STEPS = 10
"""Adaptation steps at the test, as in the regression of Finn et al. 2017."""

LARGEST = 100.0
"""Squared error that a task counts with at most. After more steps than a learner was trained for, a
few tasks diverge; their errors, up to infinity, would be all that a mean shows."""


@dataclass(frozen=True)
class Comparison:
    """Settings of a comparison.

    Attributes:
        task: Name of the tasks.
        algos: Names of learners.
        shots: Examples of a task, of each class in a classification; 0 takes the task's default.
        ways: Classes of a classification.
        iterations: Meta-updates.
        seeds: One training each.
        num_tasks: Held-out tasks of each seed.
    """

    task: str
    algos: tuple[str, ...]
    shots: int = 0
    ways: int = 3
    iterations: int = ITERATIONS
    seeds: tuple[int, ...] = (0, 1, 2)
    num_tasks: int = 600

    @property
    def num_shots(self) -> int:
        """Examples of a task, of each class in a classification."""
        return self.shots or SHOTS.get(self.task, 1)


def compare(comparison: Comparison, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Trains and measures every learner with every seed, one after another.

    Args:
        comparison: Its settings.
        report: Called with a line after each training.

    Returns:
        A tree for JSON: the settings and `rows`, one for each learner, with `steps`, and for each
        of these `mean`, `stderr` and `ci95` over seeds and their tasks, `per_seed`, and
        `share_cut`, the share of tasks whose error was cut at LARGEST; further `seconds` and
        `cpu_seconds` of each training. `steps` is 0 .. K for gradient steps, [0, 1] for a learner
        that adapts at once, [1] for one that predicts nothing before.

    Raises:
        ConfigError: A setting is unusable; nothing has been trained.
        NumericalError: A loss is not finite; names learner, seed and iteration.
    """
    check(comparison)
    rows, notes = [], ""
    for algo in comparison.algos:
        row, notes = _measure_algo(comparison, algo, report)
        rows.append(row)
    is_classification = comparison.task == "digits"
    return {
        "task": comparison.task,
        "shots": comparison.num_shots,
        "ways": comparison.ways if is_classification else None,
        "iterations": comparison.iterations,
        "seeds": list(comparison.seeds),
        "num_tasks": comparison.num_tasks,
        "score": "accuracy" if is_classification else "mean squared error",
        "intervals": notes,
        "rows": rows,
    }


def check(comparison: Comparison) -> None:
    """Raises ConfigError if a setting is unusable."""
    seeds, algos = comparison.seeds, comparison.algos
    require(len(algos) > 0, "algos", algos, "at least one learner")
    require(len(set(algos)) == len(algos), "algos", algos, "distinct")
    require(isinstance(seeds, Sequence) and len(seeds) > 0, "seeds", seeds, "at least one seed")
    for seed in seeds:
        require_seed(seed)
    require(len(set(seeds)) == len(seeds), "seeds", seeds, "distinct")
    require_count("shots", comparison.shots, 0, LARGEST_COUNT)
    require_count("iterations", comparison.iterations, 0, LARGEST_COUNT)
    require_count("num_tasks", comparison.num_tasks, 2, MOST_TASKS)
    has_effect = comparison.task == "digits" or comparison.ways == Comparison.ways
    require(has_effect, "ways", comparison.ways, f"left out for the task {comparison.task}")
    make_problem(comparison.task, comparison.num_shots, comparison.ways, seeds[0])
    for algo in algos:
        check_learner(algo, comparison.task)


def limit(scores: np.ndarray) -> np.ndarray:
    """Returns scores of at most LARGEST; NaN is a diverged task too."""
    return np.nan_to_num(scores, nan=LARGEST, posinf=LARGEST).clip(max=LARGEST)


def _measure_algo(
    comparison: Comparison, algo: str, report: Callable[[str], None]
) -> tuple[dict[str, Any], str]:
    """Returns the row of one learner, and a text about its intervals."""
    runs, trainings, task = [], [], comparison.task
    for seed in comparison.seeds:
        problem = make_problem(task, comparison.num_shots, comparison.ways, seed)
        learner = make_learner(algo, task, problem)
        with name_failures(f"{algo}, seed {seed}"):
            trained = train(learner, problem, comparison.iterations, seed)
            size = comparison.num_tasks
            scores = measure(learner, problem, trained.params, size, NUM_STEPS, seed)
        names = [f"{seed}/{number}" for number in range(size)]  # every task is a new draw
        runs.append((names, scores))
        trainings.append(trained)
        steps = list(range(len(scores))) if len(scores) > 1 else [1]
        shown = scores[steps.index(1)].mean()
        report(f"{algo}, seed {seed}: {shown:.3f} after one step, {trained.seconds:.0f} s")
    pooled = over_seeds([(names, limit(scores)) for names, scores in runs], comparison.seeds[0])
    row = {
        "algo": algo,
        "steps": steps,
        **{name: pooled.returns[name] for name in ("mean", "stderr", "ci95")},
        "per_seed": [[float(limit(own)[k].mean()) for _, own in runs] for k in range(len(steps))],
        "share_cut": [
            float(np.mean([limit(own)[k] >= LARGEST for _, own in runs])) for k in range(len(steps))
        ],
        "seconds": [trained.seconds for trained in trainings],
        "cpu_seconds": [trained.cpu_seconds for trained in trainings],
    }
    return row, pooled.intervals
