"""The rollouts of a trial as one sequence for each row, without gaps, for recurrent updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.core.rollout import Rollout


@dataclass(frozen=True)
class Sequences:
    """M = N * E trials of up to L steps, time first; each episode follows on the previous one.

    Attributes:
        obs: (L, M, S).
        action: (L, M, A).
        log_prob: (L, M) of the action under the policy that drew it [nats].
        reward: (L, M).
        valid: (L, M) the step counts.
        acted: (L, M) the policy acted, also in a step in which the simulation failed.
        first: (L, M) first step of an episode other than the trial's first; the memory gets `done`
            as an input here.
        terminal: (L, M) step with which the task ended its episode: the robot fell, say.
    """

    obs: Tensor
    action: Tensor
    log_prob: Tensor
    reward: Tensor
    valid: Tensor
    acted: Tensor
    first: Tensor
    terminal: Tensor

    @staticmethod
    def of(rollouts: Sequence[Rollout], device: torch.device | str = "cpu") -> Sequences:
        """Joins the K + 1 rollouts of a trial."""
        steps = rollouts[0].valid.shape[2]
        acted = torch.cat([_acted(rollout) for rollout in rollouts])
        first = torch.zeros_like(acted)
        first[steps::steps] = True
        arrays = {
            name: torch.cat([_time_first(vars(rollout)[name]) for rollout in rollouts])
            for name in ("obs", "action", "log_prob", "reward", "valid")
        }
        terminal = torch.cat([_terminal(rollout) for rollout in rollouts])
        joined = {**arrays, "acted": acted, "first": first, "terminal": terminal}
        if not acted.all():
            order = (~acted).int().argsort(dim=0, stable=True)[: int(acted.sum(dim=0).max())]
            joined = {name: _select(a, order) for name, a in joined.items()}
        return Sequences(**joined).to(device)

    def to(self, device: torch.device | str) -> Sequences:
        """Returns the trials, which are on the CPU, on a device, without waiting for it."""
        arrays = vars(self).items()
        return Sequences(**{name: a.to(device, non_blocking=True) for name, a in arrays})

    def rows(self, index: Tensor) -> Sequences:
        """Returns the trials of the rows index (B,)."""
        return Sequences(**{name: array[:, index] for name, array in vars(self).items()})

    def first_steps(self, length: int) -> Sequences:
        """Returns the first `length` steps of every trial, as views."""
        if length == len(self.valid):
            return self
        return Sequences(**{name: array[:length] for name, array in vars(self).items()})

    def previous(self) -> Tensor:
        """Returns the memory's inputs (L, M, A + 2): previous action and reward, and done."""
        inputs = torch.cat([self.action, self.reward.unsqueeze(-1)], dim=-1)
        inputs = torch.cat([torch.zeros_like(inputs[:1]), inputs[:-1]])
        return torch.cat([inputs, self.first.to(inputs.dtype).unsqueeze(-1)], dim=-1)


def last_steps(rollouts: Sequence[Rollout]) -> list[Tensor]:
    """Returns the place in `Sequences` of the last valid step of each episode, a (M,) a rollout.

    Where an episode has none, because the simulation failed at once, it is that of another step.
    """
    places, start = [], torch.zeros(rollouts[0].terminated.numel(), dtype=torch.long)
    for rollout in rollouts:
        count = rollout.valid.sum(dim=2).flatten()
        places.append((start + count - 1).clamp(min=0))
        start = start + count + rollout.truncated.flatten()
    return places


def _acted(rollout: Rollout) -> Tensor:
    """Returns the mask (T, M) of steps for which the policy chose an action, valid or not."""
    number = rollout.valid.sum(dim=2) + rollout.truncated
    return torch.arange(rollout.valid.shape[2]).unsqueeze(1) < number.flatten()


def _terminal(rollout: Rollout) -> Tensor:
    """Returns the mask (T, M) of steps with which the task ended the episode."""
    last = torch.where(rollout.terminated, rollout.valid.sum(dim=2), 0)
    return torch.arange(1, rollout.valid.shape[2] + 1).unsqueeze(1) == last.flatten()


def _time_first(array: Tensor) -> Tensor:
    return array.flatten(0, 1).transpose(0, 1)


def _select(array: Tensor, order: Tensor) -> Tensor:
    """Returns the entries (L, M, ...) of the time steps order (L, M)."""
    index = order.reshape(*order.shape, *[1] * (array.dim() - 2))
    return array.gather(0, index.expand(*order.shape, *array.shape[2:]))
