"""Statistics over the tasks of one run: means, interquartile means, errors, bootstrap intervals.

A sample has one number for each task: its mean return; `seeds` combines several runs. The bootstrap
is stratified: it resamples within each stratum and keeps the sizes of the strata. `rliable`
(Agarwal et al. 2021, arXiv:2108.13264) does the same with environments as strata; on such data the
intervals agree up to the error of the resampling. It is not used, as it needs nine packages and
cannot be imported beside pandas 3 (rliable 1.2.0, arch 7.2.0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from metarl.core.rng import stream

RESAMPLES = 10_000
"""Resamples of a bootstrap; they fix an end of an interval to about 1 % of its width."""

MIN_STRATUM = 5
"""Least number of occurrences of each distinct task for which tasks are strata."""


@dataclass(frozen=True)
class Estimate:
    """Estimate of a mean, with errors and intervals; they are NaN for a single number.

    Attributes:
        mean: Mean of all numbers; of several seeds, the mean of their means.
        stderr: Its standard error.
        low: Lower end of the 95 % interval of the mean.
        high: Its upper end.
        iqm: Interquartile mean, the mean of the middle half: robust against a few bad tasks.
        iqm_low: Lower end of its 95 % interval.
        iqm_high: Its upper end.
    """

    mean: float
    stderr: float
    low: float
    high: float
    iqm: float
    iqm_low: float
    iqm_high: float


def interquartile_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Averages the middle half of n numbers: all but the floor(n / 4) smallest and largest."""
    ordered = np.sort(values, axis=axis)
    count = values.shape[axis]
    cut = count // 4
    return np.take(ordered, range(cut, count - cut), axis=axis).mean(axis=axis)


