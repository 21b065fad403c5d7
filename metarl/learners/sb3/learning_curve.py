"""The learning curve of policies that are trained on one task each: a value that grows by an entry an iteration."""

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
    """What N policies have met on their N tasks, iteration by iteration (I of them).

    Attributes:
        returns: (I, N, E) of the episodes of each iteration, played by the policies as they were before its update.
        steps: (I,) environment steps in each task.
        episodes: (I, N) episodes that ended.
        faults: (I, N) of the E episodes, those that broke down.
    """

    returns: Tensor
    steps: Tensor
    episodes: Tensor
    faults: Tensor

    @staticmethod
    def empty(num_tasks: int, num_episodes: int) -> Curve:
        """Before the first iteration."""
        shapes = ((0, num_tasks, num_episodes), (0,), (0, num_tasks), (0, num_tasks))
        return Curve(*(torch.zeros(shape, dtype=torch.float64) for shape in shapes))

    def extend(self, played: Sequence[Played]) -> Curve:
        """The curve with one more iteration."""
        new = (
            np.stack([p.returns.reshape(-1) for p in played]),
            np.float64(played[0].steps),
            np.array([p.num_episodes for p in played]),
            np.array([p.faults.sum() for p in played]),
        )
        return Curve(
            *(
                torch.cat(
                    [getattr(self, field.name), torch.from_numpy(np.asarray(value, float))[None]]
                )
                for field, value in zip(fields(self), new, strict=True)
            )
        )

    def experience(self) -> tuple[np.ndarray, np.ndarray]:
        """Environment steps (I + 1,) and mean episodes (I + 1,) in a task before iteration i, and after the last."""
        steps, episodes = self.steps.numpy(), self.episodes.numpy().mean(axis=1)
        return np.append(0.0, np.cumsum(steps)), np.append(0.0, np.cumsum(episodes))

    def points(self) -> np.ndarray:
        """Iterations to show: the first ones and then ever fewer, at most MAX_POINTS."""
        count = len(self.returns)
        if count == 0:
            return np.zeros(0, dtype=int)
        return np.unique(np.geomspace(1, count, MAX_POINTS).round().astype(int)) - 1

    def state_dict(self) -> dict[str, Tensor]:
        """The curve as tensors by name."""
        return {f"curve/{field.name}": getattr(self, field.name).clone() for field in fields(self)}

    @staticmethod
    def from_state(state: Mapping[str, Tensor]) -> Curve:
        """Reads what state_dict() gave."""
        return Curve(*(state[f"curve/{field.name}"].clone() for field in fields(Curve)))
