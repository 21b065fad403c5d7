"""Model-predictive control: candidates for the next actions, compared on the adapted model."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.learners.grbal.config import GrbalConfig
from metarl.learners.grbal.model import Scales
from metarl.networks.mlp import TanhMLP

SHIFTS = 64
"""Control steps after which the noise of the candidates repeats."""

MIN_STD = 0.05
"""Least spread of the candidates of cem, as a share of `plan_std`."""

WORST = -1e6
"""Return of a candidate for which the model gives a number that is not finite."""


class Planner:
    """Chooses sequences of actions by their return on a model.

    The candidates' noise is drawn once: P sequences, half of them the others' negatives and one of
    them zero, so that the plan itself is a candidate. Control step t reads them from step t on.
    So all rows compare the same candidates, and a plan is a function of its row alone.

    Args:
        config: Settings.
        action_size: A.
        rng: Stream of the noise.
    """

    def __init__(self, config: GrbalConfig, action_size: int, rng: np.random.Generator):
        self._config, self._horizon = config, config.plan_steps
        half = config.candidates // 2
        size = half, SHIFTS + config.plan_steps - 1, action_size
        noise = _correlate(rng.standard_normal(size, dtype=np.float32), config.plan_correlation)
        both = np.concatenate([noise, -noise])
        both[0] = 0.0
        # (P, SHIFTS, A, H), a view
        self._noise = torch.from_numpy(both).unfold(1, config.plan_steps, 1)

    def plan(
        self,
        network: TanhMLP,
        params: Params,
        scales: Scales,
        state: Tensor,
        start: Tensor,
        step: Tensor,
    ) -> Tensor:
        """Returns actions (M, H, A) [action bounds, within -1 and 1] for M rows.

        Args:
            network: Of the model.
            params: Adapted, (M, *shape).
            scales: Of the model.
            state: Scaled states (M, S + 1).
            start: Actions (M, H, A) [action bounds] around which the candidates are.
            step: Control steps so far (M,).
        """
        config, mean = self._config, start
        std: Tensor | float = config.plan_std
        for index in range(config.plan_rounds):
            noise = self._noise[:, (step * config.plan_rounds + index) % SHIFTS]
            noise = noise.permute(1, 0, 3, 2)  # (M, P, H, A)
            candidates = (mean.unsqueeze(1) + std * noise).clamp_(-1.0, 1.0)
            returns = predict_returns(network, params, scales, state, candidates)
            if config.planner == "mppi":
                mean = average(candidates, returns, config.temperature)
            elif config.planner == "cem":
                mean, std = select(candidates, returns, config.elite_fraction)
                std = std.unsqueeze(1).clamp_(min=MIN_STD * config.plan_std)
            else:
                best = returns.argmax(dim=1)
                mean = candidates[torch.arange(len(best)), best]
        return mean


def predict_returns(
    network: TanhMLP, params: Params, scales: Scales, state: Tensor, candidates: Tensor
) -> Tensor:
    """Returns the sums of predicted rewards (M, P), scaled as states are.

    Args:
        network: Of the model.
        params: (M, *shape).
        scales: Of the model.
        state: Scaled states (M, S + 1), the reward last.
        candidates: Actions (M, P, H, A) [action bounds].
    """
    number, steps = candidates.shape[1:3]
    states = state.unsqueeze(1).expand(-1, number, -1)
    total = torch.zeros(candidates.shape[:2], dtype=state.dtype)
    for t in range(steps):
        inputs = torch.cat([states, candidates[:, :, t]], dim=-1)
        states = scales.advance(states, network.outputs(params, inputs))
        total += states[..., -1]
    return torch.nan_to_num(total, nan=WORST, posinf=WORST, neginf=WORST)


def average(candidates: Tensor, returns: Tensor, temperature: float) -> Tensor:
    """Returns the mean (M, H, A) of candidates with the weights of MPPI.

        w_p = exp(R_p / (temperature * std R)) / sum of the same

    Source: Williams et al. 2017, Information theoretic MPC, with the temperature relative to the
    spread of the returns.
    """
    spread = returns.std(dim=1, keepdim=True, correction=0).clamp(min=1e-6)
    weight = torch.softmax(returns / (temperature * spread), dim=1)
    return (weight[:, :, None, None] * candidates).sum(dim=1)


def select(candidates: Tensor, returns: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation (M, H, A) of the best candidates, as CEM does."""
    number = max(2, math.ceil(fraction * returns.shape[1]))
    best = returns.topk(number, dim=1).indices
    index = best[:, :, None, None].expand(-1, -1, *candidates.shape[2:])
    std, mean = torch.std_mean(candidates.gather(1, index), dim=1, correction=0)
    return mean, std


def _correlate(noise: np.ndarray, correlation: float) -> np.ndarray:
    """Returns normal noise (P, L, A) of variance 1 with a correlation of neighbouring steps."""
    fresh = math.sqrt(1.0 - correlation**2)
    for t in range(1, noise.shape[1]):
        noise[:, t] = correlation * noise[:, t - 1] + fresh * noise[:, t]
    return noise
