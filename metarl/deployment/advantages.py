"""Advantages for the adaptation of an exported policy, without torch.

They are those of `metarl.functional.advantages` for one task.
"""

from __future__ import annotations

import numpy as np

RIDGE = 1e-5
"""Regularisation of the baseline, relative to the mean diagonal of the normal matrix."""


def advantages(
    obs: np.ndarray,
    reward: np.ndarray,
    valid: np.ndarray,
    truncated: np.ndarray,
    discount: float,
    lam: float,
) -> np.ndarray:
    """Fits the linear time-feature baseline on a task's episodes and estimates advantages.

    Args:
        obs: (E, T, S).
        reward: (E, T), read where valid.
        valid: (E, T), a prefix of every row.
        truncated: Episodes (E,) that a fault cut.
        discount: gamma in [0, 1].
        lam: lambda in [0, 1].

    Returns:
        Advantages (E, T) [task's standard deviations], float32, zero at invalid steps.
    """
    reward = np.where(valid, reward, 0.0).astype(float)
    fitted = valid & ~truncated[:, None]
    value = _fit_predict(obs, _discounted_sum(reward, discount), fitted)
    lengths = valid.sum(axis=1)
    episodes = np.arange(len(obs))
    # the value after a fault replaces the rest of the return
    after = value[episodes, np.minimum(lengths, valid.shape[1] - 1)]
    next_value = np.tile(np.where(truncated, after, 0.0)[:, None], valid.shape[1])
    next_value[:, :-1] = np.where(valid[:, 1:], value[:, 1:], next_value[:, :-1])
    delta = np.where(valid, reward + discount * next_value - value, 0.0)
    size = float(np.abs(reward).max())
    return _standardise(_discounted_sum(delta, discount * lam), valid, size).astype(np.float32)


def _features(obs: np.ndarray) -> np.ndarray:
    """Returns [o, o^2, t, t^2, t^3, 1] (E, T, 2 S + 4)."""
    clipped = np.clip(obs.astype(float), -10.0, 10.0)
    steps = np.arange(obs.shape[1])[None, :, None]
    time = np.broadcast_to(steps / max(100.0, obs.shape[1] / 2), (*obs.shape[:2], 1))
    clock = [time, time**2, time**3, np.ones_like(time)]
    return np.concatenate([clipped, clipped**2, *clock], axis=2)


def _fit_predict(obs: np.ndarray, target: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Fits a ridge regression where fitted (E, T) and predicts every step (E, T)."""
    x = _features(obs)
    used, wanted = x[fitted], target[fitted]
    normal = used.T @ used
    scale = max(normal.diagonal().mean(), 1e-12)
    return x @ np.linalg.solve(normal + RIDGE * scale * np.eye(len(normal)), used.T @ wanted)


def _discounted_sum(values: np.ndarray, factor: float) -> np.ndarray:
    """Returns y[:, t] = x[:, t] + factor * y[:, t + 1]."""
    result, total = np.empty_like(values), np.zeros(len(values))
    for t in range(values.shape[1] - 1, -1, -1):
        total = values[:, t] + factor * total
        result[:, t] = total
    return result


def _standardise(advantage: np.ndarray, valid: np.ndarray, size: float) -> np.ndarray:
    """Scales to mean 0 and standard deviation 1 where valid; constant ones become zeros.

    Differences below 1e-6 of the size of the rewards are rounding.
    """
    used = advantage[valid]
    centred, std = used - used.mean(), used.std()
    is_flat = std <= 1e-6 * max(np.abs(used).max(), size)
    result = np.zeros_like(advantage)
    result[valid] = 0.0 if is_flat else centred / std
    return result
