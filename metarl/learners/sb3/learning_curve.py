"""Learning curve of policies trained on one task each, with an entry for each iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from metarl.learners.sb3.model import Played

MAX_POINTS = 40
"""Points shown of a curve, evenly spread over the logarithm of the experience."""


@dataclass(frozen=True)
class Curve:
    """Returns and experience of N policies on their N tasks in each of I iterations.

    Attributes:
        returns: (I, N, E) of the episodes of each iteration, played before its update.
        steps: (I,) environment steps in each task.
        episodes: (I, N) episodes that ended.
        faults: (I, N) number of the E episodes in which the simulation failed.
    """

    returns: Tensor
    steps: Tensor
    episodes: Tensor
    faults: Tensor

    @staticmethod
    def empty(num_tasks: int, num_episodes: int) -> Curve:
        """Returns the curve before the first iteration."""
        shapes = ((0, num_tasks, num_episodes), (0,), (0, num_tasks), (0, num_tasks))
        return Curve(*(torch.zeros(shape, dtype=torch.float64) for shape in shapes))

    def extend(self, played: Sequence[Played]) -> Curve:
        """Returns the curve with one more iteration."""
        new = (
            np.stack([p.returns.reshape(-1) for p in played]),
            np.float64(played[0].steps),
            np.array([p.num_episodes for p in played]),
            np.array([p.faults.sum() for p in played]),
        )
        entries = [torch.from_numpy(np.asarray(value, float))[None] for value in new]
        pairs = zip(vars(self).values(), entries, strict=True)
        return Curve(*(torch.cat(pair) for pair in pairs))

    def experience(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean experience in a task before each iteration, and after the last.

        Environment steps (I + 1,) and episodes (I + 1,).
        """
        steps, episodes = self.steps.numpy(), self.episodes.numpy().mean(axis=1)
        return np.append(0.0, np.cumsum(steps)), np.append(0.0, np.cumsum(episodes))

    def points(self) -> np.ndarray:
        """Returns the iterations to show: the first ones, then ever fewer; at most MAX_POINTS."""
        count = len(self.returns)
        if count == 0:
            return np.zeros(0, dtype=int)
        return np.unique(np.geomspace(1, count, MAX_POINTS).round().astype(int)) - 1

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the curve as tensors by name."""
        return {f"curve/{name}": value.clone() for name, value in vars(self).items()}

    @staticmethod
    def from_state(state: Mapping[str, Tensor]) -> Curve:
        """Returns the curve of a state_dict()."""
        return Curve(*(state[f"curve/{field.name}"].clone() for field in fields(Curve)))
