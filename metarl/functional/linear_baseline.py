"""The linear time-feature baseline, fitted anew for every task and rollout."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.core.learner import Rollout
from metarl.core.parallel import map_chunks
from metarl.functional.advantages import discounted_sum, explained_variance, gae, standardise


def features(obs: Tensor) -> Tensor:
    """Builds the features [o, o^2, t, t^2, t^3, 1] with o clipped to [-10, 10] and t in hundreds of steps.

    Args:
        obs: (..., T, S).

    Returns:
        (..., T, 2 S + 4), float64.

    Source: Duan et al. 2016 (arXiv:1604.06778), section 5.
    """
    clipped = obs.double().clamp(-10.0, 10.0)
    steps = obs.shape[-2]
    time = torch.arange(steps, dtype=torch.float64, device=obs.device).unsqueeze(-1) / 100.0
    clock = torch.cat([time, time.square(), time**3, torch.ones_like(time)], dim=-1)
    clock = clock.expand(*obs.shape[:-2], steps, 4)
    return torch.cat([clipped, clipped.square(), clock], dim=-1)


def fit_predict(
    obs: Tensor, target: Tensor, valid: Tensor, ridge: float = 1e-5, *, num_threads: int = 1
) -> Tensor:
    """Fits one ridge regression a task and predicts every step.

    Args:
        obs: (N, E, T, S).
        target: (N, E, T), read where valid.
        valid: (N, E, T).
        ridge: Regularisation, relative to the mean diagonal of the normal matrix, so that it needs no scale.
        num_threads: Threads over tasks; the result does not depend on it.

    Returns:
        Predictions (N, E, T), float64, also where not valid.
    """

    # one at a time: the features of all tasks would be the largest array of an update
    def one(task: int) -> Tensor:
        x = features(obs[task])
        every = bool(valid[task].all())
        used = x if every else torch.where(valid[task].unsqueeze(-1), x, 0.0)
        used = used.flatten(0, 1)
        normal = used.T @ used
        moment = used.T @ torch.where(valid[task], target[task].double(), 0.0).flatten()
        size = len(normal)
        scale = normal.diagonal().mean().clamp(min=1e-12)
        normal = normal + ridge * scale * torch.eye(size, dtype=normal.dtype, device=obs.device)
        return x @ torch.linalg.solve(normal, moment)

    return torch.stack(map_chunks(one, range(len(obs)), num_threads))


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
