"""Meta-LSTM: an LSTM is the inner optimiser, and its cells are the parameters of the task."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from metarl.core.rollout import Params
from metarl.fewshot.learner import Outer
from metarl.fewshot.learners.inner import task_gradient
from metarl.fewshot.network import ReluMLP
from metarl.fewshot.tasks import Problem, Tasks, loss
from metarl.functional.params import flatten
from metarl.learners.maml.adaptations.learned_optimiser import (
    OptimiserState,
    from_rows,
    initial_optimiser,
    optimise,
    to_rows,
)

OWN = "lstm/"
"""Beginning of the names of the optimiser's own parameters."""


@dataclass(frozen=True)
class MetaLstm:
    """Learns the first parameters and how gradients change them, number by number, see `optimise`.

    As in the paper, gradients and losses count as constants, so there is no second derivative.

    Attributes:
        problem: The tasks.
        inner_lr: Step size i_k at the beginning of training.
        num_steps: Steps in training.
        num_hidden: Units of the ordinary LSTM.
        outer: The outer step.

    Source: Ravi & Larochelle 2017, Optimization as a model for few-shot learning.
    """

    problem: Problem
    inner_lr: float
    num_steps: int = 5
    num_hidden: int = 8
    outer: Outer = field(default_factory=lambda: Outer(num_tasks=2))

    @property
    def network(self) -> ReluMLP:
        """The network of the task."""
        return ReluMLP.of(self.problem)

    def initial(self, rng: np.random.Generator) -> Params:
        """See `FewShotLearner`."""
        own = initial_optimiser(rng, self.num_hidden, self.inner_lr)
        return {**self.network.initial(rng), **{OWN + n: v for n, v in own.items()}}

    def adapt(self, params: Params, tasks: Tasks, num_steps: int) -> list[Params]:
        """Returns the network's parameters (N, *shape) after 0 .. num_steps steps."""
        first = {n: v for n, v in params.items() if not n.startswith(OWN)}
        own = {n.removeprefix(OWN): v for n, v in params.items() if n.startswith(OWN)}
        theta = flatten(first).expand(len(tasks), -1)
        points, state = [from_rows(theta, first)], OptimiserState.initial(theta, self.num_hidden)
        for _ in range(num_steps):
            theta, state = optimise(own, state, theta, *self._gradient(points[-1], tasks))
            points.append(from_rows(theta, first))
        return points

    def _gradient(self, point: Params, tasks: Tasks) -> tuple[Tensor, Tensor]:
        """Returns gradient (N, P) and loss (N, 1) of the support, as constants."""

        def inner(own: Params) -> Tensor:
            return loss(self.problem, self.network.outputs(own, tasks.support_x), tasks.support_y)

        found = task_gradient(inner, point, list(point), 0)
        return to_rows(found), inner(point).detach().unsqueeze(1)

    def loss(self, params: Params, tasks: Tasks, rng: np.random.Generator) -> Tensor:
        """Returns the mean loss of the queries after the last step."""
        point = self.adapt(params, tasks, self.num_steps)[-1]
        return loss(self.problem, self.network.outputs(point, tasks.query_x), tasks.query_y).mean()

    def predict(self, params: Params, tasks: Tasks, num_steps: int) -> list[Tensor]:
        """See `FewShotLearner`."""
        points = self.adapt(params, tasks, num_steps)
        return [self.network.outputs(point, tasks.query_x) for point in points]
