"""Tasks as inputs of a network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from metarl.core.env import UnsupportedHere
from metarl.core.tasks import TaskDistribution, full_range


class TaskCode:
    """Maps tasks to network inputs: kinds to one-hot rows, other numbers to [-1, 1].

    These are scaled from their range over training and test tasks; one with a single value is 0. An
    angle that goes all the way round is its cosine and its sine: neighbours stay neighbours.

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
        is_round = np.isclose(high - low, 2.0 * math.pi, rtol=1e-6)
        units = np.array([variable.unit == "rad" for variable in tasks.variables], dtype=bool)
        self._is_angle = (is_round & units).tolist()

    @property
    def size(self) -> int:
        """Count of inputs C."""
        own = zip(self._kinds, self._is_angle, strict=True)
        return sum(kinds or 1 + is_angle for kinds, is_angle in own)

    @property
    def meanings(self) -> list[tuple[Any, ...]]:
        """Name, and label or unit and scale, of each of the C inputs; equal ones mean the same."""
        found: list[tuple[Any, ...]] = []
        parts = self._variables, self._is_angle, self._middle, self._half
        for variable, is_angle, *scale in zip(*parts, strict=True):
            numbers = [(variable.name, variable.unit, *map(float, scale))]
            if is_angle:
                numbers = [(variable.name, "cosine"), (variable.name, "sine")]
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
        numbers, columns = scaled * self._half + self._middle, [np.empty((len(scaled), 0))]
        for i, (kinds, is_angle) in enumerate(zip(self._kinds, self._is_angle, strict=True)):
            if kinds:
                columns.append(np.eye(kinds)[np.rint(numbers[:, i]).astype(int)])
            elif is_angle:
                columns.append(np.stack([np.cos(numbers[:, i]), np.sin(numbers[:, i])], axis=1))
            else:
                columns.append(scaled[:, i : i + 1])
        return np.concatenate(columns, axis=1)