def bootstrap(
    strata: Sequence[np.ndarray], rng: np.random.Generator, *, iqm: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the 95 % percentile interval of the mean of all strata together.

    The interval covered the true mean in 92 % of 4,000 experiments with 20 normal numbers, in 90 %
    with 20 exponential numbers and in 94 % with three strata of 20: percentile intervals of small
    samples are slightly too narrow.

    Args:
        strata: Samples (..., n_s), n_s >= 2, each resampled within itself. Leading axes are
            independent data sets.
        rng: Random stream of the resampling.
        iqm: Use the interquartile mean.

    Returns:
        Lower and upper ends (...).
    """

    def statistic(*samples: np.ndarray, axis: int) -> np.ndarray:
        values = np.concatenate(samples, axis=axis)
        return interquartile_mean(values, axis) if iqm else values.mean(axis=axis)

    interval = stats.bootstrap(
        tuple(strata),
        statistic,
        n_resamples=RESAMPLES,
        batch=1_000,
        vectorized=True,
        axis=-1,
        method="percentile",
        rng=rng,
    ).confidence_interval
    return interval.low, interval.high


def estimate(strata: Sequence[np.ndarray], seed: int, *names: int) -> Estimate:
    """Estimates the mean of a stratified sample, with its standard error and 95 % intervals.

    Args:
        strata: Samples (n_s,). If one has a single number, which cannot be resampled, all become
            one stratum.
        seed: Seed of the resampling.
        *names: Keys of its random stream.

    Returns:
        The estimate; its standard error is from the variances within the strata.
    """
    values = np.concatenate(strata)
    mean, middle = float(values.mean()), float(interquartile_mean(values))
    if len(values) < 2:
        return Estimate(mean, math.nan, math.nan, math.nan, middle, math.nan, math.nan)
    if min(map(len, strata)) < 2:
        strata = [values]
    weights = np.array([len(sample) for sample in strata]) / len(values)
    stderr = math.hypot(*(weights * [stats.sem(sample) for sample in strata]))
    low, high = bootstrap(strata, stream(seed, "bootstrap", *names))
    iqm_low, iqm_high = bootstrap(strata, stream(seed, "bootstrap-iqm", *names), iqm=True)
    return Estimate(mean, stderr, float(low), float(high), middle, float(iqm_low), float(iqm_high))


def split_into_strata(tasks: np.ndarray | Sequence[Any]) -> tuple[list[np.ndarray], bool]:
    """Splits the tasks of one run into strata.

    If every distinct task occurs at least MIN_STRATUM times, and equally often but for a remainder,
    as two directions that are drawn in turn do, each is a stratum: the difference between them is
    not random. Otherwise the tasks are one stratum, a sample of the tasks that could have been
    drawn. So are directions with random frequencies: with +-100 as returns and 20 tasks, strata
    covered the true mean in 31 % of 400 experiments, this rule in 94 %.

    Args:
        tasks: (N, D), or N opaque tasks.

    Returns:
        Indices (n_s,) of each stratum, and whether the strata are distinct tasks.
    """
    places: dict[str, list[int]] = {}
    for index, task in enumerate(tasks):
        places.setdefault(repr(np.asarray(task).tolist()), []).append(index)
    counts = [len(indices) for indices in places.values()]
    if min(counts) < MIN_STRATUM or max(counts) - min(counts) > 1:
        return [np.arange(len(tasks))], False
    return [np.array(indices) for indices in places.values()], True


@dataclass(frozen=True)
class Pooled:
    """Estimates after 0..K adaptations, for JSON.

    Attributes:
        returns: Lists over k of `mean`, `stderr`, `ci95`, `iqm`, `iqm_ci95`.
        strata: "tasks" if each distinct task is a stratum, else "none".
        intervals: Text for people: the samples that the intervals are over.
    """

    returns: dict[str, Any]
    strata: str
    intervals: str


def over_tasks(tasks: np.ndarray | Sequence[Any], per_task: np.ndarray, seed: int) -> Pooled:
    """Estimates the return after 0..K adaptations of one trained policy.

    The intervals are about this policy on other tasks (or, of tasks that are strata, on other
    trials of the same tasks), not about another training.

    Args:
        tasks: (N, D), or N opaque tasks.
        per_task: Their mean returns (K + 1, N).
        seed: Seed of the bootstrap.

    Returns:
        The estimates.
    """
    parts, are_strata = split_into_strata(tasks)
    estimates = [
        estimate([values[part] for part in parts], seed, k) for k, values in enumerate(per_task)
    ]
    strata = "tasks" if are_strata else "none"
    return Pooled(to_lists(estimates), strata, describe_intervals(tasks))


def describe_intervals(tasks: np.ndarray | Sequence[Any]) -> str:
    """Describes the intervals of one run, see `Pooled`."""
    _, are_strata = split_into_strata(tasks)
    over = "over the trials of each task" if are_strata else "over tasks"
    over = over if len(tasks) > 1 else "none of a single task"
    return f"{over}; 1 seed: the spread between trainings is not in it"


def to_lists(estimates: Sequence[Estimate]) -> dict[str, Any]:
    """Returns estimates after 0..K adaptations as lists over k; NaN becomes None."""
    return {
        "mean": [row.mean for row in estimates],
        "stderr": [_finite(row.stderr) for row in estimates],
        "ci95": [[_finite(row.low), _finite(row.high)] for row in estimates],
        "iqm": [row.iqm for row in estimates],
        "iqm_ci95": [[_finite(row.iqm_low), _finite(row.iqm_high)] for row in estimates],
    }


def per_task(returns: np.ndarray, seed: int) -> dict[str, Any]:
    """Averages the episodes of every task.

    The episodes of a rollout share one adaptation: the intervals cover the randomness of episodes
    of one adapted policy, not that of the adaptation.

    Args:
        returns: (K + 1, N, E).
        seed: Seed of the bootstrap.

    Returns:
        K + 1 lists of N numbers: `per_task` (means), `per_task_iqm`, `per_task_stderr`,
        `per_task_ci95`.
    """
    result: dict[str, Any] = {
        "per_task": returns.mean(axis=2).tolist(),
        "per_task_iqm": interquartile_mean(returns, axis=2).tolist(),
    }
    if returns.shape[2] < 2:
        none = [[None] * returns.shape[1]] * len(returns)
        pairs = [[[None, None]] * returns.shape[1]] * len(returns)
        return result | {"per_task_stderr": none, "per_task_ci95": pairs}
    result["per_task_stderr"] = stats.sem(returns, axis=2).tolist()
    ends = bootstrap([returns], stream(seed, "bootstrap-episodes"))
    return result | {"per_task_ci95": np.stack(ends, axis=-1).tolist()}


def share_made_worse(per_task: np.ndarray) -> list[float]:
    """Returns the fraction of tasks whose return after k adaptations is below that before any.

    Args:
        per_task: Mean returns (K + 1, N).

    Source: Deleu & Bengio 2018 (arXiv:1812.02159), who call it negative adaptation.
    """
    return [float((row < per_task[0]).mean()) for row in per_task]


def share_interval(share: float, count: int) -> tuple[float, float]:
    """Returns Wilson's 95 % interval of a share of independent events.

    A bootstrap of events that all happened would have length zero.

    Args:
        share: In [0, 1]. Where an event is itself a mean, as over the episodes of a task, the
            interval is wider than it need be.
        count: Independent events, >= 1.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209.
    """
    z = float(stats.norm.ppf(0.975))
    weight = z * z / count
    middle = (share + 0.5 * weight) / (1.0 + weight)
    half = math.sqrt(weight * (share * (1.0 - share) + 0.25 * weight)) / (1.0 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)


def count_experience(
    env_steps: Sequence[float], num_episodes: int, *, pools: bool
) -> dict[str, Any]:
    """Counts a learner's experience in a task before entry k; it is 0 for k = 0.

    Args:
        env_steps: Mean environment steps of one task in each of the K + 1 rollouts.
        num_episodes: E.
        pools: An adaptation uses all E episodes of a task. If not, as with a memory for each
            episode, the E copies are independent trials of one episode a rollout.

    Returns:
        `episodes` and `env_steps`, lists over k.
    """
    per_rollout = num_episodes if pools else 1
    fraction = per_rollout / num_episodes
    before = np.concatenate([[0.0], np.cumsum(env_steps[:-1])]) * fraction
    return {
        "episodes": [per_rollout * k for k in range(len(env_steps))],
        "env_steps": before.tolist(),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
