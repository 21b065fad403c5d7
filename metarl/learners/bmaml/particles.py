"""Particles of policies: episodes are divided among them, and Stein steps move them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.functional.params import check_gradient
from metarl.functional.stein import from_rows, stein_direction, to_rows
from metarl.learners.bmaml.config import BmamlConfig
from metarl.learners.maml.inner_loop import gradient
from metarl.learners.maml.outer_ppo import Clipped
from metarl.learners.maml.surrogates import Batch, Loss, Surrogate
from metarl.networks.policies import MLPPolicy


def divide(values: Tensor, particles: int, first: int = 0) -> Tensor:
    """Gives episode e of each task to particle e modulo P: (N, E, ...) to (N * P, E', ...).

    The episodes are first, first + 1, ..., where first < P. E' is (first + E) / P rounded up;
    entries of missing episodes are zero.
    """
    tasks, episodes = values.shape[:2]
    missing = -(first + episodes) % particles
    if first or missing:
        before, after = (values.new_zeros(tasks, n, *values.shape[2:]) for n in (first, missing))
        values = torch.cat([before, values, after], dim=1)
    return values.unflatten(1, (-1, particles)).transpose(1, 2).flatten(0, 1).contiguous()


def gather(values: Tensor, particles: int, episodes: int, first: int = 0) -> Tensor:
    """Undoes `divide`: (N * P, E', ...) to (N, E, ...)."""
    own = values.unflatten(0, (-1, particles)).transpose(1, 2)
    return own.flatten(1, 2)[:, first : first + episodes]


def divide_batch(batch: Batch, particles: int, first: int = 0) -> Batch:
    """Returns the batch (N, E, T) as that of N * P policies; weights add up to 1 for each.

    They are 0 for a particle without a valid step, whose loss and gradient then are 0.
    """
    parts = batch.obs, batch.action, batch.log_prob, batch.advantage, batch.valid
    obs, action, log_prob, advantage, valid = (divide(part, particles, first) for part in parts)
    count = valid.sum(dim=(1, 2), keepdim=True).clamp(min=1.0)
    return Batch(obs, action, log_prob, advantage, valid, valid / count)


@dataclass(frozen=True)
class Particles:
    """Stein steps of the particles of N tasks.

        theta_p <- theta_p + alpha mean_q [-k_qp grad L(theta_q) + repulsion grad_q k_qp]

    L is the surrogate loss on a particle's own episodes.

    Attributes:
        policy: Of one particle.
        config: Settings.

    Source: Liu et al. 2017, Stein variational policy gradient (arXiv:1704.02399).
    """

    policy: MLPPolicy
    config: BmamlConfig

    def name_row(self, row: int) -> str:
        """Names a row of N * P particles."""
        return "task {}, particle {}".format(*divmod(row, self.config.num_particles))

    def direction(self, kind: Surrogate | Loss, point: Params, batch: Batch) -> Tensor:
        """Returns the Stein direction (N, P, D) of particles (N * P, *shape).

        Args:
            kind: The loss.
            point: The particles.
            batch: From `divide_batch`.

        Raises:
            FloatingPointError: A gradient is not finite; names task, particle and parameter.
        """
        count = self.config.num_particles
        found = gradient(self.policy, kind, point, batch)
        check_gradient(found, 0, self.name_row)
        rows = (to_rows({n: v[n] for n in point}, count) for v in (point, found))
        return stein_direction(*rows, 1.0 / self.config.repulsion)

    def step(self, point: Params, batch: Batch) -> Params:
        """Takes one step of the adaptation, from within the distribution's bounds."""
        point = {**point, **self.policy.distribution.clamp(point)}
        change = from_rows(self.direction("lvc", point, batch), point)
        return {n: v + self.config.inner_lr * change[n] for n, v in point.items()}

    def ascent(self, start: Params, batches: Sequence[Batch]) -> Params:
        """Returns the direction of the first particles (P, *shape), the mean over N tasks.

        Each task's particles are adapted anew from the first ones, on the rollouts before the last.
        The chaser loss is half their squared distance from where one more Stein step on the last
        rollout leads, over its step size. Its gradient, without derivatives through the steps, is
        minus that step's direction; ratios are clipped as in PPO.

        Args:
            start: The first particles, each value (P, *shape).
            batches: The K + 1 rollouts, from `divide_batch`.
        """
        count = len(batches[0].obs) // self.config.num_particles
        point = repeat_particles(start, count)
        for batch in batches[:-1]:
            point = self.step(point, batch)
        point = {**point, **self.policy.distribution.clamp(point)}
        found = self.direction(Clipped(self.config.clip), point, batches[-1])
        return from_rows(found.mean(dim=0, keepdim=True), start)


def repeat_particles(params: Params, num_tasks: int) -> Params:
    """Returns the same particles (P, *shape) for every task, each value (N * P, *shape)."""
    return {n: v.repeat(num_tasks, *[1] * (v.dim() - 1)) for n, v in params.items()}
