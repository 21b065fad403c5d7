"""Intervals over several seeds, which contain the spread between trainings.

The estimated number is the expected return of a freshly trained seed on the task distribution.
Seeds are a sample of all trainings, and the tasks of a seed are fresh draws, so the means of the
seeds are independent numbers around it:

    variance of a seed's mean = variance between trainings + variance between tasks / N

Their spread already contains the noise of the tasks. It needs no second term.

Two kinds of tasks are no sample. Tasks that occur often in every run, as two directions do, are
the whole distribution; the noise within a seed is that of their repeated trials. Tasks that are
the same in every run, each once, are a finite set or were chosen by hand: the interval is then
about a fresh seed on these tasks, and says nothing about others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from metarl.core.rng import stream
from metarl.evaluation import statistics
from metarl.evaluation.statistics import Estimate, Pooled, interquartile_mean

MIN_BOOTSTRAP = 5
"""Least number of seeds for a bootstrap; fewer seeds cannot show the shape of their spread."""

_Run = tuple[np.ndarray | Sequence[Any], np.ndarray]
"""Of one seed: tasks (N, D), or N opaque tasks, and their mean returns (K + 1, N)."""


def over_seeds(runs: Sequence[_Run], seed: int) -> Pooled:
    """Estimates the return after 0..K adaptations of a freshly trained seed.

    Every seed counts the same, also if they have different numbers of tasks. With one seed, the
    intervals are over its tasks alone, see `statistics.over_tasks`.

    Args:
        runs: The seeds; each has its own draw of the tasks, or all have the same.
        seed: Seed of the bootstrap.

    Returns:
        Means over seeds, standard errors from the spread of the seeds, and 95 % intervals: `t`
        intervals of fewer than MIN_BOOTSTRAP seeds, otherwise two-level bootstrap intervals.
    """
    if len(runs) == 1:
        return statistics.over_tasks(*runs[0], seed)
    cuts = [statistics.split_into_strata(tasks) for tasks, _ in runs]
    parts, are_strata = [cut[0] for cut in cuts], all(cut[1] for cut in cuts)
    are_fixed = not are_strata and _are_equal([tasks for tasks, _ in runs])
    if are_fixed:  # none of them stands for other tasks, so none is resampled
        parts = [list(np.arange(len(tasks))[:, None]) for tasks, _ in runs]
    estimates = []
    for k in range(len(runs[0][1])):
        rows = [per_task[k] for _, per_task in runs]
        estimates.append(_estimate(rows, parts, seed, k))
    within = " on the same tasks" if are_fixed else " and their tasks"
    within = " and the trials of each task" if are_strata else within
    strata = "tasks" if are_strata else "none"
    text = f"over {len(runs)} seeds{within} ({_describe_method(len(runs))})"
    return Pooled(statistics.to_lists(estimates), strata, text)


def _describe_method(num_seeds: int) -> str:
    if num_seeds >= MIN_BOOTSTRAP:
        return "two-level bootstrap, widened for the number of seeds"
    degrees = "1 degree" if num_seeds == 2 else f"{num_seeds - 1} degrees"
    return f"Student's t, {degrees} of freedom"


def _are_equal(tasks: Sequence[np.ndarray | Sequence[Any]]) -> bool:
    """Returns whether all runs have the same tasks, in any order."""
    sets = [sorted(repr(np.asarray(task).tolist()) for task in of_run) for of_run in tasks]
    return all(of_run == sets[0] for of_run in sets)


def _estimate(
    rows: Sequence[np.ndarray], parts: Sequence[Sequence[np.ndarray]], seed: int, k: int
) -> Estimate:
    """Estimates the mean and the interquartile mean of rows (N_s,), one for each seed."""
    means = np.array([row.mean() for row in rows])
    mean, middle = float(means.mean()), float(interquartile_mean(np.concatenate(rows)))
    if len(rows) < MIN_BOOTSTRAP:
        ends = t_interval(means)
        iqm_ends = t_interval(jackknife(rows), middle)
    else:
        sample = TwoLevelSample.of(rows, parts)
        ends = bootstrap(sample, stream(seed, "bootstrap-seeds", k), mean)
        iqm_ends = bootstrap(sample, stream(seed, "bootstrap-seeds-iqm", k), middle, iqm=True)
    low, high, iqm_low, iqm_high = map(float, (*ends, *iqm_ends))
    return Estimate(mean, float(stats.sem(means)), low, high, middle, iqm_low, iqm_high)


# --- few seeds ------------------------------------------------------------------------------------


def t_interval(
    values: np.ndarray, center: np.ndarray | float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Computes Student's 95 % interval of the mean of S independent numbers.

        mean +- t(0.975, S - 1) * standard deviation / sqrt(S)

    It is exact if the numbers are normal.

    Args:
        values: (..., S), S >= 2. Leading axes are independent data sets.
        center: Middle of the interval (...); by default the mean.

    Returns:
        Lower and upper ends (...).
    """
    center = values.mean(axis=-1) if center is None else center
    half = stats.t.ppf(0.975, values.shape[-1] - 1) * stats.sem(values, axis=-1)
    return center - half, center + half


