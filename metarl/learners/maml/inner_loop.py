"""The inner loop of gradient-based meta-learning: gradient steps, and products with their Jacobian.

theta_{k+1} = c(theta_k) - alpha_k * grad L_k(c(theta_k)),    J = prod_k (I - alpha_k H_k) C_k

c moves the parameters of the distribution into their bounds, so that a step can lead back from
beyond; C_k is its derivative, 0 or 1 for each parameter. alpha_k is a number, or a diagonal matrix
of step sizes: zero for parameters that the step does not move (ANIL, CAVIA), or learned (Meta-SGD).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from metarl.core.rollout import Params
from metarl.functional.params import leaves, total
from metarl.learners.maml.surrogates import Batch, Loss, LossAt, Surrogate
from metarl.networks.policies import MLPPolicy

Rate = float | Params
"""Step size of all parameters, or of each by name (n or 1, *shape); parameters without one stay."""

RATE = "rate/"
"""Beginning of the names of learned step sizes among the meta-parameters."""


def gradient(policy: MLPPolicy, kind: Surrogate | Loss, params: Params, batch: Batch) -> Params:
    """Returns the gradient of every task's inner loss at its own parameters, each (n, *shape).

    Args:
        policy: Maps parameters and observations to distributions.
        kind: The inner loss.
        params: Parameters of each task, each value (n, *shape).
        batch: Rollout of the n tasks.
    """
    return total(LossAt(policy, kind, params, block).gradient for block in batch.split_blocks())


class Linearised(Protocol):
    """The adaptation of a chunk of tasks, for products with its Jacobian J.

    Attributes:
        points: theta_0 .. theta_K, each value (n, *shape).
        gradients: Of the inner losses, see `Tape`.
    """

    @property
    def points(self) -> Sequence[Params]: ...  # noqa: D102

    @property
    def gradients(self) -> Sequence[Params]: ...  # noqa: D102

    def pull_back(self, cotangent: Params, params: Params) -> Params:
        """Returns J^T u for all meta-parameters, those without influence included.

        Args:
            cotangent: u, of the policy's parameters, each value (n, *shape).
            params: Meta-parameters (*shape).
        """

    def jvp(self, vector: Params) -> Params:
        """Returns J v for meta-parameters v with values (n, *shape)."""


@dataclass(frozen=True)
class Tape:
    """The inner steps of a chunk of tasks, for products with their Jacobian.

    Attributes:
        points: theta_0 .. theta_K, leaves, each value (n, *shape).
        gradients: grad L_k at c(theta_k) for k < K; empty if the points were known and the step
            sizes are not learned.
        losses: L_k at c(theta_k) for k < K, each as blocks of episodes to be summed; empty if no
            products are needed.
        clamps: C_k for k < K: the derivatives (n, *shape) of c for the distribution's parameters;
            empty if no products are needed.
        rates: alpha_0 .. alpha_{K-1}.
        learned: Factors on the learned step sizes in each step; empty if none are learned. The
            vectors of the products then hold the step sizes' own entries, named RATE + name.
    """

    points: Sequence[Params]
    gradients: Sequence[Params]
    losses: Sequence[Sequence[LossAt]]
    clamps: Sequence[Params]
    rates: Sequence[Rate]
    learned: Sequence[float] = ()

    def pull_back(self, cotangent: Params, params: Params) -> Params:
        """See `Linearised`."""
        found = self.vjp(cotangent)
        count = len(next(iter(cotangent.values())))
        return {
            n: found[n] if n in found else v.new_zeros(count, *v.shape) for n, v in params.items()
        }

    def jvp(self, vector: Params) -> Params:
        """See `Linearised`."""
        own = {n: v for n, v in vector.items() if not n.startswith(RATE)}
        for k, (blocks, clamp, rate) in enumerate(self._factors()):
            own = _multiply_clamp(clamp, own)
            own = descend(own, rate, _hvp(blocks, own))
            if self.learned:
                change = self._learned_change(k, vector)
                own = {n: v - change[n] if n in change else v for n, v in own.items()}
        return own

    def vjp(self, vector: Params) -> Params:
        """Returns J^T u for u with values (n, *shape)."""
        own, learned = vector, {}
        for k, (blocks, clamp, rate) in reversed(list(enumerate(self._factors()))):
            if self.learned:
                for n in rate if isinstance(rate, dict) else ():
                    entry = -self.learned[k] * self.gradients[k][n] * own[n]
                    learned[RATE + n] = learned.get(RATE + n, 0.0) + entry
            own = _multiply_clamp(clamp, _step_back(own, rate, blocks))
        return {**own, **learned}

    def _learned_change(self, k: int, vector: Params) -> Params:
        """Returns what a change of the step sizes takes from theta_{k+1}."""
        rate, factor = self.rates[k], self.learned[k]
        names = rate if isinstance(rate, dict) else ()
        return {n: factor * vector[RATE + n] * self.gradients[k][n] for n in names}

    def _factors(self) -> list[tuple[Sequence[LossAt], Params, Rate]]:
        return list(zip(self.losses, self.clamps, self.rates, strict=False))


def _multiply_clamp(clamp: Params, vector: Params) -> Params:
    """Returns C_k v."""
    return {**vector, **{n: factor * vector[n] for n, factor in clamp.items()}}


def _hvp(blocks: Sequence[LossAt], vector: Params) -> Params:
    return total(block.hvp(vector) for block in blocks)


def descend(start: Params, rate: Rate, change: Params) -> Params:
    """Returns start - alpha_k change, differentiable; parameters without a rate stay."""
    if not isinstance(rate, dict):
        return {n: torch.sub(v, change[n], alpha=rate) for n, v in start.items()}
    return {n: v - rate[n] * change[n] if n in rate else v for n, v in start.items()}


def _step_back(vector: Params, rate: Rate, blocks: Sequence[LossAt]) -> Params:
    """Returns (I - alpha_k H_k)^T u; H_k is symmetric."""
    if not isinstance(rate, dict):
        return descend(vector, rate, _hvp(blocks, vector))
    scaled = {n: rate[n] * v if n in rate else torch.zeros_like(v) for n, v in vector.items()}
    return descend(vector, 1.0, _hvp(blocks, scaled))


def inner_steps(
    policy: MLPPolicy,
    kind: Surrogate | Loss,
    params: Params,
    batches: Sequence[Batch],
    rates: Sequence[Rate],
) -> Tape:
    """Takes one gradient step for each batch, on every task at once.

    Args:
        policy: The policy.
        kind: The surrogate.
        params: theta_0, each value (n, *shape).
        batches: The tasks' own rollouts, one for each step; batch k was sampled with theta_k.
        rates: alpha of each step [parameter units per unit gradient].

    Returns:
        The tape without losses; its last point is theta_K.

    Source: Finn et al. 2017 (arXiv:1703.03400).
    """
    points, gradients = [leaves(params)], []
    for batch, rate in zip(batches, rates, strict=True):
        start = _clamp(policy, points[-1])
        step = gradient(policy, kind, start, batch)
        gradients.append(step)
        points.append(leaves(_move(start, rate, step)))
    return Tape(points, gradients, (), (), rates)


def _move(start: Params, rate: Rate, step: Params) -> Params:
    if not isinstance(rate, dict):
        return {n: p.detach() - rate * step[n] for n, p in start.items()}
    return {n: p.detach() - rate[n] * step[n] if n in rate else p for n, p in start.items()}


def linearise(
    policy: MLPPolicy,
    kind: Surrogate | Loss,
    points: Sequence[Params],
    batches: Sequence[Batch],
    rates: Sequence[Rate],
    learned: Sequence[float] = (),
) -> Tape:
    """Builds the tape at known points, with Hessians from batches that may be subsampled.

    Args:
        policy: The policy.
        kind: The surrogate.
        points: theta_0 .. theta_K, each value (n, *shape).
        batches: One for each step, K of them.
        rates: alpha of each step.
        learned: See `Tape`.

    Returns:
        The tape with losses.
    """
    own = [leaves(point) for point in points]
    losses = [
        [LossAt(policy, kind, _clamp(policy, point), block) for block in batch.split_blocks()]
        for point, batch in zip(own, batches, strict=False)
    ]
    clamps = [policy.distribution.clamp_derivative(point) for point in own[: len(losses)]]
    gradients = [total(block.gradient for block in blocks) for blocks in losses] if learned else ()
    return Tape(own, gradients, losses, clamps, rates, learned)


def _clamp(policy: MLPPolicy, params: Params) -> Params:
    """Returns c(theta)."""
    return {**params, **policy.distribution.clamp(params)}
