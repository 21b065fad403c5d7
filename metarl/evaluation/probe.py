"""Linear probes: the part of the task numbers that a linear map can read from features.

A probe is a ridge regression in closed form, fitted to some tasks and scored on others. Its
strength is chosen by cross-validation among the tasks that it is fitted to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from metarl.core.rng import stream
from metarl.core.tasks import Variable

NUM_FOLDS = 5
"""Parts of the tasks; each is predicted by a probe that is fitted to the others."""

STRENGTHS = np.logspace(-4.0, 4.0, 9)
"""Ridge strengths to choose from [variances of a feature]; the largest ignores the features."""

RESAMPLES = 1_000
"""Resamples of tasks for an interval."""


@dataclass(frozen=True)
class Target:
    """A task number in the form in which it is predicted.

    Attributes:
        name: Name of the number.
        unit: Its unit.
        kind: "number" and "angle" are scored by R^2, "category" by accuracy.
        columns: (N, C): the number itself; its cosine and sine; or one column a category that is 1
            in its tasks.
        labels: Names of the categories, else ().
    """

    name: str
    unit: str
    kind: Literal["number", "angle", "category"]
    columns: np.ndarray
    labels: tuple[str, ...] = ()

    @property
    def chance(self) -> float:
        """The score without knowledge: 0, or the frequency of the commonest category."""
        return float(self.columns.mean(axis=0).max()) if self.kind == "category" else 0.0


def encode_tasks(variables: Sequence[Variable], tasks: np.ndarray) -> list[Target]:
    """Returns the task numbers (N, D) as targets; leaves out those that are equal in all tasks.

    A number is a category if it declares labels or has two values, and an angle if its unit is rad.
    """
    targets = []
    for variable, values in zip(variables, tasks.T, strict=True):
        distinct, index = np.unique(values, return_inverse=True)
        if len(distinct) < 2:
            continue
        labels: tuple[str, ...] = ()
        if variable.labels or len(distinct) == 2:
            kind, columns = "category", np.eye(len(distinct))[index]
            names = variable.labels
            labels = tuple(names[int(value)] if names else f"{value:g}" for value in distinct)
        elif variable.unit == "rad":
            kind, columns = "angle", np.stack([np.cos(values), np.sin(values)], axis=1)
        else:
            kind, columns = "number", values[:, None].astype(float)
        targets.append(Target(variable.name, variable.unit, kind, columns, labels))
    return targets


def choose_folds(targets: Sequence[Target], rng: np.random.Generator) -> np.ndarray:
    """Returns the fold (N,) of every task; each fold has about the same number of each category."""
    num_tasks = len(targets[0].columns)
    keys = [target.columns.argmax(axis=1) for target in targets if target.kind == "category"]
    order = np.lexsort([rng.permutation(num_tasks), *keys])
    folds = np.empty(num_tasks, dtype=int)
    folds[order] = np.arange(num_tasks) % NUM_FOLDS
    return folds


def exchange_tasks(folds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws a permutation of the tasks that exchanges them within their folds.

    Across folds, a category that is rare in a fold would be common in the others, and even a probe
    that reads nothing would score below chance.
    """
    order = np.arange(len(folds))
    for fold in range(NUM_FOLDS):
        part = np.flatnonzero(folds == fold)
        order[part] = rng.permutation(part)
    return order


# --- ridge regression in closed form; in torch, because its threads can be limited ----------------


