"""MAML-TRPO the obvious way, as learn2learn and its kin do it: the rival of `benchmarks/update.py`.

A Python loop over the tasks; the inner step with create_graph; the curvature product by double backward through the
mean KL divergence of the adapted policies, graph kept over all conjugate-gradient steps. Written from the mathematics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.core.rollout import Params, Rollout
from metarl.functional.advantages import advantages
from metarl.functional.gaussian import kl_divergence, log_prob
from metarl.functional.trust_region import line_search, natural_step
from metarl.learners.maml.config import MamlTrpoConfig


@dataclass(frozen=True)
class Sample:
    """One task's rollout without its invalid steps.

    Attributes:
        obs: (L, S).
        action: (L, A).
        log_prob: (L,) [nats].
        advantage: (L,).
    """

    obs: Tensor
    action: Tensor
    log_prob: Tensor
    advantage: Tensor


def samples(rollout: Rollout, config: MamlTrpoConfig) -> list[Sample]:
    """One sample a task."""
    advantage, _ = advantages(rollout, config.discount, config.gae_lambda)
    return [
        Sample(
            rollout.obs[i][rollout.valid[i]],
            rollout.action[i][rollout.valid[i]],
            rollout.log_prob[i][rollout.valid[i]],
            advantage[i][rollout.valid[i]],
        )
        for i in range(len(rollout.obs))
    ]


def policy(params: Params, obs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (L, A) and log standard deviation (A,)."""
    hidden = torch.tanh(torch.addmm(params["bias0"], obs, params["weight0"]))
    hidden = torch.tanh(torch.addmm(params["bias1"], hidden, params["weight1"]))
    return torch.addmm(params["bias2"], hidden, params["weight2"]), params["log_std"]


def surrogate(params: Params, sample: Sample) -> Tensor:
    """mean[pi / pi_old * A]."""
    now = log_prob(sample.action, *policy(params, sample.obs))
    return ((now - sample.log_prob).exp() * sample.advantage).mean()


def adapted(params: Params, sample: Sample, step_size: float, *, graph: bool) -> Params:
    """One inner step."""
    slopes = torch.autograd.grad(
        surrogate(params, sample), list(params.values()), create_graph=graph
    )
    return {n: v + step_size * s for (n, v), s in zip(params.items(), slopes, strict=True)}


class ObviousMamlTrpo:
    """One inner step, TRPO outside.

    Args:
        config: Settings; surrogate "lvc", all states in the curvature.
        params: theta.
    """

    def __init__(self, config: MamlTrpoConfig, params: Params):
        self.config = config
        self.params = {n: v.clone().requires_grad_() for n, v in params.items()}

    def adapt(self, first: Rollout) -> tuple[list[Sample], list[Params]]:
        """The policies that collect the second rollouts."""
        before = samples(first, self.config)
        lr = self.config.inner_lr
        points = [adapted(self.params, sample, lr, graph=False) for sample in before]
        return before, [{n: v.detach() for n, v in p.items()} for p in points]

    def update(
        self, before: Sequence[Sample], points: Sequence[Params], second: Rollout
    ) -> tuple[float, float]:
        """One update; returns the accepted share of the step and the KL divergence."""
        after = samples(second, self.config)
        old = [policy(p, sample.obs) for p, sample in zip(points, after, strict=True)]
        gain, _ = self.objective(self.params, before, after, old, graph=True)
        gradient = self.flat_gradient(gain)
        product = self.curvature(before, after, old)
        settings = self.config
        step = natural_step(
            product,
            gradient,
            settings.max_kl,
            iterations=settings.cg_iterations,
            damping=settings.cg_damping,
        ).step

        def moved(scale: float) -> Params:
            parts = step.split([v.numel() for v in self.params.values()])
            return {
                n: (v.detach() + scale * p.view_as(v)).requires_grad_()
                for (n, v), p in zip(self.params.items(), parts, strict=True)
            }

        def evaluate(scale: float) -> tuple[float, float]:
            pair = self.objective(moved(scale), before, after, old, graph=False)
            return float(pair[0].detach()), float(pair[1].detach())

        result = line_search(
            evaluate,
            float(gain.detach()),
            settings.max_kl,
            decay=settings.line_search_decay,
            max_tries=settings.line_search_steps,
        )
        self.params = moved(result.scale)
        return result.scale, result.kl

    def objective(
        self,
        params: Params,
        before: Sequence[Sample],
        after: Sequence[Sample],
        old: Sequence[tuple[Tensor, Tensor]],
        *,
        graph: bool,
    ) -> tuple[Tensor, Tensor]:
        """Surrogate and KL divergence after adapting, means over the tasks.

        The graphs of all tasks live until the mean is differentiated, as they do in learn2learn.
        """
        gain, divergence = torch.zeros(()), torch.zeros(())
        for first, second, (old_mean, old_log_std) in zip(before, after, old, strict=True):
            point = adapted(params, first, self.config.inner_lr, graph=graph)
            gain = gain + surrogate(point, second)
            mean, log_std = policy(point, second.obs)
            divergence = divergence + kl_divergence(old_mean, old_log_std, mean, log_std).mean()
        return gain / len(before), divergence / len(before)

    def flat_gradient(self, value: Tensor, *, graph: bool = False) -> Tensor:
        """Gradient (P,) with respect to theta."""
        slopes = torch.autograd.grad(value, list(self.params.values()), create_graph=graph)
        return torch.cat([slope.reshape(-1) for slope in slopes])

    def curvature(
        self,
        before: Sequence[Sample],
        after: Sequence[Sample],
        old: Sequence[tuple[Tensor, Tensor]],
    ) -> Callable[[Tensor], Tensor]:
        """v -> Hessian of the mean KL divergence times v, by double backward."""
        _, divergence = self.objective(self.params, before, after, old, graph=True)
        slope = self.flat_gradient(divergence, graph=True)

        def product(vector: Tensor) -> Tensor:
            parts = torch.autograd.grad(
                slope @ vector, list(self.params.values()), retain_graph=True
            )
            return torch.cat([part.reshape(-1) for part in parts])

        return product
