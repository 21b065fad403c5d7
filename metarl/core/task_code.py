"""Tasks as inputs of a network."""

from __future__ import annotations

from typing import Any

import numpy as np

from metarl.core.env import UnsupportedHere
from metarl.core.tasks import TaskDistribution, full_range


class TaskCode:
    """Maps tasks to network inputs: kinds to one-hot rows, other numbers to [-1, 1].

    These are scaled from their range over training and test tasks; one with a single value is 0.

    Args:
        tasks: The distribution.

    Raises:
        UnsupportedHere: A number has no range.
    """

    def __init__(self, tasks: TaskDistribution):
        low, high = full_range(tasks)
        if not np.isfinite([low, high]).all():
            hint = "give the range of each in task_variables"
            raise UnsupportedHere(f"the task numbers have no range; {hint}")
        self._middle, self._half = 0.5 * (low + high), np.maximum(0.5 * (high - low), 1e-300)
        self._variables = tasks.variables
        self._kinds = [len(variable.labels) for variable in tasks.variables]

    @property
    def size(self) -> int:
        """Count of inputs C."""
        return sum(kinds or 1 for kinds in self._kinds)

    @property
    def meanings(self) -> list[tuple[Any, ...]]:
        """Name, and label or unit and scale, of each of the C inputs; equal ones mean the same."""
        found: list[tuple[Any, ...]] = []
        for variable, *scale in zip(self._variables, self._middle, self._half, strict=True):
            numbers = [(variable.name, variable.unit, *map(float, scale))]
            kinds = [(variable.name, label) for label in variable.labels]
            found += kinds or numbers
        return found

    def scale(self, tasks: np.ndarray) -> np.ndarray:
        """Maps tasks (N, D) to their numbers (N, D) within [-1, 1], also those of kinds."""
        return (tasks - self._middle) / self._half

    def encode(self, tasks: np.ndarray) -> np.ndarray:
        """Maps tasks (N, D) to inputs (N, C)."""
        return self.encode_numbers(self.scale(tasks))

    def encode_numbers(self, scaled: np.ndarray) -> np.ndarray:
        """Maps tasks (N, D) that are scaled as `scale` does it to inputs (N, C)."""
        kind = np.rint(scaled * self._half + self._middle).astype(int)
        columns = [
            np.eye(kinds)[kind[:, i]] if kinds else scaled[:, i : i + 1]
            for i, kinds in enumerate(self._kinds)
        ]
        return np.concatenate([np.empty((len(scaled), 0)), *columns], axis=1)
