"""Surrogate losses of the inner loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metarl.core.rollout import Params, Rollout
from metarl.networks.policies import CategoricalMLP, GaussianMLP

Surrogate = Literal["lvc", "loglik", "dice"]


AnyPolicy = GaussianMLP | CategoricalMLP


BLOCK_ROWS = 1024
"""States that a network derivative handles at once on a CPU: 64 float32 units of 1024 states are 256 kB, so what one
operation writes is still in the second-level cache when the next one reads it, and is not paged in anew."""


@dataclass(frozen=True)
class Batch:
    """What the losses read of a rollout.

    Attributes:
        obs: (N, E, T, S).
        action: (N, E, T, A).
        log_prob: (N, E, T) under the policy that sampled [nats].
        advantage: (N, E, T), zero at invalid steps.
        valid: (N, E, T), as numbers 0 or 1.
        weight: (N, E, T), valid / number of the task's valid steps.
    """

    obs: Tensor
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    valid: Tensor
    weight: Tensor

    @staticmethod
    def of(rollout: Rollout, advantage: Tensor, device: torch.device) -> Batch:
        """Makes the batch of a rollout on a device.

        Raises:
            ValueError: A task has no valid step; names it.
        """
        return Batch._weighted(
            rollout.obs.to(device),
            rollout.action.to(device),
            rollout.log_prob.to(device),
            advantage.to(device),
            rollout.valid.to(device=device, dtype=advantage.dtype),
        )

    @staticmethod
    def _weighted(
        obs: Tensor, action: Tensor, log_prob: Tensor, advantage: Tensor, valid: Tensor
    ) -> Batch:
        count = valid.sum(dim=(1, 2), keepdim=True)
        empty = (count == 0).flatten().nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"task {empty[0]} has no valid step")
        return Batch(obs, action, log_prob, advantage, valid, valid / count)

    def tasks(self, start: int, stop: int) -> Batch:
        """The tasks start..stop, as views."""
        return Batch(*(part[start:stop] for part in (*self._parts(), self.weight)))

    def blocks(self) -> list[Batch]:
        """Blocks of episodes, as views, of which a loss is the sum; one on a GPU."""
        tasks, episodes, steps = self.advantage.shape
        if self.obs.device.type != "cpu":
            return [self]
        size = max(1, BLOCK_ROWS // (tasks * steps))
        parts = (*self._parts(), self.weight)
        return [
            Batch(*(part[:, start : start + size] for part in parts))
            for start in range(0, episodes, size)
        ]

    def share(self, stride: int, *, whole_episodes: bool) -> Batch:
        """Every stride-th step, or every stride-th episode, with the weights made up for it."""
        if stride == 1:
            return self
        if whole_episodes:
            index = (slice(None), slice(None, None, stride))
        else:
            index = (slice(None), slice(None), slice(None, None, stride))
        return Batch._weighted(*(part[index].contiguous() for part in self._parts()))

    def _parts(self) -> tuple[Tensor, ...]:
        return self.obs, self.action, self.log_prob, self.advantage, self.valid


def log_prob(policy: AnyPolicy, params: Params, batch: Batch) -> Tensor:
    """Log-probabilities (N, E, T) [nats] of the batch's actions."""
    law = policy.law(params, policy.outputs(params, batch.obs.flatten(1, 2)))
    return policy.log_prob(law, batch.action.flatten(1, 2)).view_as(batch.advantage)


def surrogate_loss(kind: Surrogate, log_probs: Tensor, batch: Batch) -> Tensor:
    """The inner loss of every task; at the sampling policy all kinds have the gradient -mean[grad log pi * A].

        lvc     -mean[(pi / pi_old) A]: second derivative mean over steps of (H pi / pi) A
        loglik  -mean[log pi A]: lacks the outer product of the scores, the classic fault
        dice    -mean[(box_t - box_{t-1}) A], box_t = prod_{i<=t} pi / pi_old: also the products of scores of different
                steps, unbiased for whole episodes, of higher variance

    The ratio is taken to the log-probabilities stored when sampling. With stop(log pi) in their place the value of the
    adapted parameters away from the sampling policy would belong to loglik, and a line search would look along another
    function than the one whose derivatives it was given.

    Args:
        kind: Which.
        log_probs: (N, E, T) under the parameters differentiated.
        batch: Advantages and weights.

    Returns:
        (N,).

    Source: lvc Rothfuss et al. 2019 (arXiv:1810.06784); dice Foerster et al. 2018 (arXiv:1802.05098) with advantages
    as in Farquhar et al. 2019 (arXiv:1909.10549).
    """
    if kind == "loglik":
        term = log_probs
    elif kind == "lvc":
        term = (log_probs - batch.log_prob).exp()
    else:
        taken = (log_probs - batch.log_prob) * batch.valid
        through = taken.cumsum(dim=2)
        term = through.exp() - (through - taken).exp()
    return -(term * batch.advantage * batch.weight).sum(dim=(1, 2))


class LossAt:
    """The inner losses of n tasks, each at its own parameters: gradients and products with their Hessians.

    Row i of the loss reads only row i of the parameters, so the gradient of the summed loss is the stack of the
    per-task gradients. With l the log-probabilities the chain rule is taken by hand,

        loss -> l (by autograd: as many numbers as steps) -> output (Scores) -> network (TanhMLP.pullback)

    Args:
        policy: The policy.
        kind: The surrogate.
        params: Values (n, *shape).
        batch: n tasks.
    """

    @torch.no_grad()
    def __init__(self, policy: AnyPolicy, kind: Surrogate, params: Params, batch: Batch):
        self._policy, self._params = policy, {n: v.detach() for n, v in params.items()}
        self._activations = policy.activations(self._params, batch.obs.flatten(1, 2))
        actions = batch.action.flatten(1, 2)
        self._scores = policy.scores(self._params, self._activations[-1], actions)
        log_probs = self._scores.log_prob.view_as(batch.advantage)
        with torch.enable_grad():
            self._log_probs = log_probs.requires_grad_()
            loss = surrogate_loss(kind, self._log_probs, batch).sum()
            # bends: as a function of the log-probabilities
            (self._slope,) = torch.autograd.grad(loss, self._log_probs, create_graph=True)
        cotangent, others = self._scores.pull(self._per_step(self._slope))
        self.gradient, self._pulled = policy.pullback(self._params, self._activations, cotangent)
        self.gradient.update(others)

    def _per_step(self, values: Tensor) -> Tensor:
        """(n, E, T) -> (n, E * T, 1)."""
        return values.detach().flatten(1).unsqueeze(-1)

    @torch.no_grad()
    def hessian(self, vector: Params) -> Params:
        """H v for v with values (n, *shape)."""
        policy, params, slope = self._policy, self._params, self._per_step(self._slope)
        moved = policy.tangents(params, vector, self._activations)
        log_probs, direction = self._scores.move(moved[-1], vector)
        cotangent, others = self._scores.pull_moved(slope, self._bend(log_probs), direction)
        product = policy.pullback_tangent(
            params, vector, self._activations, moved, self._pulled, cotangent
        )
        return {**product, **others}

    def _bend(self, log_probs: Tensor) -> Tensor:
        """Derivative (n, E * T, 1) of the loss's slope as the log-probabilities move by (n, E * T)."""
        if not self._slope.requires_grad:  # linear in the log-probabilities
            return torch.zeros_like(log_probs).unsqueeze(-1)
        (bent,) = torch.autograd.grad(
            self._slope, self._log_probs, log_probs.view_as(self._slope), retain_graph=True
        )
        return self._per_step(bent)