@dataclass(frozen=True)
class _Sums:
    """Sums over the rows of some tasks, from which a ridge regression follows.

    Attributes:
        count: Rows.
        x: Sum of the features (F,).
        y: Sum of the targets (C,).
        xx: Sum of their products (F, F).
        xy: Sum of the products of features and targets (F, C).
    """

    count: int
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor

    @staticmethod
    def of(features: Tensor, targets: Tensor) -> _Sums:
        """Sums over tasks: features (n, E, F), and targets (n, C), the same in E trials."""
        rows, trials = features.flatten(0, 1), features.shape[1]
        xx, xy = rows.T @ rows, features.sum(dim=1).T @ targets
        return _Sums(len(rows), rows.sum(dim=0), trials * targets.sum(dim=0), xx, xy)

    def __sub__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.count - other.count,
            self.x - other.x,
            self.y - other.y,
            self.xx - other.xx,
            self.xy - other.xy,
        )

    def fit(self) -> _Fit:
        """Diagonalises the correlations of the features."""
        mean_x, mean_y = self.x / self.count, self.y / self.count
        covariance = self.xx / self.count - torch.outer(mean_x, mean_x)
        variance = covariance.diagonal()
        # a feature that is constant up to rounding in the rows of the fit tells nothing
        is_free = variance > 1e-12
        scale = torch.where(is_free, variance.clamp(min=1e-12).rsqrt(), 0.0)
        values, vectors = torch.linalg.eigh(covariance * torch.outer(scale, scale))
        product = scale.unsqueeze(1) * (self.xy / self.count - torch.outer(mean_x, mean_y))
        return _Fit(values.clamp(min=0.0), vectors, vectors.T @ product, mean_x, scale, mean_y)


@dataclass(frozen=True)
class _Fit:
    """A ridge regression for every strength.

    Attributes:
        values: Eigenvalues of the correlations of the features (F,).
        vectors: Their eigenvectors (F, F), in columns.
        product: Covariances of the features with the targets, in this basis (F, C).
        mean_x: Means of the features (F,).
        scale: Inverse standard deviations of the features (F,), 0 for constant ones.
        mean_y: Means of the targets (C,).
    """

    values: Tensor
    vectors: Tensor
    product: Tensor
    mean_x: Tensor
    scale: Tensor
    mean_y: Tensor

    def coordinates(self, features: Tensor) -> Tensor:
        """Returns features (n, E, F) in the basis of the eigenvectors (n * E, F)."""
        return ((features.flatten(0, 1) - self.mean_x) * self.scale) @ self.vectors

    def predict(self, coordinates: Tensor, strength: Tensor) -> Tensor:
        """Returns predictions (m, C) with a strength (C,) or (1,) for each column."""
        weights = self.product / (self.values.unsqueeze(1) + strength)
        return coordinates @ weights + self.mean_y


def predict_held_out(
    features: np.ndarray, targets: np.ndarray, groups: np.ndarray, folds: np.ndarray
) -> np.ndarray:
    """Predicts the targets of every task by a ridge regression fitted to the other folds.

        w = (X^T X / n + strength I)^-1 X^T y / n,    X, y centred, the columns of X of variance 1

    Predictions are limited to the range of the targets, so that a single strange trial does not
    outweigh all others. The strength of a group of columns has the least squared error in a
    cross-validation among the other folds, so that no number of a task enters its own prediction.
    The folds' sums of products give all fits without another pass over the rows.

    Args:
        features: (N, E, F), E trials of a task.
        targets: (N, C), finite.
        groups: Number of the group of each column (C,), from 0 on.
        folds: Fold of each task (N,), from 0 to NUM_FOLDS - 1, none empty.

    Returns:
        Predictions (N, E, C).
    """
    x, y = _standardise(features), torch.from_numpy(np.asarray(targets, dtype=float))
    low, high = y.amin(dim=0), y.amax(dim=0)
    parts = [torch.from_numpy(np.flatnonzero(folds == fold)) for fold in range(NUM_FOLDS)]
    own, everything = [_Sums.of(x[part], y[part]) for part in parts], _Sums.of(x, y)
    errors = torch.zeros(NUM_FOLDS, len(STRENGTHS), y.shape[1], dtype=torch.float64)
    for one in range(NUM_FOLDS):
        for other in range(one):
            fit = (everything - own[one] - own[other]).fit()
            for held_out, inner in ((one, parts[other]), (other, parts[one])):
                coordinates = fit.coordinates(x[inner])
                rows = y[inner].repeat_interleave(x.shape[1], dim=0)
                for i, strength in enumerate(STRENGTHS):
                    found = fit.predict(coordinates, torch.tensor([strength])).clamp(low, high)
                    errors[held_out, i] += (found - rows).square().sum(dim=0)
    result = torch.empty(*x.shape[:2], y.shape[1], dtype=torch.float64)
    is_in_group = np.eye(groups.max() + 1)[groups]
    for fold, part in enumerate(parts):
        best = (errors[fold].numpy() @ is_in_group).argmin(axis=0)
        strength, fit = torch.tensor(STRENGTHS[best][groups]), (everything - own[fold]).fit()
        found = fit.predict(fit.coordinates(x[part]), strength).clamp(low, high)
        result[part] = found.unflatten(0, (len(part), -1))
    return result.numpy()


