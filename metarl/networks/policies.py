"""Policies as functions of (params, inputs): they own no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from metarl.core.rollout import Metrics, Params
from metarl.functional import categorical, gaussian
from metarl.networks.mlp import TanhMLP
from metarl.networks.scores import CategoricalScores, GaussianScores, Scores

Law = tuple[Tensor, ...]
"""The numbers of a distribution over actions: (mean, log_std) or (logits,), each (N, M or 1, A)."""


@dataclass(frozen=True)
class GaussianMLP(TanhMLP):
    """A tanh network for the mean and a free log standard deviation per action dimension.

    Attributes:
        min_log_std: log_std is clamped from below, before and after adaptation.
    """

    min_log_std: float = -3.0

    def initial(self, rng: np.random.Generator, log_std: float, output_gain: float = 1.0) -> Params:
        """Draws parameters: those of the network, and "log_std" (A,).

        Args:
            rng: The stream of the initialisation.
            log_std: First logarithm of the standard deviation.
            output_gain: See `initial_network`.
        """
        params = self.initial_network(rng, output_gain)
        params["log_std"] = torch.full((self.action_size,), float(log_std))
        return params

    def mean(self, params: Params, obs: Tensor) -> Tensor:
        """Mean actions (N, M, A) for obs (N, M, S) and parameters (N, *shape)."""
        return self.outputs(params, obs)

    def log_std(self, params: Params) -> Tensor:
        """Clamped log standard deviations (N, 1, A), which broadcast against (N, M, A)."""
        return params["log_std"].clamp(min=self.min_log_std).unsqueeze(-2)

    def log_std_free(self, params: Params) -> Tensor:
        """Derivative (N, 1, A) of the clamp: 0 where it holds the logarithm back, else 1."""
        raw = params["log_std"]
        return (raw >= self.min_log_std).to(raw.dtype).unsqueeze(-2)

    def mean_tangent(self, params: Params, tangent: Params, obs: Tensor) -> Tensor:
        """Derivative (N, M, A) of the mean along a direction in parameter space (forward mode).

        Args:
            params: (N, *shape).
            tangent: The direction, (N, *shape).
            obs: (N, M, S).
        """
        return self.tangents(params, tangent, self.activations(params, obs))[-1]

    # --- the distribution: what `Policy` asks for -----------------------------------------------------------------

    def acting(self, params: Params) -> Params:
        """The action's "std" (N, 1, A) and "log_peak" (N, 1), its log-density at the mean [nats]."""
        log_std = self.log_std(params)
        peak = gaussian.log_prob_of_noise(torch.zeros_like(log_std), log_std)
        return {"std": log_std.exp(), "log_peak": peak}

    def draw(self, acting: Params, output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """See `Policy`."""
        action = torch.addcmul(output, acting["std"], noise)
        return action, torch.add(acting["log_peak"], noise.square().sum(dim=-1), alpha=-0.5)

    def mode(self, output: Tensor) -> Tensor:
        """The mean."""
        return output

    def law(self, params: Params, output: Tensor) -> Law:
        """Mean (N, M, A) and log_std (N, 1, A)."""
        return output, self.log_std(params)

    def log_prob(self, law: Law, action: Tensor) -> Tensor:
        """See `Policy`."""
        return gaussian.log_prob(action, *law)

    def kl_divergence(self, law_p: Law, law_q: Law) -> Tensor:
        """See `Policy`."""
        return gaussian.kl_divergence(*law_p, *law_q)

    def scores(self, params: Params, output: Tensor, action: Tensor) -> Scores:
        """See `Policy`."""
        return GaussianScores(action, output, self.log_std(params), self.log_std_free(params))

    def fisher_pull(
        self, params: Params, tangent: Params, output: Tensor, moved: Tensor, weight: Tensor
    ) -> tuple[Tensor, Params]:
        """See `Policy`."""
        del output
        log_std, free = self.log_std(params), self.log_std_free(params).squeeze(-2)
        mean_side, std_side = gaussian.fisher_product(moved, tangent["log_std"] * free, log_std)
        return weight * mean_side, {"log_std": std_side * free * weight.sum(dim=1)}

    def figures(self, params: Params, adapted: Params) -> Metrics:
        """The noise before and after adaptation."""
        return {
            "policy/log_std": float(params["log_std"].mean()),
            "policy/log_std_adapted": float(adapted["log_std"].mean()),
        }


@dataclass(frozen=True)
class CategoricalMLP(TanhMLP):
    """A tanh network for the logits of A actions; an action is a one-hot row (A,)."""

    def initial(self, rng: np.random.Generator, output_gain: float = 1.0) -> Params:
        """Draws parameters: those of the network. See `initial_network`."""
        return self.initial_network(rng, output_gain)

    def acting(self, params: Params) -> Params:
        """Nothing: all that acting needs is in the logits."""
        del params
        return {}

    def draw(self, acting: Params, output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """See `Policy`."""
        del acting
        action = categorical.sample(output, noise)
        return action, categorical.log_prob(action, output)

    def mode(self, output: Tensor) -> Tensor:
        """The likeliest action."""
        return categorical.mode(output)

    def law(self, params: Params, output: Tensor) -> Law:
        """Logits (N, M, A)."""
        del params
        return (output,)

    def log_prob(self, law: Law, action: Tensor) -> Tensor:
        """See `Policy`."""
        return categorical.log_prob(action, *law)

    def kl_divergence(self, law_p: Law, law_q: Law) -> Tensor:
        """See `Policy`."""
        return categorical.kl_divergence(*law_p, *law_q)

    def scores(self, params: Params, output: Tensor, action: Tensor) -> Scores:
        """See `Policy`."""
        del params
        return CategoricalScores(action, output)

    def fisher_pull(
        self, params: Params, tangent: Params, output: Tensor, moved: Tensor, weight: Tensor
    ) -> tuple[Tensor, Params]:
        """See `Policy`."""
        del params, tangent
        return weight * categorical.fisher_product(moved, output), {}

    def figures(self, params: Params, adapted: Params) -> Metrics:
        """Nothing."""
        del params, adapted
        return {}


class Policy(Protocol):
    """A network with a distribution over actions on top: what MAML-TRPO asks for beside the network itself."""

    def acting(self, params: Params) -> Params:
        """What `draw` needs of parameters (N, *shape) and is the same at every step."""

    def draw(self, acting: Params, output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws actions (N, M, A) and their log-probabilities (N, M) with standard normal noise (N, M, A)."""

    def mode(self, output: Tensor) -> Tensor:
        """The likeliest actions (N, M, A)."""

    def law(self, params: Params, output: Tensor) -> Law:
        """The distributions of outputs (N, M, A)."""

    def log_prob(self, law: Law, action: Tensor) -> Tensor:
        """Log-probabilities (N, M) [nats] of actions (N, M, A)."""

    def kl_divergence(self, law_p: Law, law_q: Law) -> Tensor:
        """KL(p || q) (N, M) [nats]."""

    def scores(self, params: Params, output: Tensor, action: Tensor) -> Scores:
        """The derivatives of the log-probabilities of actions (N, M, A)."""

    def fisher_pull(
        self, params: Params, tangent: Params, output: Tensor, moved: Tensor, weight: Tensor
    ) -> tuple[Tensor, Params]:
        """Multiplies a direction by the Fisher information of every state.

        Args:
            params: (N, *shape).
            tangent: The direction in parameter space, (N, *shape).
            output: (N, M, A).
            moved: Its derivative along the direction (N, M, A).
            weight: Of each state (N, M, 1).

        Returns:
            The weighted cotangent (N, M, A) of the outputs and slopes of parameters outside the network.
        """

    def figures(self, params: Params, adapted: Params) -> Metrics:
        """What a log says of the parameters before (*shape) and after adaptation (N, *shape)."""
