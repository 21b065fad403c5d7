"""The inner loop of gradient-based meta-learning: surrogate losses, gradient steps, and products with their Jacobian.

theta_{k+1} = theta_k - alpha * grad L_k(theta_k),    J = prod_k (I - alpha H_k)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from metarl.core.rollout import Params
from metarl.functional.params import leaves, total
from metarl.learners.maml.surrogates import AnyPolicy, Batch, LossAt, Surrogate


def gradient(policy: AnyPolicy, kind: Surrogate, params: Params, batch: Batch) -> Params:
    """Gradients (n, *shape) of every task's inner loss at its own parameters (n, *shape)."""
    return total(LossAt(policy, kind, params, block).gradient for block in batch.blocks())


@dataclass(frozen=True)
class Tape:
    """The inner steps of a chunk of tasks, with what products with their Jacobian need.

    Attributes:
        points: theta_0 .. theta_K, leaves, each value (n, *shape).
        gradients: grad L_k at theta_k for k < K.
        losses: L_k at theta_k for k < K as a sum over blocks of episodes, where products are wanted.
        step_sizes: alpha_0 .. alpha_{K-1}.
    """

    points: Sequence[Params]
    gradients: Sequence[Params]
    losses: Sequence[Sequence[LossAt]]
    step_sizes: Sequence[float]

    def jacobian(self, vector: Params) -> Params:
        """J v for v with values (n, *shape)."""
        for blocks, step_size in zip(self.losses, self.step_sizes, strict=False):
            vector = _factor(blocks, step_size, vector)
        return vector

    def transposed(self, vector: Params) -> Params:
        """J^T u for u with values (n, *shape)."""
        for blocks, step_size in reversed(list(zip(self.losses, self.step_sizes, strict=False))):
            vector = _factor(blocks, step_size, vector)
        return vector


def _factor(blocks: Sequence[LossAt], step_size: float, vector: Params) -> Params:
    """(I - alpha H_k) v; H_k is symmetric."""
    product = total(block.hessian(vector) for block in blocks)
    return {n: torch.sub(v, product[n], alpha=step_size) for n, v in vector.items()}


def inner_steps(
    policy: AnyPolicy,
    kind: Surrogate,
    params: Params,
    batches: Sequence[Batch],
    step_sizes: Sequence[float],
) -> Tape:
    """Takes one gradient step a batch on every task at once.

    Args:
        policy: The policy.
        kind: The surrogate.
        params: theta_0, each value (n, *shape).
        batches: The tasks' own rollouts, one a step; batch k was drawn with theta_k.
        step_sizes: alpha of each step, as many as batches [parameter units per unit gradient].

    Returns:
        The tape without losses; its last point is theta_K.

    Source: Finn et al. 2017 (arXiv:1703.03400).
    """
    points, gradients = [leaves(params)], []
    for batch, step_size in zip(batches, step_sizes, strict=True):
        slope = gradient(policy, kind, points[-1], batch)
        gradients.append(slope)
        points.append(leaves({n: p.detach() - step_size * slope[n] for n, p in points[-1].items()}))
    return Tape(points, gradients, (), step_sizes)


def linearised_at(
    policy: AnyPolicy,
    kind: Surrogate,
    points: Sequence[Params],
    batches: Sequence[Batch],
    step_sizes: Sequence[float],
) -> Tape:
    """Builds the tape at known points theta_0 .. theta_K, with Hessians from batches that may be a share of the data.

    Args:
        policy: The policy.
        kind: The surrogate.
        points: theta_0 .. theta_K, each value (n, *shape).
        batches: One a step, K of them.
        step_sizes: alpha of each step.

    Returns:
        The tape, for products only.
    """
    own = [leaves(point) for point in points]
    losses = [
        [LossAt(policy, kind, point, block) for block in batch.blocks()]
        for point, batch in zip(own, batches, strict=False)
    ]
    gradients = [total(block.gradient for block in blocks) for blocks in losses]
    return Tape(own, gradients, losses, step_sizes)