def _standardise(features: np.ndarray) -> Tensor:
    """Shifts and scales features (N, E, F), so that products lose no digits."""
    features = np.asarray(features, dtype=float)
    deviation = features.std(axis=(0, 1))
    scaled = (features - features.mean(axis=(0, 1))) / np.where(deviation > 0, deviation, 1.0)
    return torch.from_numpy(scaled)


# --- scores ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """Score of a probe on tasks that it was not fitted to.

    Attributes:
        value: R^2 = 1 - sum of squared errors / sum of squared deviations, or accuracy.
        low: Lower end of the 95 % bootstrap interval over tasks.
        high: Its upper end.
    """

    value: float
    low: float
    high: float


def draw_resamples(num_tasks: int, seed: int) -> np.ndarray:
    """Draws the weights (RESAMPLES, N) of the tasks in a bootstrap."""
    rng = stream(seed, "probe-bootstrap")
    return rng.multinomial(num_tasks, np.full(num_tasks, 1.0 / num_tasks), RESAMPLES).astype(float)


def score(target: Target, predictions: np.ndarray, resamples: np.ndarray) -> Score:
    """Scores predictions (N, E, C) of a target, with an interval from weights (B, N)."""
    weights = np.concatenate([np.ones((1, len(predictions))), resamples])
    values = _weighted_score(target.kind, target.columns, predictions, weights)
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return Score(float(values[0]), float(low), float(high))


def _weighted_score(
    kind: str, columns: np.ndarray, predictions: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Returns a score (B,) for each weighting (B, N) of the tasks; NaN if all tasks are equal."""
    if kind == "category":
        hit = predictions.argmax(axis=2) == columns.argmax(axis=1)[:, None]
        return weights @ hit.mean(axis=1) / weights.sum(axis=1)
    error = weights @ np.square(predictions - columns[:, None]).mean(axis=1).sum(axis=1)
    columns = columns - columns.mean(axis=0)  # the difference of large squares would lose digits
    count = weights.sum(axis=1)
    means = weights @ columns / count[:, None]
    total = weights @ np.square(columns).sum(axis=1) - count * np.square(means).sum(axis=1)
    least = 1e-12 * np.square(columns).sum()  # in the tasks' own unit, which may be tiny
    return 1.0 - np.divide(error, total, out=np.full(len(total), np.nan), where=total > least)


def probe(
    features: np.ndarray,
    targets: Sequence[Target],
    folds: np.ndarray,
    resamples: np.ndarray,
    orders: Sequence[np.ndarray] = (),
) -> tuple[list[Score], np.ndarray]:
    """Probes features for every target, and for the same targets of exchanged tasks.

    Exchanging the tasks leaves nothing to know, so the scores show what a probe finds by chance.

    Args:
        features: (N, E, F).
        targets: At least one.
        folds: As `choose_folds` returns them.
        resamples: Of the bootstrap, as `draw_resamples` returns them.
        orders: Permutations of the N tasks.

    Returns:
        The score of each target, and the scores (orders, targets) with exchanged tasks.
    """
    num_tasks = len(features)
    blocks = [t.columns[order] for order in [np.arange(num_tasks), *orders] for t in targets]
    sizes = [block.shape[1] for block in blocks]
    groups = np.repeat(np.arange(len(blocks)), sizes)
    predictions = predict_held_out(features, np.concatenate(blocks, axis=1), groups, folds)
    parts = np.split(predictions, np.cumsum(sizes)[:-1], axis=2)
    scores = [score(*pair, resamples) for pair in zip(targets, parts, strict=False)]
    once = np.ones((1, num_tasks))
    exchanged = [
        _weighted_score(targets[i % len(targets)].kind, blocks[i], parts[i], once)[0]
        for i in range(len(targets), len(blocks))
    ]
    return scores, np.array(exchanged).reshape(len(orders), len(targets))
