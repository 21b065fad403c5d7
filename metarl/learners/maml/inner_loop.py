"""The inner loop of gradient-based meta-learning: gradient steps, and products with their Jacobian.

theta_{k+1} = c(theta_k) - alpha * grad L_k(c(theta_k)),    J = prod_k (I - alpha H_k) C_k

c moves the parameters of the distribution into their bounds, so that a step can lead back from
beyond; C_k is its derivative, 0 or 1 for each parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from metarl.core.rollout import Params
from metarl.functional.params import leaves, total
from metarl.learners.maml.surrogates import Batch, LossAt, Surrogate
from metarl.networks.policies import MLPPolicy


def gradient(policy: MLPPolicy, kind: Surrogate, params: Params, batch: Batch) -> Params:
    """Returns the gradient of every task's inner loss at its own parameters, each (n, *shape).

    Args:
        policy: Maps parameters and observations to distributions.
        kind: The inner loss.
        params: Parameters of each task, each value (n, *shape).
        batch: Rollout of the n tasks.
    """
    return total(LossAt(policy, kind, params, block).gradient for block in batch.split_blocks())


@dataclass(frozen=True)
class Tape:
    """The inner steps of a chunk of tasks, for products with their Jacobian.

    Attributes:
        points: theta_0 .. theta_K, leaves, each value (n, *shape).
        gradients: grad L_k at c(theta_k) for k < K; empty if the points were known.
        losses: L_k at c(theta_k) for k < K, each as blocks of episodes to be summed; empty if no
            products are needed.
        clamps: C_k for k < K: the derivatives (n, *shape) of c for the distribution's parameters;
            empty if no products are needed.
        step_sizes: alpha_0 .. alpha_{K-1}.
    """

    points: Sequence[Params]
    gradients: Sequence[Params]
    losses: Sequence[Sequence[LossAt]]
    clamps: Sequence[Params]
    step_sizes: Sequence[float]

    def jvp(self, vector: Params) -> Params:
        """Returns J v for v with values (n, *shape)."""
        for blocks, clamp, step_size in self._factors():
            vector = _multiply_factor(blocks, step_size, _multiply_clamp(clamp, vector))
        return vector

    def vjp(self, vector: Params) -> Params:
        """Returns J^T u for u with values (n, *shape)."""
        for blocks, clamp, step_size in reversed(self._factors()):
            vector = _multiply_clamp(clamp, _multiply_factor(blocks, step_size, vector))
        return vector

    def _factors(self) -> list[tuple[Sequence[LossAt], Params, float]]:
        return list(zip(self.losses, self.clamps, self.step_sizes, strict=False))


def _multiply_clamp(clamp: Params, vector: Params) -> Params:
    """Returns C_k v."""
    return {**vector, **{n: factor * vector[n] for n, factor in clamp.items()}}


def _multiply_factor(blocks: Sequence[LossAt], step_size: float, vector: Params) -> Params:
    """Returns (I - alpha H_k) v; H_k is symmetric."""
    product = total(block.hvp(vector) for block in blocks)
    return {n: torch.sub(v, product[n], alpha=step_size) for n, v in vector.items()}


def inner_steps(
    policy: MLPPolicy,
    kind: Surrogate,
    params: Params,
    batches: Sequence[Batch],
    step_sizes: Sequence[float],
) -> Tape:
    """Takes one gradient step for each batch, on every task at once.

    Args:
        policy: The policy.
        kind: The surrogate.
        params: theta_0, each value (n, *shape).
        batches: The tasks' own rollouts, one for each step; batch k was sampled with theta_k.
        step_sizes: alpha of each step [parameter units per unit gradient].

    Returns:
        The tape without losses; its last point is theta_K.

    Source: Finn et al. 2017 (arXiv:1703.03400).
    """
    points, gradients = [leaves(params)], []
    for batch, step_size in zip(batches, step_sizes, strict=True):
        start = _clamp(policy, points[-1])
        step = gradient(policy, kind, start, batch)
        gradients.append(step)
        points.append(leaves({n: p.detach() - step_size * step[n] for n, p in start.items()}))
    return Tape(points, gradients, (), (), step_sizes)


def linearise(
    policy: MLPPolicy,
    kind: Surrogate,
    points: Sequence[Params],
    batches: Sequence[Batch],
    step_sizes: Sequence[float],
) -> Tape:
    """Builds the tape at known points, with Hessians from batches that may be subsampled.

    Args:
        policy: The policy.
        kind: The surrogate.
        points: theta_0 .. theta_K, each value (n, *shape).
        batches: One for each step, K of them.
        step_sizes: alpha of each step.

    Returns:
        The tape with losses.
    """
    own = [leaves(point) for point in points]
    losses = [
        [LossAt(policy, kind, _clamp(policy, point), block) for block in batch.split_blocks()]
        for point, batch in zip(own, batches, strict=False)
    ]
    clamps = [policy.distribution.clamp_derivative(point) for point in own[: len(losses)]]
    return Tape(own, (), losses, clamps, step_sizes)


def _clamp(policy: MLPPolicy, params: Params) -> Params:
    """Returns c(theta)."""
    return {**params, **policy.distribution.clamp(params)}
