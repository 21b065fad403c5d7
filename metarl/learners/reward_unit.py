"""The unit in which a learner reads rewards, so that it learns the same in any unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metarl.core.rollout import Rollout

USUAL = 1e-2, 1e4
"""Largest rewards of a step in this range are read as they are."""

SMALLEST = 1e-30
"""Smaller rewards are not scaled up to 1, so that the factor is finite in float32."""

ENTRY = "reward_unit"
"""Name in a state_dict()."""


@dataclass(frozen=True)
class RewardUnit:
    """Factor by which rewards are multiplied where a learner reads them.

    The first rewards that are not all zero fix it: it is 1 if the largest of them is in USUAL, else
    it gives those that are not zero a root mean square of 1. Until then it is 1 as well.

    Attributes:
        fixed: The factor > 0; 0 until rewards have been measured.
    """

    fixed: float = 0.0

    @property
    def factor(self) -> float:
        """Factor > 0 of a reward."""
        return self.fixed or 1.0

    def measure(self, rollouts: Sequence[Rollout]) -> RewardUnit:
        """Returns the unit after rollouts; the same if it is fixed, or all rewards are zero."""
        if self.fixed:
            return self
        rewards = torch.cat([each.reward[each.valid] for each in rollouts]).double()
        rewards = rewards[rewards != 0]
        if not len(rewards):
            return self
        if USUAL[0] <= float(rewards.abs().max()) <= USUAL[1]:
            return RewardUnit(1.0)
        return RewardUnit(1.0 / max(float(rewards.square().mean().sqrt()), SMALLEST))

    def scale(self, rollouts: Sequence[Rollout]) -> Sequence[Rollout]:
        """Returns rollouts with rewards in this unit."""
        if self.factor == 1.0:
            return rollouts
        return [replace(each, reward=each.reward * self.factor) for each in rollouts]

    def state(self) -> dict[str, Tensor]:
        """Returns the entry of a state_dict()."""
        return {ENTRY: torch.tensor(self.fixed, dtype=torch.float64)}

    @staticmethod
    def of(state: Mapping[str, Tensor]) -> RewardUnit:
        """Reads the entry back."""
        return RewardUnit(float(state[ENTRY]))

    @staticmethod
    def complete(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns a state with the entry, which those of older versions lack: rewards as they are.

        An untrained one has measured nothing.
        """
        is_trained = bool(state.get("updates", torch.tensor(0)).any())
        return RewardUnit(float(is_trained)).state() | dict(state)
