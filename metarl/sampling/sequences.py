"""The rollouts of a trial as one sequence for each row: what a memory has lived through, without gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from metarl.core.rollout import Rollout


@dataclass(frozen=True)
class Sequences:
    """M = N * E trials of up to L steps, time first; the steps of later episodes follow at once on those before.

    Attributes:
        obs: (L, M, S).
        action: (L, M, A).
        log_prob: (L, M) of the action under the policy that drew it [nats].
        reward: (L, M).
        valid: (L, M) the step counts.
        acted: (L, M) the policy acted: also in a step in which the simulation broke down.
        first: (L, M) first step of an episode other than the trial's first: here the memory is told `done`.
    """

    obs: Tensor
    action: Tensor
    log_prob: Tensor
    reward: Tensor
    valid: Tensor
    acted: Tensor
    first: Tensor

    @staticmethod
    def of(rollouts: Sequence[Rollout], device: torch.device | str = "cpu") -> Sequences:
        """Lines up the K + 1 rollouts of a trial."""
        steps = rollouts[0].valid.shape[2]
        acted = torch.cat([_acted(rollout) for rollout in rollouts])
        first = torch.zeros_like(acted)
        first[steps::steps] = True
        arrays = {
            name: torch.cat([_time_first(getattr(rollout, name)) for rollout in rollouts])
            for name in ("obs", "action", "log_prob", "reward", "valid")
        }
        lined_up = {**arrays, "acted": acted, "first": first}
        if not acted.all():
            order = (~acted).int().argsort(dim=0, stable=True)[: int(acted.sum(dim=0).max())]
            lined_up = {name: _picked(a, order) for name, a in lined_up.items()}
        return Sequences(**{name: a.to(device) for name, a in lined_up.items()})

    def rows(self, index: Tensor) -> Sequences:
        """The trials of the rows index (B,)."""
        return Sequences(**{f.name: getattr(self, f.name)[:, index] for f in fields(self)})

    def previous(self) -> Tensor:
        """What the memory is told of the step before (L, M, A + 2): action, raw reward, done."""
        told = torch.cat([self.action, self.reward.unsqueeze(-1)], dim=-1)
        told = torch.cat([torch.zeros_like(told[:1]), told[:-1]])
        return torch.cat([told, self.first.to(told.dtype).unsqueeze(-1)], dim=-1)


def _acted(rollout: Rollout) -> Tensor:
    """The steps (T, M) for which the policy chose an action, valid or not."""
    number = rollout.valid.sum(dim=2) + rollout.truncated
    return torch.arange(rollout.valid.shape[2]).unsqueeze(1) < number.flatten()


def _time_first(array: Tensor) -> Tensor:
    return array.flatten(0, 1).transpose(0, 1)


def _picked(array: Tensor, order: Tensor) -> Tensor:
    """Rows of time in the order (L, M)."""
    index = order.reshape(*order.shape, *[1] * (array.dim() - 2))
    return array.gather(0, index.expand(*order.shape, *array.shape[2:]))
