"""Policies as functions of (params, inputs): they own no tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metarl.types import Params


@dataclass(frozen=True)
class GaussianMLP:
    """A tanh network for the mean and a free log standard deviation per action dimension.

    Attributes:
        obs_size: S.
        action_size: A.
        hidden_sizes: Units of each hidden layer.
        min_log_std: log_std is clamped from below, before and after adaptation.
    """

    obs_size: int
    action_size: int
    hidden_sizes: tuple[int, ...] = (64, 64)
    min_log_std: float = -3.0

    def initial(self, rng: np.random.Generator, log_std: float) -> Params:
        """Draws parameters: Xavier uniform weights, zero biases.

        Args:
            rng: The stream of the initialisation.
            log_std: First logarithm of the standard deviation.

        Returns:
            "weight{i}" (in, out), "bias{i}" (out,) and "log_std" (A,), float32.
        """
        sizes = [self.obs_size, *self.hidden_sizes, self.action_size]
        params: Params = {}
        for i, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
            bound = math.sqrt(6.0 / (fan_in + fan_out))
            weight = rng.uniform(-bound, bound, (fan_in, fan_out)).astype(np.float32)
            params[f"weight{i}"] = torch.from_numpy(weight)
            params[f"bias{i}"] = torch.zeros(fan_out)
        params["log_std"] = torch.full((self.action_size,), float(log_std))
        return params

    def mean(self, params: Params, obs: Tensor) -> Tensor:
        """Mean actions (N, M, A) for obs (N, M, S) and parameters (N, *shape)."""
        return self._layers(params, obs)[-1]

    def log_std(self, params: Params) -> Tensor:
        """Clamped log standard deviations (N, 1, A), which broadcast against (N, M, A)."""
        return params["log_std"].clamp(min=self.min_log_std).unsqueeze(-2)

    def mean_tangent(self, params: Params, tangent: Params, obs: Tensor) -> Tensor:
        """Derivative (N, M, A) of the mean along a direction in parameter space (forward mode).

        Written out because torch's forward-mode levels are shared by all threads, and the curvature product runs on
        several.

        Args:
            params: (N, *shape).
            tangent: The direction, (N, *shape).
            obs: (N, M, S).
        """
        activations = self._layers(params, obs)
        moved = _affine(tangent["bias0"], obs, tangent["weight0"])
        for i in range(1, len(activations)):
            hidden = activations[i - 1]
            moved = moved * (1.0 - hidden.square())
            moved = _affine(tangent[f"bias{i}"], hidden, tangent[f"weight{i}"]) + torch.bmm(
                moved, params[f"weight{i}"]
            )
        return moved

    def _layers(self, params: Params, obs: Tensor) -> Sequence[Tensor]:
        """Hidden activations and, last, the mean."""
        last = len(self.hidden_sizes)
        outputs, value = [], obs
        for i in range(last + 1):
            value = _affine(params[f"bias{i}"], value, params[f"weight{i}"])
            if i < last:
                value = value.tanh()
            outputs.append(value)
        return outputs


def _affine(bias: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
    return torch.baddbmm(bias.unsqueeze(-2), inputs, weight)
