"""Surrogate losses of the inner loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metarl.core.rollout import Params, Rollout
from metarl.networks.policies import MLPPolicy

Surrogate = Literal["lvc", "loglik", "dice"]

Loss = Callable[[Tensor, "Batch"], Tensor]
"""Another loss (N,) of log-probabilities (N, E, T) and a batch."""

BLOCK_ROWS = 1024
"""States that a network derivative processes at once on a CPU: 64 float32 units of 1024 states are
256 kB, so the result of one operation is still in the second-level cache when the next reads it."""


@dataclass(frozen=True)
class Batch:
    """A rollout with advantages and weights, for the losses.

    Attributes:
        obs: (N, E, T, S).
        action: (N, E, T, A).
        log_prob: (N, E, T) under the sampling policy [nats].
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
    def of(rollout: Rollout, advantage: Tensor) -> Batch:
        """Builds the batch of a rollout in which every task has a valid step."""
        valid = rollout.valid.to(advantage.dtype)
        parts = (rollout.obs, rollout.action, rollout.log_prob, advantage, valid)
        return Batch._with_weights(*parts)

    @staticmethod
    def _with_weights(
        obs: Tensor, action: Tensor, log_prob: Tensor, advantage: Tensor, valid: Tensor
    ) -> Batch:
        count = valid.sum(dim=(1, 2), keepdim=True)
        return Batch(obs, action, log_prob, advantage, valid, valid / count)

    def slice_tasks(self, start: int, stop: int) -> Batch:
        """Returns the tasks start..stop, as views."""
        return Batch(*(part[start:stop] for part in (*self._parts(), self.weight)))

    def split_blocks(self) -> list[Batch]:
        """Splits by episodes into views whose losses add up to the batch's; one on a GPU."""
        tasks, episodes, steps = self.advantage.shape
        if self.obs.device.type != "cpu":
            return [self]
        size = max(1, BLOCK_ROWS // (tasks * steps))
        parts = (*self._parts(), self.weight)
        return [
            Batch(*(part[:, start : start + size] for part in parts))
            for start in range(0, episodes, size)
        ]

    def subsample(self, stride: int, *, whole_episodes: bool) -> Batch:
        """Returns every stride-th step, or every stride-th episode, with new weights.

        A task without a valid step in these episodes has those that follow its first valid one.
        """
        if stride == 1:
            return self
        index: tuple[slice | Tensor, ...]
        if whole_episodes:
            index = self._episodes(stride)
        else:  # an episode with any valid step has a valid first one
            index = (slice(None), slice(None), slice(None, None, stride))
        return Batch._with_weights(*(part[index].contiguous() for part in self._parts()))

    def _episodes(self, stride: int) -> tuple[slice | Tensor, ...]:
        """Returns the index of every stride-th episode, with a valid step in every task."""
        has_step = self.valid.any(dim=2)
        is_empty = ~has_step[:, ::stride].any(dim=1)
        if not is_empty.any():
            return slice(None), slice(None, None, stride)
        tasks, episodes = has_step.shape
        first = has_step.int().argmax(dim=1) * is_empty
        chosen = torch.arange(0, episodes, stride, device=first.device)
        rows = torch.arange(tasks, device=first.device).unsqueeze(1)
        return rows, (first.unsqueeze(1) + chosen) % episodes

    def _parts(self) -> tuple[Tensor, ...]:
        return self.obs, self.action, self.log_prob, self.advantage, self.valid


def check_tasks(valid: Tensor) -> None:
    """Raises ValueError if a task of valid (N, E, T) has no valid step; names the task."""
    empty = (valid.sum(dim=(1, 2)) == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"task {empty[0]} has no valid step")


def surrogate_loss(kind: Surrogate, log_probs: Tensor, batch: Batch) -> Tensor:
    """Returns the inner loss of every task.

    At the sampling policy all kinds have the gradient -mean[grad log pi * A].

        lvc     -mean[(pi / pi_old) A]; second derivative mean over steps of (H pi / pi) A
        loglik  -mean[log pi A]; lacks the outer product of the scores: a biased meta-gradient
        dice    -mean[(box_t - box_{t-1}) A], box_t = prod_{i<=t} pi / pi_old; includes the products
                of scores of different steps; unbiased for whole episodes, with higher variance

    The ratio is taken to the log-probabilities stored when sampling, not to stop(log pi). With the
    latter, the loss away from the sampling policy would be that of loglik, and a line search would
    follow another function than the derivatives it was given.

    Args:
        kind: The surrogate.
        log_probs: (N, E, T) under the parameters to differentiate.
        batch: Advantages and weights.

    Returns:
        (N,).

    Source: lvc Rothfuss et al. 2019 (arXiv:1810.06784); dice Foerster et al. 2018
    (arXiv:1802.05098) with advantages as in Farquhar et al. 2019 (arXiv:1909.10549).
    """
    if kind == "loglik":
        term = log_probs
    elif kind == "lvc":
        term = (log_probs - batch.log_prob).exp()
    else:
        log_ratio = (log_probs - batch.log_prob) * batch.valid
        log_box = log_ratio.cumsum(dim=2)
        term = log_box.exp() - (log_box - log_ratio).exp()
    return -(term * batch.advantage * batch.weight).sum(dim=(1, 2))


def _loss(kind: Surrogate | Loss, log_probs: Tensor, batch: Batch) -> Tensor:
    if callable(kind):
        return kind(log_probs, batch)
    return surrogate_loss(kind, log_probs, batch)


class LossAt:
    """The inner losses of n tasks, each at its own parameters: gradient and Hessian products.

    Row i of the loss depends on row i of the parameters only, so the gradient of the summed loss is
    the stack of the per-task gradients. The chain rule is applied by hand, with l the
    log-probabilities:

        loss -> l (autograd: one number for each step) -> output (Scores) -> network (its vjp)

    Args:
        policy: The policy.
        kind: The surrogate.
        params: Values (n, *shape).
        batch: n tasks.
    """

    @torch.no_grad()
    def __init__(self, policy: MLPPolicy, kind: Surrogate | Loss, params: Params, batch: Batch):
        self._network, self._params = policy.network, {n: v.detach() for n, v in params.items()}
        self._activations = self._network.activations(self._params, batch.obs.flatten(1, 2))
        actions = batch.action.flatten(1, 2)
        self._scores = policy.distribution.scores(self._params, self._activations[-1], actions)
        log_probs = self._scores.log_prob.view_as(batch.advantage)
        with torch.enable_grad():
            self._log_probs = log_probs.requires_grad_()
            loss = _loss(kind, self._log_probs, batch).sum()
            # d loss / dl, itself a function of l
            (self._cotangent,) = torch.autograd.grad(loss, self._log_probs, create_graph=True)
        cotangent, own = self._scores.vjp(self._per_step(self._cotangent))
        gradient, self._cotangents = self._network.vjp(self._params, self._activations, cotangent)
        self.gradient = {**gradient, **own}

    def _per_step(self, values: Tensor) -> Tensor:
        """(n, E, T) -> (n, E * T, 1)."""
        return values.detach().flatten(1).unsqueeze(-1)

    @torch.no_grad()
    def hvp(self, vector: Params) -> Params:
        """Returns H v for v with values (n, *shape)."""
        network, params, activations = self._network, self._params, self._activations
        tangents = network.jvp(params, vector, activations)
        tangent, direction = self._scores.jvp(tangents[-1], vector)
        cotangent_tangent, own = self._scores.vjp_tangent(
            self._per_step(self._cotangent), self._cotangent_tangent(tangent), direction
        )
        product = network.vjp_tangent(
            params, vector, activations, tangents, self._cotangents, cotangent_tangent
        )
        return {**product, **own}

    def _cotangent_tangent(self, tangent: Tensor) -> Tensor:
        """Returns the tangent (n, E * T, 1) of d loss / dl, for a tangent (n, E * T) of l."""
        if not self._cotangent.requires_grad:  # the loss is linear in the log-probabilities
            return torch.zeros_like(tangent).unsqueeze(-1)
        (result,) = torch.autograd.grad(
            self._cotangent, self._log_probs, tangent.view_as(self._cotangent), retain_graph=True
        )
        return self._per_step(result)
