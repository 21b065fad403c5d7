"""Discounted returns and generalised advantage estimation. Time is the last axis unless noted."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.core.machine.parallel import ALONE, Group
from metarl.core.rollout import Rollout
from metarl.functional.linear_baseline import fit_predict
from metarl.functional.scan import reverse_scan


def discounted_sum(values: Tensor, factor: float) -> Tensor:
    """Sums future values: y[t] = x[t] + factor * y[t + 1].

    Args:
        values: x (..., T).
        factor: Discount per step, in [0, 1].

    Returns:
        y (..., T), the dtype of values.
    """
    inputs = values.movedim(-1, 0)
    decay = values.new_full((), factor).expand(inputs.shape)
    return reverse_scan(decay, inputs).movedim(0, -1)


def gae(
    reward: Tensor, value: Tensor, last_value: Tensor, valid: Tensor, discount: float, lam: float
) -> Tensor:
    """Estimates advantages of episodes of different lengths.

        delta[t] = r[t] + discount * V[t + 1] - V[t]
        A[t] = sum_i (discount * lam)^i delta[t + i]

    Args:
        reward: (..., T).
        value: V of the observations (..., T).
        last_value: V after the last valid step (...): 0 where the task ended or the horizon was
            reached; the value of the next state where the simulation failed.
        valid: (..., T), a prefix of every row.
        discount: gamma in [0, 1].
        lam: lambda in [0, 1].

    Returns:
        Advantages (..., T), zero at invalid steps.

    Source: Schulman et al. 2016 (arXiv:1506.02438), equation 16.
    """
    # selected, not multiplied by 0 and 1: entries of invalid steps may be anything, also NaN
    next_value = last_value.unsqueeze(-1).expand_as(value).clone()
    next_value[..., :-1] = torch.where(valid[..., 1:], value[..., 1:], next_value[..., :-1])
    delta = torch.where(valid, reward + discount * next_value - value, 0.0)
    return discounted_sum(delta, discount * lam)


def gae_over_trial(
    reward: Tensor,
    value: Tensor,
    valid: Tensor,
    acted: Tensor,
    discount: float,
    lam: float,
    *,
    ends: Tensor | None = None,
) -> Tensor:
    """Estimates advantages over trials, across the ends of their episodes.

    An action in one episode can raise the returns of the next ones, because the policy adapts.
    A failed simulation cuts the sum; the value of the last state replaces the rest.

    Args:
        reward: (L, M), time first.
        value: V of the observations (L, M).
        valid: (L, M) the step counts.
        acted: (L, M) the policy acted; a prefix. A step that is acted but not valid is one in
            which the simulation failed.
        discount: gamma in [0, 1].
        lam: lambda in [0, 1].
        ends: (L, M) nothing after this step counts as its consequence; by default there is none.

    Returns:
        Advantages (L, M), zero where not valid. The value after the end of a trial is 0, because
        the length of a trial is part of the problem.
    """
    # selected, not multiplied by 0 and 1: entries of invalid steps may be anything, also NaN
    next_value = torch.zeros_like(value)
    next_value[:-1] = torch.where(acted[1:], value[1:], 0.0)
    goes_on = valid if ends is None else valid & ~ends
    next_value = torch.where(goes_on, next_value, 0.0)
    delta = torch.where(valid, reward + discount * next_value - value, 0.0)
    return reverse_scan(discount * lam * goes_on.to(value.dtype), delta)


def explained_variance(target: Tensor, value: Tensor, valid: Tensor | None = None) -> float:
    """Returns the fraction of the variance of target (...) that value (...) explains.

    It is 0 for a constant target. Entries that are not valid (...) are left out.
    """
    valid = torch.ones_like(target, dtype=torch.bool) if valid is None else valid
    count = valid.sum()

    def sum_squares(numbers: Tensor) -> Tensor:
        centred = torch.where(valid, numbers, 0.0)
        centred = torch.where(valid, centred - centred.sum() / count, 0.0)
        return centred.square().sum()

    target, value = target.double(), value.double()
    size = torch.where(valid, target, 0.0).square().sum()
    found = torch.stack([sum_squares(target), sum_squares(target - value), size, count.double()])
    total, rest, raw, number = found.tolist()  # the one wait for a GPU
    return 1.0 - rest / total if number >= 2 and total > 1e-12 * raw else 0.0


def standardise(advantage: Tensor, valid: Tensor, size: Tensor | float = 1.0) -> Tensor:
    """Scales advantages to mean 0 and standard deviation 1 over the valid steps of each task.

    Advantages of a task that are equal up to rounding become zeros. Division by std + 1e-8 would
    turn the rounding errors into noise of size one.

    Args:
        advantage: (N, E, T).
        valid: (N, E, T).
        size: Size of the rewards (N, 1, 1) or of all: differences below 1e-6 of it are rounding.

    Returns:
        Advantages (N, E, T) [task's standard deviations], zero at invalid steps.
    """
    advantage = torch.where(valid, advantage, 0.0)
    count = valid.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    mean = advantage.sum(dim=(1, 2), keepdim=True) / count
    centred = torch.where(valid, advantage - mean, 0.0)
    std = (centred.square().sum(dim=(1, 2), keepdim=True) / count).sqrt()
    largest = advantage.abs().amax(dim=(1, 2), keepdim=True)
    flat = std <= 1e-6 * largest.clamp(min=size)
    return torch.where(flat, torch.zeros_like(centred), centred / torch.where(flat, 1.0, std))


def measure_spread(values: Tensor, valid: Tensor) -> Tensor:
    """Returns number, mean and squared deviations from it (N, 3) of each task's valid values.

    Args:
        values: (N, E, T).
        valid: (N, E, T).
    """
    values, count = torch.where(valid, values.double(), 0.0), valid.sum(dim=(1, 2)).double()
    mean = values.sum(dim=(1, 2)) / count.clamp(min=1.0)
    centred = torch.where(valid, values - mean[:, None, None], 0.0)
    return torch.stack([count, mean, centred.square().sum(dim=(1, 2))], dim=1)


def explained_by_tasks(spreads: Tensor) -> float:
    """Returns the fraction of a variance over all tasks that a prediction explains.

        sum of squares = sum_i (S_i + n_i (m_i - m)^2),  m = sum_i n_i m_i / sum_i n_i

    It is 0 for a constant target.

    Args:
        spreads: (N, 2, 3) as `measure_spread` gives them, of the target and of target - prediction.

    Source: Chan, Golub and LeVeque 1979, Updating formulae and a pairwise algorithm.
    """
    count, mean, squares = spreads.double().unbind(dim=2)
    number = count.sum(dim=0)
    centre = (count * mean).sum(dim=0) / number.clamp(min=1.0)
    sums = (squares + count * (mean - centre).square()).sum(dim=0)
    raw = (squares + count * mean.square()).sum(dim=0)[0]
    found = torch.stack([*sums, raw, number[0]])
    total, rest, size, entries = found.tolist()  # the one wait for a GPU
    return 1.0 - rest / total if entries >= 2 and total > 1e-12 * size else 0.0


def advantages(
    rollout: Rollout, discount: float, lam: float, *, num_threads: int = 1
) -> tuple[Tensor, float]:
    """Fits the baseline on a rollout; returns advantages and the fraction that it explains.

    As `estimate`, but with the fraction of the returns' variance over all tasks.
    """
    advantage, spreads = estimate(rollout, discount, lam, num_threads=num_threads)
    return advantage, explained_by_tasks(spreads)


def estimate(
    rollout: Rollout, discount: float, lam: float, *, num_threads: int = 1, group: Group = ALONE
) -> tuple[Tensor, Tensor]:
    """Fits the baseline on a rollout and estimates its advantages, each task apart.

    Args:
        rollout: Any rollout.
        discount: gamma in [0, 1].
        lam: lambda in [0, 1].
        num_threads: Threads over tasks on a CPU; the result does not depend on it.
        group: Processes that divide the tasks on a CPU; neither does it depend on them.

    Returns:
        Advantages (N, E, T) [task's standard deviations], the dtype of obs, zero at invalid steps;
        and the spreads (N, 2, 3) of returns and residuals, for `explained_by_tasks`.
    """
    valid = rollout.valid
    reward = torch.where(valid, rollout.reward, 0.0).double()
    # the return after a failed simulation is unknown, so these episodes are left out of the fit
    fitted = valid & ~rollout.truncated.unsqueeze(-1)
    target = discounted_sum(reward, discount)
    value = fit_predict(rollout.obs, target, fitted, num_threads=num_threads, group=group)
    length = valid.sum(dim=2, keepdim=True).clamp(max=valid.shape[2] - 1)
    next_value = value.gather(2, length).squeeze(2)
    last_value = torch.where(rollout.truncated, next_value, 0.0)
    advantage = gae(reward, value, last_value, valid, discount, lam)
    spreads = torch.stack([measure_spread(x, fitted) for x in (target, target - value)], dim=1)
    size = reward.abs().amax(dim=(1, 2), keepdim=True)
    return standardise(advantage, valid, size).to(rollout.obs.dtype), spreads
