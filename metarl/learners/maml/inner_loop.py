"""The inner loop of gradient-based meta-learning: surrogate losses, gradient steps, and products with their Jacobian.

theta_{k+1} = theta_k - alpha * grad L_k(theta_k),    J = prod_k (I - alpha H_k)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metarl.core.learner import Params, Rollout
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


def leaves(params: Params) -> Params:
    """Detached copies that collect gradients."""
    return {name: value.detach().clone().requires_grad_() for name, value in params.items()}


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


def gradient(policy: AnyPolicy, kind: Surrogate, params: Params, batch: Batch) -> Params:
    """Gradients (n, *shape) of every task's inner loss at its own parameters (n, *shape)."""
    return total(LossAt(policy, kind, params, block).gradient for block in batch.blocks())


def repeat(params: Params, num_tasks: int) -> Params:
    """The same parameters (*shape) for every task: views (N, *shape)."""
    return {n: v.expand(num_tasks, *v.shape) for n, v in params.items()}


def flatten(params: Params) -> Tensor:
    """All values one after the other (P,)."""
    return torch.cat([v.reshape(-1) for v in params.values()])


def unflatten(vector: Tensor, like: Params) -> Params:
    """Views of a vector (P,) in the shapes of other parameters."""
    parts = vector.split([v.numel() for v in like.values()])
    return {n: part.view_as(v) for (n, v), part in zip(like.items(), parts, strict=True)}


def check_gradient(slope: Params, first_task: int) -> None:
    """Refuses gradients (n, *shape) that are not finite.

    Raises:
        FloatingPointError: Names the task and the parameter.
    """
    check_finite(slope, first_task, "the gradient of {} is not finite")


def check_finite(values: Params, first_task: int, words: str) -> None:
    """Refuses values (n, *shape) that are not finite.

    Args:
        values: By the name of the parameter.
        first_task: The task of row 0.
        words: What to say of a parameter, {}.

    Raises:
        FloatingPointError: Names the task and the parameter.
    """
    for name, value in values.items():
        finite = value.detach().isfinite().flatten(1).all(dim=1)
        if not bool(finite.all()):
            task = first_task + int((~finite).nonzero()[0])
            raise FloatingPointError(f"task {task}: {words.format(repr(name))}")


def total(parts: Iterable[Params]) -> Params:
    """The sum, by name."""
    first, *others = parts
    result = dict(first)
    for part in others:
        result = {n: v + part[n] for n, v in result.items()}
    return result


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
