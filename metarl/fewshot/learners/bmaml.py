"""Bayesian MAML: a few particles that adapt together by Stein variational gradient descent."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.fewshot.learner import Outer
from metarl.fewshot.learners.inner import Order, task_gradient
from metarl.fewshot.network import ReluMLP
from metarl.fewshot.tasks import Problem, Tasks, loss
from metarl.functional.stein import from_rows, stein_direction, to_rows


@dataclass(frozen=True)
class BayesianMaml:
    """Learns first particles from which few Stein steps lead to the posterior of a task.

        theta_p <- theta_p + alpha mean_q [-k_qp grad L(theta_q) + grad_q k_qp / M],
        k_qp = exp(-|theta_q - theta_p|^2 / h)

    The posterior's log-density is -M L, M the number of examples, and the step is divided by M. So
    one particle is MAML. h is the median squared distance over log P. The outer loss is the chaser
    loss: the squared distance of the particles after num_steps steps on the support from where
    num_ahead more steps on support and query lead, taken as a constant. A prediction is the mean
    of the particles'.

    Attributes:
        problem: The tasks.
        inner_lr: alpha.
        num_particles: P.
        num_steps: Steps of the particles in training.
        num_ahead: Further steps of those that they follow.
        outer: The outer step.

    Source: Yoon et al. 2018 (arXiv:1806.03836); Liu & Wang 2016 (arXiv:1608.04471).
    """

    problem: Problem
    inner_lr: float
    num_particles: int = 5
    num_steps: int = 1
    num_ahead: int = 1
    outer: Outer = field(default_factory=lambda: Outer(num_tasks=10))

    @property
    def network(self) -> ReluMLP:
        """The network of one particle."""
        return ReluMLP.of(self.problem)

    def initial(self, rng: np.random.Generator) -> Params:
        """Draws the particles, each value (P, *shape)."""
        drawn = [self.network.initial(rng) for _ in range(self.num_particles)]
        return {n: torch.stack([particle[n] for particle in drawn]) for n in drawn[0]}

    def adapt(
        self, start: Params, inputs: Tensor, targets: Tensor, num_steps: int, order: Order
    ) -> list[Params]:
        """Takes Stein steps.

        Args:
            start: The particles of N tasks, each value (N * P, *shape).
            inputs: (N, M, S).
            targets: (N, M, A).
            num_steps: Steps.
            order: Derivatives through them, see `inner.adapt`.

        Returns:
            The particles after 0 .. num_steps steps.
        """
        count, size = self.num_particles, inputs.shape[1]
        inputs, targets = (v.repeat_interleave(count, dim=0) for v in (inputs, targets))

        def inner(own: Params) -> Tensor:
            return loss(self.problem, self.network.outputs(own, inputs), targets)

        points = [start]
        for _ in range(num_steps):
            point = points[-1]
            found = task_gradient(inner, point, list(point), order)
            theta, gradient = (to_rows(v, count) for v in (point, found))
            change = stein_direction(theta, gradient, size)
            points.append(from_rows(theta + self.inner_lr * change, point))
        return points

    def start(self, params: Params, num_tasks: int) -> Params:
        """Returns the first particles of every task, each value (N * P, *shape)."""
        return {n: v.repeat(num_tasks, *[1] * (v.dim() - 1)) for n, v in params.items()}

    def loss(self, params: Params, tasks: Tasks, rng: np.random.Generator) -> Tensor:
        """Returns the chaser loss (), for one task."""
        begin = self.start(params, len(tasks))
        point = self.adapt(begin, tasks.support_x, tasks.support_y, self.num_steps, 2)[-1]
        inputs = torch.cat([tasks.support_x, tasks.query_x], dim=1)
        targets = torch.cat([tasks.support_y, tasks.query_y], dim=1)
        ahead = {n: v.detach() for n, v in point.items()}
        leader = self.adapt(ahead, inputs, targets, self.num_ahead, 0)[-1]
        parts = [(v - leader[n]).square().sum() for n, v in point.items()]
        return torch.stack(parts).sum() / len(tasks)

    def predict(self, params: Params, tasks: Tasks, num_steps: int) -> list[Tensor]:
        """Returns the mean of the particles' outputs, or the log of their mean probability."""
        begin = self.start(params, len(tasks))
        points = self.adapt(begin, tasks.support_x, tasks.support_y, num_steps, 0)
        return [self._mean(point, tasks.query_x) for point in points]

    def _mean(self, point: Params, inputs: Tensor) -> Tensor:
        rows = inputs.repeat_interleave(self.num_particles, dim=0)
        outputs = self.network.outputs(point, rows).unflatten(0, (-1, self.num_particles))
        if not self.problem.is_classification:
            return outputs.mean(dim=1)
        return outputs.log_softmax(dim=-1).logsumexp(dim=1) - math.log(self.num_particles)