def jackknife(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Computes the pseudo-values (S,) of the interquartile mean of all numbers, seed by seed.

        S * iqm(all seeds) - (S - 1) * iqm(all seeds but s)

    Their spread is that of the interquartile mean between seeds. (Those of the mean are the means
    of the seeds.)

    Args:
        rows: (N_s,) for each of S >= 2 seeds.

    Source: Tukey 1958; Efron & Tibshirani 1993, chapter 11.
    """
    whole = interquartile_mean(np.concatenate(rows))
    others = [np.concatenate([*rows[:s], *rows[s + 1 :]]) for s in range(len(rows))]
    without = np.array([interquartile_mean(values) for values in others])
    return len(rows) * whole - (len(rows) - 1) * without


# --- many seeds -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class TwoLevelSample:
    """Returns of seeds and of the tasks within them, laid out for resampling; M = max N_s.

    A resampled task comes from the same stratum as the task in its place.

    Attributes:
        values: (S, M), the tasks of a stratum side by side, NaN after the last.
        first: (S, M), place of the first task of the stratum.
        count: (S, M), number of tasks of the stratum.
    """

    values: np.ndarray
    first: np.ndarray
    count: np.ndarray

    @classmethod
    def of(
        cls, rows: Sequence[np.ndarray], parts: Sequence[Sequence[np.ndarray]]
    ) -> TwoLevelSample:
        """Lays out rows (N_s,), one for each seed, with the indices of their strata."""
        size = max(map(len, rows))
        values = np.full((len(rows), size), np.nan)
        first = np.tile(np.arange(size), (len(rows), 1))
        count = np.ones((len(rows), size), int)
        for s, (row, strata) in enumerate(zip(rows, parts, strict=True)):
            start = 0
            for part in strata:
                places = slice(start, start + len(part))
                values[s, places], first[s, places], count[s, places] = row[part], start, len(part)
                start += len(part)
        return cls(values, first, count)

    def draw(self, rng: np.random.Generator, num_resamples: int) -> np.ndarray:
        """Draws seeds, then tasks within each drawn seed; returns (num_resamples, S, M)."""
        num_seeds, size = self.values.shape
        seeds = rng.integers(num_seeds, size=(num_resamples, num_seeds))
        shift = rng.random((num_resamples, num_seeds, size)) * self.count[seeds]
        return self.values[seeds[..., None], self.first[seeds] + shift.astype(int)]


def bootstrap(
    sample: TwoLevelSample, rng: np.random.Generator, center: float, *, iqm: bool = False
) -> tuple[float, float]:
    """Computes the 95 % interval of a mean from resampled seeds and tasks.

    The percentiles of S resampled seeds are too narrow: their variance lacks the factor
    S / (S - 1), and they follow the normal instead of the t distribution. So the distance of both
    ends from the estimate is multiplied by

        sqrt(S / (S - 1)) * t(0.975, S - 1) / z(0.975)

    (1.58 for 5 seeds, 1.22 for 10). As tasks are resampled too, task noise counts twice, and the
    interval is too wide where it hides the spread between seeds. docs/concepts.md has the measured
    coverage.

    Args:
        sample: Returns of S >= 2 seeds.
        rng: Random stream of the resampling.
        center: The estimate.
        iqm: Use the interquartile mean of all numbers, not the mean of the seeds' means.

    Returns:
        Lower and upper end.

    Source: The factor is that of the expanded percentile interval of Hesterberg 2015
    (arXiv:1411.5279). He moves the percentiles, which cannot leave the range of the few seeds.
    """
    statistic = _pooled_interquartile_mean if iqm else _mean_of_means
    batch = 1_000
    drawn = np.concatenate(
        [
            statistic(sample.draw(rng, min(batch, statistics.RESAMPLES - start)))
            for start in range(0, statistics.RESAMPLES, batch)
        ]
    )
    low, high = np.percentile(drawn, [2.5, 97.5])
    count = len(sample.values)
    factor = math.sqrt(count / (count - 1)) * stats.t.ppf(0.975, count - 1) / stats.norm.ppf(0.975)
    return center - factor * (center - low), center + factor * (high - center)


def _mean_of_means(drawn: np.ndarray) -> np.ndarray:
    """Averages (B, S, M) over the tasks of each seed, then over seeds; returns (B,)."""
    is_there = np.isfinite(drawn)
    sums = np.where(is_there, drawn, 0.0).sum(axis=2)
    return (sums / is_there.sum(axis=2)).mean(axis=1)


def _pooled_interquartile_mean(drawn: np.ndarray) -> np.ndarray:
    """Averages the middle half of all numbers (B, S, M), NaN left out; returns (B,)."""
    ordered = np.sort(drawn.reshape(len(drawn), -1), axis=1)  # NaN is sorted to the end
    count = np.isfinite(ordered).sum(axis=1, keepdims=True)
    cut, place = count // 4, np.arange(ordered.shape[1])
    is_inside = (place >= cut) & (place < count - cut)
    return np.where(is_inside, ordered, 0.0).sum(axis=1) / is_inside.sum(axis=1)
