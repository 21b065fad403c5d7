"""The linear time-feature baseline, fitted to every task and rollout."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.core.parallel import map_chunks


def features(obs: Tensor) -> Tensor:
    """Builds the features [o, o^2, t, t^2, t^3, 1].

    The observation o is clipped to [-10, 10]; the time t is in hundreds of steps.

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
    """Fits a ridge regression to each task and predicts every step.

    Args:
        obs: (N, E, T, S).
        target: (N, E, T), read where valid.
        valid: (N, E, T).
        ridge: Regularisation, relative to the mean diagonal of the normal matrix.
        num_threads: Threads over tasks; the result does not depend on it.

    Returns:
        Predictions (N, E, T), float64, also where not valid.
    """

    # one task at a time: the features of all tasks would be the largest array of an update
    def fit_one(task: int) -> Tensor:
        x = features(obs[task])
        all_valid = bool(valid[task].all())
        used = x if all_valid else torch.where(valid[task].unsqueeze(-1), x, 0.0)
        used = used.flatten(0, 1)
        normal = used.T @ used
        moment = used.T @ torch.where(valid[task], target[task].double(), 0.0).flatten()
        size = len(normal)
        scale = normal.diagonal().mean().clamp(min=1e-12)
        normal = normal + ridge * scale * torch.eye(size, dtype=normal.dtype, device=obs.device)
        return x @ torch.linalg.solve(normal, moment)

    return torch.stack(map_chunks(fit_one, range(len(obs)), num_threads))
