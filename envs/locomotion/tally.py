"""Sums of the parts of a reward, for the log of a training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class Tally:
    """Sums of named parts of the reward over the steps since they were last taken."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps = 0

    def add(self, valid: np.ndarray, terms: Mapping[str, np.ndarray]) -> None:
        """Adds the parts (M,) of a step in the rows of the mask valid (M,)."""
        count = int(np.count_nonzero(valid))
        self._steps += count
        for name, values in terms.items():
            own = values if count == len(valid) else values[valid]
            self._sums[name] = self._sums.get(name, 0.0) + float(np.add.reduce(own))

    def take(self) -> tuple[dict[str, float], int]:
        """Returns the sums by name, and the number of steps; begins anew."""
        taken = self._sums, self._steps
        self._sums, self._steps = {}, 0
        return taken
