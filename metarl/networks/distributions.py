"""Distributions over actions: functions of a network's output and of a few parameters of their own.

A distribution is a value and owns no tensors. Its parameters stand by name among those of the
network: (N, A) for N tasks and outputs (N, M, A), or (A,) for outputs (L, M, A) of one policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from metarl.core.rollout import Action, Metrics, Params
from metarl.functional import categorical, gaussian, rounding
from metarl.networks.scores import CategoricalScores, GaussianScores, Scores


class Distribution(Protocol):
    """A family of distributions over actions."""

    def initial(self, action_size: int) -> Params:
        """Returns the first values (A,) of the parameters beside those of the network."""

    def clamp(self, params: Params) -> Params:
        """Returns the distribution's own parameters within their bounds."""

    def clamp_derivative(self, params: Params) -> Params:
        """Returns the derivative of `clamp`: 1 within the bounds and at them, 0 beyond."""

    def can_move(self, params: Params, direction: Params) -> Params:
        """Returns 1 where the own parameters can move along a direction within bounds, else 0."""

    def sample(self, params: Params, output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws actions (..., A) with standard normal noise (..., A).

        Returns:
            The actions, and their log-probabilities (...) [nats].
        """

    def precompute(self, params: Params) -> Params:
        """Returns what `sample_precomputed` needs of params and is the same at every step."""

    def sample_precomputed(
        self, precomputed: Params, output: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Does the same as `sample` up to rounding, with fewer operations a step."""

    def mode(self, output: Tensor) -> Tensor:
        """Returns the likeliest actions (..., A)."""

    def log_prob(self, params: Params, output: Tensor, action: Tensor) -> Tensor:
        """Returns the log-probabilities (...) [nats] of actions (..., A)."""

    def log_prob_rounding(self, params: Params, output: Tensor, action: Tensor) -> Tensor:
        """Bounds the difference (...) [nats] that rounding makes to the stored log_prob."""

    def entropy(self, params: Params, output: Tensor) -> Tensor:
        """Returns the entropy (...) [nats]."""

    def kl_divergence(
        self, params_p: Params, output_p: Tensor, params_q: Params, output_q: Tensor
    ) -> Tensor:
        """Returns KL(p || q) (...) [nats]."""

    def scores(self, params: Params, output: Tensor, action: Tensor) -> Scores:
        """Returns log-probabilities of actions (N, M, A), with their derivatives."""

    def fisher_product(
        self,
        params: Params,
        output: Tensor,
        params_tangent: Params,
        output_tangent: Tensor,
        weight: Tensor,
    ) -> tuple[Tensor, Params]:
        """Multiplies a tangent by the Fisher information of every state.

        Args:
            params: Each value (N, *shape).
            output: (N, M, A).
            params_tangent: The tangent of params, (N, *shape).
            output_tangent: The tangent of output (N, M, A).
            weight: Of every state (N, M, 1).

        Returns:
            The weighted cotangent (N, M, A) of the output, and those of the own parameters.
        """

    def metrics(self, params: Params) -> Metrics:
        """Returns the mean of each of the own parameters as clamped, by name."""


@dataclass(frozen=True)
class DiagonalGaussian:
    """The output is the mean; "log_std" is the same in all states.

    A learner keeps its parameters within the bound (`clamp_`), because the clamp has no gradient
    below it and "log_std" could not come back.

    Attributes:
        initial_log_std: First log standard deviation.
        min_log_std: Lower bound, applied wherever "log_std" is read.
    """

    initial_log_std: float = 0.0
    min_log_std: float = -3.0

    def initial(self, action_size: int) -> Params:
        """See `Distribution`."""
        return {"log_std": torch.full((action_size,), float(self.initial_log_std))}

    def clamp(self, params: Params) -> Params:
        """See `Distribution`."""
        return {"log_std": params["log_std"].clamp(min=self.min_log_std)}

    def log_std(self, params: Params) -> Tensor:
        """Returns the clamped log standard deviations (..., 1, A), to broadcast over states."""
        return self.clamp(params)["log_std"].unsqueeze(-2)

    def clamp_derivative(self, params: Params) -> Params:
        """See `Distribution`."""
        raw = params["log_std"]
        return {"log_std": (raw >= self.min_log_std).to(raw.dtype)}

    def can_move(self, params: Params, direction: Params) -> Params:
        """See `Distribution`."""
        raw = params["log_std"]
        free = (raw > self.min_log_std) | (direction["log_std"] > 0.0)
        return {"log_std": free.to(raw.dtype)}

    def sample(self, params: Params, output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """See `Distribution`."""
        log_std = self.log_std(params)
        action = torch.addcmul(output, log_std.exp(), noise)
        return action, gaussian.log_prob_of_noise(noise, log_std)

    def precompute(self, params: Params) -> Params:
        """Returns "std" (..., 1, A) and "log_peak" (..., 1), the log-density at the mean [nats]."""
        log_std = self.log_std(params)
        peak = gaussian.log_prob_of_noise(torch.zeros_like(log_std), log_std)
        return {"std": log_std.exp(), "log_peak": peak}

    def sample_precomputed(
        self, precomputed: Params, output: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `Distribution`."""
        action = torch.addcmul(output, precomputed["std"], noise)
        squared = noise.square().sum(dim=-1)
        return action, torch.add(precomputed["log_peak"], squared, alpha=-0.5)

    def mode(self, output: Tensor) -> Tensor:
        """See `Distribution`."""
        return output

    def log_prob(self, params: Params, output: Tensor, action: Tensor) -> Tensor:
        """See `Distribution`."""
        return gaussian.log_prob(action, output, self.log_std(params))

    @torch.no_grad()
    def log_prob_rounding(self, params: Params, output: Tensor, action: Tensor) -> Tensor:
        """See `Distribution`."""
        return rounding.gaussian_rounding(action, output, self.log_std(params))

    def entropy(self, params: Params, output: Tensor) -> Tensor:
        """See `Distribution`."""
        return gaussian.entropy(self.log_std(params)).expand(output.shape[:-1])

    def kl_divergence(
        self, params_p: Params, output_p: Tensor, params_q: Params, output_q: Tensor
    ) -> Tensor:
        """See `Distribution`."""
        log_std_p, log_std_q = self.log_std(params_p), self.log_std(params_q)
        return gaussian.kl_divergence(output_p, log_std_p, output_q, log_std_q)

    def scores(self, params: Params, output: Tensor, action: Tensor) -> GaussianScores:
        """See `Distribution`."""
        free = self.clamp_derivative(params)["log_std"].unsqueeze(-2)
        return GaussianScores(action, output, self.log_std(params), free)

    def fisher_product(
        self,
        params: Params,
        output: Tensor,
        params_tangent: Params,
        output_tangent: Tensor,
        weight: Tensor,
    ) -> tuple[Tensor, Params]:
        """See `Distribution`."""
        del output
        log_std, free = self.log_std(params), self.clamp_derivative(params)["log_std"]
        tangents = output_tangent, params_tangent["log_std"] * free
        mean_product, log_std_product = gaussian.fisher_product(*tangents, log_std)
        return weight * mean_product, {"log_std": log_std_product * free * weight.sum(dim=1)}

    def metrics(self, params: Params) -> Metrics:
        """See `Distribution`."""
        return {"log_std": float(self.clamp(params)["log_std"].mean())}


@dataclass(frozen=True)
class Categorical:
    """The output holds the logits of A alternatives; an action is a one-hot row (A,)."""

    def initial(self, action_size: int) -> Params:
        """Returns nothing: there are no parameters beside those of the network."""
        del action_size
        return {}

    def clamp(self, params: Params) -> Params:
        """Returns nothing: there are no own parameters."""
        del params
        return {}

    def clamp_derivative(self, params: Params) -> Params:
        """Returns nothing: there are no own parameters."""
        del params
        return {}

    def can_move(self, params: Params, direction: Params) -> Params:
        """Returns nothing: there are no own parameters."""
        del params, direction
        return {}

    def sample(self, params: Params, output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """See `Distribution`."""
        del params
        action = categorical.sample(output, noise)
        return action, categorical.log_prob(action, output)

    def precompute(self, params: Params) -> Params:
        """Returns nothing: sampling needs the logits alone."""
        del params
        return {}

    def sample_precomputed(
        self, precomputed: Params, output: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `Distribution`."""
        return self.sample(precomputed, output, noise)

    def mode(self, output: Tensor) -> Tensor:
        """See `Distribution`."""
        return categorical.mode(output)

    def log_prob(self, params: Params, output: Tensor, action: Tensor) -> Tensor:
        """See `Distribution`."""
        del params
        return categorical.log_prob(action, output)

    @torch.no_grad()
    def log_prob_rounding(self, params: Params, output: Tensor, action: Tensor) -> Tensor:
        """See `Distribution`."""
        log_prob = self.log_prob(params, output, action)
        return rounding.categorical_rounding(action, output, log_prob)

    def entropy(self, params: Params, output: Tensor) -> Tensor:
        """See `Distribution`."""
        del params
        return categorical.entropy(output)

    def kl_divergence(
        self, params_p: Params, output_p: Tensor, params_q: Params, output_q: Tensor
    ) -> Tensor:
        """See `Distribution`."""
        del params_p, params_q
        return categorical.kl_divergence(output_p, output_q)

    def scores(self, params: Params, output: Tensor, action: Tensor) -> CategoricalScores:
        """See `Distribution`."""
        del params
        return CategoricalScores(action, output)

    def fisher_product(
        self,
        params: Params,
        output: Tensor,
        params_tangent: Params,
        output_tangent: Tensor,
        weight: Tensor,
    ) -> tuple[Tensor, Params]:
        """See `Distribution`."""
        del params, params_tangent
        return weight * categorical.fisher_product(output_tangent, output), {}

    def metrics(self, params: Params) -> Metrics:
        """Returns nothing: there are no own parameters."""
        del params
        return {}


def own_metrics(distribution: Distribution, params: Params) -> Metrics:
    """Returns a policy's `Distribution.metrics` by the names of the log, "policy/log_std" say."""
    return {f"policy/{name}": value for name, value in distribution.metrics(params).items()}


def build_distribution(discrete: bool, initial_log_std: float, min_log_std: float) -> Distribution:
    """Chooses the distribution for one-hot actions of A alternatives, or for real ones."""
    if discrete:
        return Categorical()
    return DiagonalGaussian(initial_log_std, min_log_std)


def choose(
    distribution: Distribution, params: Params, output: Tensor, noise: Tensor | None
) -> Action:
    """Draws actions with standard normal noise (N, E, A), or takes the likeliest without noise.

    Args:
        distribution: Over actions.
        params: Its own parameters.
        output: Of the network (N, E, A).
        noise: (N, E, A).
    """
    if noise is None:
        return Action(distribution.mode(output), torch.zeros(output.shape[:2]))
    return Action(*distribution.sample(params, output, noise))


@torch.no_grad()
def clamp_(distribution: Distribution, params: Params) -> None:
    """Moves the distribution's own parameters, by name, into their bounds, in place."""
    for name, value in distribution.clamp(params).items():
        params[name].copy_(value)
