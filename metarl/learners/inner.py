"""The inner loop of gradient-based meta-learning: surrogate losses, gradient steps, and products with their Jacobian.

theta_{k+1} = theta_k - alpha * grad L_k(theta_k),    J = prod_k (I - alpha H_k)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metarl import gaussian
from metarl.policies import GaussianMLP
from metarl.types import Params, Rollout

Surrogate = Literal["lvc", "loglik", "dice"]


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


def log_prob(policy: GaussianMLP, params: Params, batch: Batch) -> Tensor:
    """Log-probabilities (N, E, T) [nats] of the batch's actions."""
    mean = policy.mean(params, batch.obs.flatten(1, 2))
    actions = batch.action.flatten(1, 2)
    return gaussian.log_prob(actions, mean, policy.log_std(params)).view_as(batch.advantage)


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


def gradient(
    policy: GaussianMLP, kind: Surrogate, params: Params, batch: Batch, *, graph: bool
) -> Params:
    """Gradients of every task's inner loss at its own parameters.

    Row i of the loss reads only row i of the parameters, so the gradient of the summed loss is the stack of the
    per-task gradients.

    Args:
        policy: The policy.
        kind: The surrogate.
        params: Leaves, each value (N, *shape).
        batch: N tasks.
        graph: Keep the graph, for products with the Hessian.

    Returns:
        Gradients, each value (N, *shape).
    """
    loss = surrogate_loss(kind, log_prob(policy, params, batch), batch).sum()
    values = torch.autograd.grad(loss, list(params.values()), create_graph=graph)
    return dict(zip(params, values, strict=True))


@dataclass(frozen=True)
class Tape:
    """The inner steps of a chunk of tasks, with what products with their Jacobian need.

    Attributes:
        points: theta_0 .. theta_K, leaves, each value (n, *shape).
        gradients: grad L_k at theta_k for k < K, with graph where products are wanted.
        step_size: alpha.
    """

    points: Sequence[Params]
    gradients: Sequence[Params]
    step_size: float

    def jacobian(self, vector: Params) -> Params:
        """J v for v with values (n, *shape)."""
        for k in range(len(self.gradients)):
            vector = self._factor(k, vector)
        return vector

    def transposed(self, vector: Params) -> Params:
        """J^T u for u with values (n, *shape)."""
        for k in reversed(range(len(self.gradients))):
            vector = self._factor(k, vector)
        return vector

    def _factor(self, k: int, vector: Params) -> Params:
        """(I - alpha H_k) v; H_k is symmetric."""
        names = list(vector)
        product = torch.autograd.grad(
            [self.gradients[k][name] for name in names],
            [self.points[k][name] for name in names],
            grad_outputs=[vector[name] for name in names],
            retain_graph=True,
            materialize_grads=True,
        )
        return {
            name: vector[name] - self.step_size * change
            for name, change in zip(names, product, strict=True)
        }


def inner_steps(
    policy: GaussianMLP,
    kind: Surrogate,
    params: Params,
    batches: Sequence[Batch],
    step_size: float,
    *,
    graph: bool = False,
) -> Tape:
    """Takes one gradient step a batch on every task at once.

    Args:
        policy: The policy.
        kind: The surrogate.
        params: theta_0, each value (n, *shape).
        batches: The tasks' own rollouts, one a step; batch k was drawn with theta_k.
        step_size: alpha [parameter units per unit gradient].
        graph: Keep graphs, for Tape.jacobian and Tape.transposed.

    Returns:
        The tape; its last point is theta_K.

    Source: Finn et al. 2017 (arXiv:1703.03400).
    """
    points, gradients = [leaves(params)], []
    for batch in batches:
        slope = gradient(policy, kind, points[-1], batch, graph=graph)
        gradients.append(slope)
        points.append(
            leaves({n: p.detach() - step_size * slope[n].detach() for n, p in points[-1].items()})
        )
    return Tape(points, gradients, step_size)


def linearised_at(
    policy: GaussianMLP,
    kind: Surrogate,
    points: Sequence[Params],
    batches: Sequence[Batch],
    step_size: float,
) -> Tape:
    """Builds the tape at known points theta_0 .. theta_K, with Hessians from batches that may be a share of the data.

    Args:
        policy: The policy.
        kind: The surrogate.
        points: theta_0 .. theta_K, each value (n, *shape).
        batches: One a step, K of them.
        step_size: alpha.

    Returns:
        The tape, for products only.
    """
    own = [leaves(point) for point in points]
    gradients = [
        gradient(policy, kind, point, batch, graph=True)
        for point, batch in zip(own, batches, strict=False)
    ]
    return Tape(own, gradients, step_size)
