"""The outer step of ProMP: several steps of Adam on the clipped return after adaptation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.functional.params import check_gradient, norm, total
from metarl.functional.ppo import clipped_loss
from metarl.learners.maml.adaptation import Adaptation
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.inner_loop import gradient
from metarl.learners.maml.meta_gradient import measure
from metarl.learners.maml.records import Chunk, OuterStep, Trial
from metarl.learners.maml.surrogates import Batch


@dataclass(frozen=True)
class Clipped:
    """The clipped loss of every task, with ratios to the sampling policy.

    Attributes:
        clip: Half width of the interval of ratios, > 0.
    """

    clip: float

    def __call__(self, log_probs: Tensor, batch: Batch) -> Tensor:
        """Returns the loss (n,) of log-probabilities (n, E, T)."""
        loss = clipped_loss(log_probs - batch.log_prob, batch.advantage, self.clip)
        return (loss * batch.weight).sum(dim=(1, 2))


def ppo_gradient(
    adaptation: Adaptation,
    params: Params,
    trial: Trial,
    inner_kl_weight: float = 0.0,
    num_threads: int = 1,
) -> Params:
    """Returns the gradient of the loss after adaptation, at any meta-parameters.

        mean_i [clipped loss(theta_i') + weight * KL(pi_old || pi_theta)]

    theta_i' is adapted anew from theta, by steps on the rollouts that the old policy sampled, with
    ratios to it. The divergence is that of the policy before adaptation, on its own rollout.

    Args:
        adaptation: How tasks adapt.
        params: Meta-parameters; need not be those that sampled.
        trial: Rollouts and the policies that sampled them.
        inner_kl_weight: Weight of the divergence [1 / nats].
        num_threads: Threads over tasks; the result does not depend on it.

    Raises:
        FloatingPointError: A gradient is not finite; names task and parameter.

    Source: Rothfuss et al. 2019, ProMP (arXiv:1810.06784), equation 15.
    """
    config, policy = adaptation.config, adaptation.policy
    loss = Clipped(config.clip)

    def differentiate(chunk: Chunk) -> Params:
        own = trial.batches_of(chunk)
        start = adaptation.start(params, chunk.stop - chunk.start)
        points = adaptation.steps(params, start, own[:-1]).points
        tape = adaptation.tape(params, points, own[:-1])
        found = tape.pull_back(gradient(policy, loss, points[-1], own[-1]), params)
        if inner_kl_weight and len(own) > 1:
            added = _inner_kl_gradient(adaptation, chunk, own[0], start)
            found |= {n: found[n] + inner_kl_weight * v for n, v in added.items()}
        check_gradient(found, chunk.start)
        return {n: v.sum(dim=0) for n, v in found.items()}

    summed = total(trial.map(differentiate, num_threads))
    return {n: v / trial.num_tasks * float(adaptation.learns(n)) for n, v in summed.items()}


def _inner_kl_gradient(adaptation: Adaptation, chunk: Chunk, first: Batch, start: Params) -> Params:
    """Returns the gradient (n, *shape) of each task's mean divergence before adaptation."""
    network, distribution = adaptation.policy.network, adaptation.policy.distribution
    obs, weight = first.obs.flatten(1, 2), first.weight.flatten(1)
    old = {n: v.detach() for n, v in chunk.points[0].items()}
    with torch.no_grad():
        before = network.outputs(old, obs)
    with torch.enable_grad():
        own = {n: v.detach().clone().requires_grad_() for n, v in start.items()}
        kl = distribution.kl_divergence(old, before, own, network.outputs(own, obs))
        names = list(own)
        values = [own[n] for n in names]
        found = torch.autograd.grad((kl * weight).sum(), values, allow_unused=True)
    return {n: v for n, v in zip(names, found, strict=True) if v is not None}


class AdamSteps:
    """The outer optimiser of ProMP, with its state.

    Args:
        config: Settings.
        params: The first meta-parameters.
    """

    def __init__(self, config: MamlConfig, params: Params):
        self._config = config
        self.leaves = {n: v.detach().clone().requires_grad_() for n, v in params.items()}
        self.adam = torch.optim.Adam(list(self.leaves.values()), lr=self._config.outer_lr)
        self.inner_kl_weight = self._config.inner_kl_weight

    def take(self, adaptation: Adaptation, trial: Trial, num_threads: int = 1) -> OuterStep:
        """Takes `outer_epochs` steps, and adapts the weight of the inner divergence.

        The weight is halved after an update whose divergence before adaptation is below 2/3 of
        `inner_kl`, and doubled if it is above 3/2 of it. It has no effect if `inner_kl` is 0.
        """
        distribution, target = adaptation.policy.distribution, self._config.inner_kl
        weight = self.inner_kl_weight if target else 0.0
        size = 0.0
        for _ in range(self._config.outer_epochs):
            found = ppo_gradient(adaptation, self.params(), trial, weight, num_threads)
            size = norm(found)
            for n, leaf in self.leaves.items():
                leaf.grad = found[n].to(leaf.dtype)
            self.adam.step()
            with torch.no_grad():
                for n, value in distribution.clamp(self.leaves).items():
                    self.leaves[n].copy_(value)
        measured = measure(adaptation, self.params(), trial, num_threads)
        if target and measured.inner_kl < target / 1.5:
            self.inner_kl_weight *= 0.5
        elif target and measured.inner_kl > target * 1.5:
            self.inner_kl_weight *= 2.0
        metrics = {
            "kl": measured.kl,
            "update/gain": measured.gain,
            "update/inner_kl": measured.inner_kl,
            "update/inner_kl_weight": self.inner_kl_weight if target else 0.0,
            "update/gradient_norm": size,
        }
        return OuterStep(self.params(), metrics)

    def params(self) -> Params:
        """Returns copies of the present meta-parameters."""
        return {n: v.detach().clone() for n, v in self.leaves.items()}
