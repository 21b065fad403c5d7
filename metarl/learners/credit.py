"""Credit for rewards: the reach of an action's consequences in a trial of several episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metarl.core.rollout import Rollout
from metarl.sampling.sequences import last_steps


def close_episodes(
    reward: Tensor,
    ends: Tensor,
    rollouts: Sequence[tuple[Rollout, Tensor]],
    discount: float,
    value_after: Callable[[Rollout, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Lets nothing after an episode count as a consequence of its actions.

    What would have followed, had the episode gone on, is the value of its last observation; after
    a fall it is nothing.

    Args:
        reward: Of the trials (L, M), time first.
        ends: (L, M) steps that close an episode already.
        rollouts: Those to close, with the place of each trial's last valid step in them (M,), see
            `last_steps`.
        discount: gamma in [0, 1].
        value_after: Maps such a pair to the values (M,) of the last observations.

    Returns:
        New rewards and ends (L, M), for `gae_over_trial`.
    """
    reward, ends = reward.clone(), ends.clone()
    columns = torch.arange(reward.shape[1], device=reward.device)
    for rollout, last in rollouts:
        after = torch.where(rollout.terminated.flatten(), 0.0, value_after(rollout, last))
        some = rollout.valid[:, :, 0].flatten()  # a simulation may fail in the first step
        own = last[some], columns[some]
        reward[own] += discount * after[some]
        ends[own] = True
    return reward, ends


def place_episodes(
    rollouts: Sequence[Rollout], device: torch.device | str
) -> list[tuple[Rollout, Tensor]]:
    """Returns rollouts with the places (M,) of their last valid steps, on a device."""
    pairs = zip(rollouts, last_steps(rollouts), strict=True)
    return [(rollout.to(device), last.to(device, non_blocking=True)) for rollout, last in pairs]
