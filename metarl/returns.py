"""Discounted returns and generalised advantage estimation: pure functions over the last axis (time)."""

from __future__ import annotations

import torch
from torch import Tensor


def discounted_sum(values: Tensor, factor: float) -> Tensor:
    """Sums what is to come: y[t] = x[t] + factor * y[t + 1].

    Args:
        values: x (..., T).
        factor: Discount per step, in [0, 1].

    Returns:
        y (..., T), the dtype of values.
    """
    result = torch.empty_like(values)
    running = torch.zeros_like(values[..., 0])
    for t in range(values.shape[-1] - 1, -1, -1):
        running = values[..., t] + factor * running
        result[..., t] = running
    return result


def gae(
    reward: Tensor, value: Tensor, last_value: Tensor, valid: Tensor, discount: float, lam: float
) -> Tensor:
    """Generalised advantage estimation for episodes of different lengths.

        delta[t] = r[t] + discount * V[t + 1] - V[t],    A[t] = sum_i (discount * lam)^i delta[t + i]

    Args:
        reward: (..., T).
        value: V of the observations (..., T).
        last_value: V after the last valid step (...): 0 where the task ended or the horizon was reached, the value of
            the state reached where a fault cut the episode.
        valid: (..., T), a prefix of every row.
        discount: gamma in [0, 1].
        lam: lambda in [0, 1].

    Returns:
        Advantages (..., T), zero at invalid steps.

    Source: Schulman et al. 2016 (arXiv:1506.02438), equation 16.
    """
    # chosen, not multiplied by 0 and 1: what stands at invalid steps may be anything, NaN too
    next_value = last_value.unsqueeze(-1).expand_as(value).clone()
    next_value[..., :-1] = torch.where(valid[..., 1:], value[..., 1:], next_value[..., :-1])
    delta = torch.where(valid, reward + discount * next_value - value, 0.0)
    return discounted_sum(delta, discount * lam)


def standardise(advantage: Tensor, valid: Tensor) -> Tensor:
    """Shifts and scales advantages to mean 0 and standard deviation 1 over the valid steps of each task.

    A task whose advantages are all alike has nothing to learn from: noise of size one (which a division by
    std + 1e-8 would give) is replaced by zeros.

    Args:
        advantage: (N, E, T).
        valid: (N, E, T).

    Returns:
        Advantages (N, E, T) [task's standard deviations], zero at invalid steps.
    """
    advantage = torch.where(valid, advantage, 0.0)
    count = valid.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    mean = advantage.sum(dim=(1, 2), keepdim=True) / count
    centred = torch.where(valid, advantage - mean, 0.0)
    std = (centred.square().sum(dim=(1, 2), keepdim=True) / count).sqrt()
    largest = advantage.abs().amax(dim=(1, 2), keepdim=True)
    flat = std <= 1e-6 * largest.clamp(min=1.0)
    return torch.where(flat, torch.zeros_like(centred), centred / torch.where(flat, 1.0, std))
