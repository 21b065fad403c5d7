"""Discounted returns and generalised advantage estimation: pure functions, time is the last axis unless said."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.core.rollout import Rollout
from metarl.functional.linear_baseline import fit_predict


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


def gae_over_trial(
    reward: Tensor, value: Tensor, valid: Tensor, acted: Tensor, discount: float, lam: float
) -> Tensor:
    """Generalised advantage estimation over trials, through the ends of their episodes.

    An adaptive policy is paid for an episode by the next ones too, so what an action is worth does not stop where its
    episode does. Only a fault cuts: what would have followed is estimated by the value of the state reached.

    Args:
        reward: (L, M), time first.
        value: V of the observations (L, M).
        valid: (L, M) the step counts.
        acted: (L, M) the policy acted; a prefix. Where it acted and nothing is valid the simulation broke down.
        discount: gamma in [0, 1].
        lam: lambda in [0, 1].

    Returns:
        Advantages (L, M), zero where not valid. The end of a trial has the value 0: its length is part of the problem.
    """
    result, running = torch.zeros_like(value), torch.zeros_like(value[0])
    following = torch.zeros_like(value[0])
    for t in range(len(value) - 1, -1, -1):
        running = reward[t] + discount * following - value[t] + discount * lam * running
        running = torch.where(valid[t], running, 0.0)
        following = torch.where(acted[t], value[t], 0.0)
        result[t] = running
    return result


def explained_variance(target: Tensor, value: Tensor) -> float:
    """Share of the variance of target (L,) that value (L,) explains; 0 where nothing varies."""
    target, value = target.double(), value.double()
    if len(target) < 2 or float(target.var()) <= 1e-12:
        return 0.0
    return float(1.0 - (target - value).var() / target.var())


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


def advantages(
    rollout: Rollout, discount: float, lam: float, *, num_threads: int = 1
) -> tuple[Tensor, float]:
    """Fits the baseline on a rollout and estimates its advantages.

    Args:
        rollout: Any rollout.
        discount: gamma in [0, 1].
        lam: GAE's lambda in [0, 1].
        num_threads: Threads over tasks; the result does not depend on it.

    Returns:
        Advantages (N, E, T) [task's standard deviations], the dtype of obs, zero at invalid steps; and the share of the
        returns' variance that the baseline explains.
    """
    valid = rollout.valid
    reward = torch.where(valid, rollout.reward, 0.0).double()
    # what follows a fault is unknown: its target would be too small, so the fit leaves these episodes out
    fitted = valid & ~rollout.truncated.unsqueeze(-1)
    target = discounted_sum(reward, discount)
    value = fit_predict(rollout.obs, target, fitted, num_threads=num_threads)
    length = valid.sum(dim=2, keepdim=True).clamp(max=valid.shape[2] - 1)
    reached = value.gather(2, length).squeeze(2)
    last_value = torch.where(rollout.truncated, reached, 0.0)
    advantage = gae(reward, value, last_value, valid, discount, lam)
    explained = explained_variance(target[fitted], value[fitted])
    return standardise(advantage, valid).to(rollout.obs.dtype), explained
