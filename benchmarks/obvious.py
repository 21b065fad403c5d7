"""MAML-TRPO the obvious way, as in learn2learn: the reference of `benchmarks/update.py`.

A Python loop over tasks, inner steps with create_graph, and curvature products by double backward
through the mean KL divergence of the adapted policies, with one graph for all conjugate-gradient
steps. Written from the mathematics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.core.rollout import Params, Rollout
from metarl.functional.advantages import advantages
from metarl.functional.gaussian import kl_divergence, log_prob
from metarl.functional.params import flatten, unflatten
from metarl.functional.trust_region import line_search, natural_step
from metarl.learners.maml.config import MamlConfig


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


def samples(
    rollout: Rollout, config: MamlConfig, device: torch.device | str, num_threads: int
) -> list[Sample]:
    """Returns one sample for each task, on a device; both ways fit the baseline alike."""
    rollout = rollout.to(device)
    settings = config.discount, config.gae_lambda
    advantage, _ = advantages(rollout, *settings, num_threads=num_threads)
    parts = (rollout.obs, rollout.action, rollout.log_prob, advantage)
    return [Sample(*(part[i][own] for part in parts)) for i, own in enumerate(rollout.valid)]


def policy(params: Params, obs: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean (L, A) and the log standard deviation (A,)."""
    hidden = torch.tanh(torch.addmm(params["bias0"], obs, params["weight0"]))
    hidden = torch.tanh(torch.addmm(params["bias1"], hidden, params["weight1"]))
    return torch.addmm(params["bias2"], hidden, params["weight2"]), params["log_std"]


def surrogate(params: Params, sample: Sample) -> Tensor:
    """Returns mean[pi / pi_old * A]."""
    now = log_prob(sample.action, *policy(params, sample.obs))
    return ((now - sample.log_prob).exp() * sample.advantage).mean()


def inner_step(params: Params, sample: Sample, step_size: float, *, graph: bool) -> Params:
    """Takes one inner step."""
    value = surrogate(params, sample)
    gradients = torch.autograd.grad(value, list(params.values()), create_graph=graph)
    return {n: v + step_size * g for (n, v), g in zip(params.items(), gradients, strict=True)}


class ObviousMaml:
    """One inner step, and TRPO as the outer optimiser.

    Args:
        config: Settings; the surrogate is "lvc", and the curvature uses all states.
        params: theta.
        device: Where adaptation and update run.
        num_threads: Threads over tasks that fit the baseline.
    """

    def __init__(
        self,
        config: MamlConfig,
        params: Params,
        device: torch.device | str = "cpu",
        num_threads: int = 1,
    ):
        self.config, self._where = config, (device, num_threads)
        self.params = {n: v.to(device, copy=True).requires_grad_() for n, v in params.items()}

    def adapt(self, first: Rollout) -> tuple[list[Sample], list[Params]]:
        """Returns the first samples, and the policies that collect the second rollouts."""
        before = samples(first, self.config, *self._where)
        lr = self.config.inner_lr
        points = [inner_step(self.params, sample, lr, graph=False) for sample in before]
        return before, [{n: v.detach() for n, v in p.items()} for p in points]

    def update(
        self, before: Sequence[Sample], points: Sequence[Params], second: Rollout
    ) -> tuple[float, float]:
        """Updates theta; returns the accepted fraction of the step and the KL divergence."""
        after = samples(second, self.config, *self._where)
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

        def add_step(scale: float) -> Params:
            change = unflatten(step, self.params)
            return {
                n: (v.detach() + scale * change[n]).requires_grad_() for n, v in self.params.items()
            }

        def evaluate(scale: float) -> tuple[float, float]:
            pair = self.objective(add_step(scale), before, after, old, graph=False)
            return float(pair[0].detach()), float(pair[1].detach())

        result = line_search(
            evaluate,
            float(gain.detach()),
            settings.max_kl,
            decay=settings.line_search_decay,
            max_tries=settings.line_search_steps,
        )
        self.params = add_step(result.scale)
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
        """Returns surrogate and KL divergence after adapting, as means over tasks.

        The graphs of all tasks exist until the mean is differentiated, as in learn2learn.
        """
        gain, divergence = torch.zeros(()), torch.zeros(())
        for first, second, (old_mean, old_log_std) in zip(before, after, old, strict=True):
            point = inner_step(params, first, self.config.inner_lr, graph=graph)
            gain = gain + surrogate(point, second)
            mean, log_std = policy(point, second.obs)
            divergence = divergence + kl_divergence(old_mean, old_log_std, mean, log_std).mean()
        return gain / len(before), divergence / len(before)

    def flat_gradient(self, value: Tensor, *, graph: bool = False) -> Tensor:
        """Returns the gradient (P,) with respect to theta."""
        gradients = torch.autograd.grad(value, list(self.params.values()), create_graph=graph)
        return flatten(dict(zip(self.params, gradients, strict=True)))

    def curvature(
        self,
        before: Sequence[Sample],
        after: Sequence[Sample],
        old: Sequence[tuple[Tensor, Tensor]],
    ) -> Callable[[Tensor], Tensor]:
        """Returns v -> Hessian of the mean KL divergence times v, by double backward."""
        _, divergence = self.objective(self.params, before, after, old, graph=True)
        gradient = self.flat_gradient(divergence, graph=True)

        def product(vector: Tensor) -> Tensor:
            values = list(self.params.values())
            parts = torch.autograd.grad(gradient @ vector, values, retain_graph=True)
            return flatten(dict(zip(self.params, parts, strict=True)))

        return product
