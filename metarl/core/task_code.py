"""Tasks as inputs of a network."""

from __future__ import annotations

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
        self._kinds = [len(variable.labels) for variable in tasks.variables]

    @property
    def size(self) -> int:
        """Count of inputs C."""
        return sum(kinds or 1 for kinds in self._kinds)

    def scale(self, tasks: np.ndarray) -> np.ndarray:
        """Maps tasks (N, D) to their numbers (N, D) within [-1, 1], also those of kinds."""
        return (tasks - self._middle) / self._half

    def encode(self, tasks: np.ndarray) -> np.ndarray:
        """Maps tasks (N, D) to inputs (N, C)."""
        scaled = self.scale(tasks)
        columns = [
            np.eye(kinds)[tasks[:, i].astype(int)] if kinds else scaled[:, i : i + 1]
            for i, kinds in enumerate(self._kinds)
        ]
        return np.concatenate([np.empty((len(tasks), 0)), *columns], axis=1)
