"""Sums of the parts of a reward, for the log of a training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

MOST_ROLLOUTS = 1000
"""Rollouts whose sums are kept; older ones are forgotten."""


class Tally:
    """Sums of named parts of the reward over the steps of each episode since they were taken.

    Each episode has its own sum, so that it does not depend on the rows that are stepped with it.
    """

    def __init__(self) -> None:
        self._sums: list[dict[str, np.ndarray]] = []
        self._steps: list[int] = []
        self._num_open = -1

    def start(self) -> None:
        """Begins a new episode in every row."""
        self._num_open = -1
        for kept in (self._sums, self._steps):  # nobody takes them in an evaluation
            del kept[:-MOST_ROLLOUTS]

    def add(self, valid: np.ndarray, terms: Mapping[str, np.ndarray]) -> None:
        """Adds the parts (M,) of a step in the rows of the mask valid (M,)."""
        if self._num_open != len(valid):
            self._sums.append({name: np.zeros(len(valid)) for name in terms})
            self._steps.append(0)
            self._num_open = len(valid)
        self._steps[-1] += int(np.count_nonzero(valid))
        for name, total in self._sums[-1].items():
            np.add(total, terms[name], out=total, where=valid)

    def take(self) -> tuple[dict[str, np.ndarray], int]:
        """Returns the sums (L,) of L episodes by name, and the number of steps; begins anew."""
        steps = sum(self._steps)
        names = self._sums[0] if steps else {}
        sums = {name: np.concatenate([own[name] for own in self._sums]) for name in names}
        self._sums, self._steps, self._num_open = [], [], -1
        return sums, steps
