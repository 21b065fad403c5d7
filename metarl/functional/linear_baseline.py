"""The linear time-feature baseline, fitted to every task and rollout."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.core.machine.parallel import ALONE, Group, map_in_group


def features(obs: Tensor) -> Tensor:
    """Builds the features [o, o^2, t, t^2, t^3, 1].

    The observation o is clipped to [-10, 10]. The time t is in hundreds of steps, and in half
    horizons if the horizon T is longer than 200: t^3 would be so large that the penalty of the fit,
    which is relative to the mean square, would leave no weight to the observation.

    Args:
        obs: (..., T, S).

    Returns:
        (..., T, 2 S + 4), float64.

    Source: Duan et al. 2016 (arXiv:1604.06778), section 5.
    """
    clipped = obs.double().clamp(-10.0, 10.0)
    steps = obs.shape[-2]
    time = torch.arange(steps, dtype=torch.float64, device=obs.device).unsqueeze(-1)
    time = time / max(100.0, steps / 2)
    clock = torch.cat([time, time.square(), time**3, torch.ones_like(time)], dim=-1)
    clock = clock.expand(*obs.shape[:-2], steps, 4)
    return torch.cat([clipped, clipped.square(), clock], dim=-1)


def fit_predict(
    obs: Tensor,
    target: Tensor,
    valid: Tensor,
    ridge: float = 1e-5,
    *,
    num_threads: int = 1,
    group: Group = ALONE,
) -> Tensor:
    """Fits a ridge regression to each task and predicts every step.

    Args:
        obs: (N, E, T, S).
        target: (N, E, T), read where valid.
        valid: (N, E, T).
        ridge: Regularisation, relative to the mean diagonal of the normal matrix.
        num_threads: Threads over tasks on a CPU; the result does not depend on it.
        group: Processes that divide the tasks on a CPU; neither does it depend on them.

    Returns:
        Predictions (N, E, T), float64, also where not valid.
    """
    # the features of all tasks would be the largest array of an update on a CPU
    on_cpu = obs.device.type == "cpu"
    size = 1 if on_cpu else len(obs)

    def fit(start: int) -> Tensor:
        own = slice(start, start + size)
        return _fit_predict(obs[own], target[own], valid[own], ridge)

    starts = range(0, len(obs), size)
    return torch.cat(map_in_group(fit, starts, num_threads, group if on_cpu else ALONE))


def _fit_predict(obs: Tensor, target: Tensor, valid: Tensor, ridge: float) -> Tensor:
    """Does the same for some of the tasks at once."""
    x = features(obs)
    used = torch.where(valid.unsqueeze(-1), x, 0.0).flatten(1, 2)
    normal = used.mT @ used
    wanted = torch.where(valid, target.double(), 0.0).flatten(1)
    moment = (used.mT @ wanted.unsqueeze(-1)).squeeze(-1)
    scale = normal.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=1e-12)
    eye = torch.eye(normal.shape[-1], dtype=normal.dtype, device=obs.device)
    normal = normal + ridge * scale[:, None, None] * eye
    weights, _ = torch.linalg.solve_ex(normal, moment)  # unlike solve, waits for no GPU
    return (x @ weights[:, None, :, None]).squeeze(-1)
