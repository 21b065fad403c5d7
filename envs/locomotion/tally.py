"""Sums of the parts of a reward, for the log of a training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class Tally:
    """Sums of named parts of the reward over the steps of each episode since they were taken.

    Each episode has its own sum, so that it does not depend on the rows that are stepped with it.
    """

    def __init__(self) -> None:
        self._sums: list[dict[str, np.ndarray]] = []
        self._steps, self._is_open = 0, False

    def start(self) -> None:
        """Begins a new episode in every row."""
        self._is_open = False

    def add(self, valid: np.ndarray, terms: Mapping[str, np.ndarray]) -> None:
        """Adds the parts (M,) of a step in the rows of the mask valid (M,)."""
        self._steps += int(np.count_nonzero(valid))
        if not self._is_open:
            self._sums.append({name: np.zeros(len(valid)) for name in terms})
            self._is_open = True
        for name, total in self._sums[-1].items():
            np.add(total, terms[name], out=total, where=valid)

    def take(self) -> tuple[dict[str, np.ndarray], int]:
        """Returns the sums (L,) of L episodes by name, and the number of steps; begins anew."""
        names = self._sums[0] if self._steps else {}
        sums = {name: np.concatenate([own[name] for own in self._sums]) for name in names}
        steps, self._sums, self._steps, self._is_open = self._steps, [], 0, False
        return sums, steps
