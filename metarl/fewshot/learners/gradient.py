"""MAML and its relatives: first-order MAML, Meta-SGD, ANIL, CAVIA and Reptile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.fewshot.learner import Outer
from metarl.fewshot.learners.inner import Order, adapt
from metarl.fewshot.network import ReluMLP
from metarl.fewshot.tasks import Problem, Tasks, loss
from metarl.functional.params import repeat
from metarl.learners.maml.inner_loop import RATE, Rate
from metarl.networks.mlp import CONTEXT, ContextNetwork, TanhMLP, fold_context


@dataclass(frozen=True)
class GradientLearner:
    """Learns parameters from which few gradient steps lead to those of a task.

    Attributes:
        problem: The tasks.
        inner_lr: alpha, the (first) step size of an adaptation step.
        num_steps: Adaptation steps in training.
        order: 2, or 1 for first-order MAML.
        adapts: The parameters that a step moves: all, those of the last layer (ANIL) or the
            context, inputs of the first layer that start at zero (CAVIA).
        learns_rates: A step size for each parameter is learned (Meta-SGD).
        context_size: C, for CAVIA.
        outer: The outer step.

    Source: Finn et al. 2017 (arXiv:1703.03400); Li et al. 2017 (arXiv:1707.09835); Raghu et al.
    2020 (arXiv:1909.09157); Zintgraf et al. 2019 (arXiv:1810.03642).
    """

    problem: Problem
    inner_lr: float
    num_steps: int = 1
    order: Order = 2
    adapts: Literal["all", "head", "context"] = "all"
    learns_rates: bool = False
    context_size: int = 5
    outer: Outer = field(default_factory=Outer)

    @property
    def network(self) -> ReluMLP:
        """The network, without the context."""
        return ReluMLP.of(self.problem)

    def initial(self, rng: np.random.Generator) -> Params:
        """See `FewShotLearner`."""
        if self.adapts == "context":
            net = self.network
            inner = TanhMLP(net.input_size, net.output_size, net.hidden_sizes)
            return ContextNetwork(inner, self.context_size).initial(rng)
        params = self.network.initial(rng)
        if not self.learns_rates:
            return params
        rates = {RATE + n: torch.full_like(v, self.inner_lr) for n, v in params.items()}
        return {**params, **rates}

    def moves(self, name: str) -> bool:
        """Returns whether a step moves the parameter of this name."""
        last = len(self.problem.hidden_sizes)
        heads = (f"weight{last}", f"bias{last}")
        return {"all": True, "head": name in heads, "context": name == CONTEXT}[self.adapts]

    def rate(self, params: Params) -> Rate:
        """Returns alpha of every step."""
        moved = [n for n in params if not n.startswith(RATE) and self.moves(n)]
        if self.learns_rates:
            return {n: params[RATE + n].unsqueeze(0) for n in moved}
        one = next(iter(params.values()))
        return {n: one.new_full((), self.inner_lr) for n in moved}

    def outputs(self, params: Params, inputs: Tensor) -> Tensor:
        """Returns outputs (N, M, A) for inputs (N, M, S) and parameters (N, *shape)."""
        own = fold_context(params) if self.adapts == "context" else params
        return self.network.outputs(own, inputs)

    def loss_on(self, inputs: Tensor, targets: Tensor) -> Callable[[Params], Tensor]:
        """Returns the loss (N,) on examples (N, M, S), (N, M, A) as a function of parameters."""
        return lambda params: loss(self.problem, self.outputs(params, inputs), targets)

    def adapt(self, params: Params, tasks: Tasks, num_steps: int, order: Order) -> list[Params]:
        """Returns the tasks' parameters (N, *shape) after 0 .. num_steps steps on the support."""
        own = {n: v for n, v in params.items() if not n.startswith(RATE)}
        inner = self.loss_on(tasks.support_x, tasks.support_y)
        rates = [self.rate(params)] * num_steps
        return adapt(inner, repeat(own, len(tasks)), rates, order)

    def loss(self, params: Params, tasks: Tasks, rng: np.random.Generator) -> Tensor:
        """Returns the mean loss after adaptation, on the queries."""
        if CONTEXT in params:  # every task starts from the same context, zero
            params = {**params, CONTEXT: 0.0 * params[CONTEXT]}
        adapted = self.adapt(params, tasks, self.num_steps, self.order)[-1]
        return self.loss_on(tasks.query_x, tasks.query_y)(adapted).mean()

    def predict(self, params: Params, tasks: Tasks, num_steps: int) -> list[Tensor]:
        """See `FewShotLearner`."""
        points = self.adapt(params, tasks, num_steps, 0)
        return [self.outputs(point, tasks.query_x) for point in points]


@dataclass(frozen=True)
class Reptile:
    """Moves the parameters towards those that tasks adapt to.

        theta <- theta + eps * mean_i (theta_i - theta)

    That is gradient descent with step size eps on half the mean squared distance from the theta_i,
    taken as constants. They are adapted to support and query, and no second derivative is needed.

    Attributes:
        inner: How tasks adapt.
        outer: The outer step; its step size is eps.

    Source: Nichol et al. 2018 (arXiv:1803.02999).
    """

    inner: GradientLearner
    outer: Outer

    def initial(self, rng: np.random.Generator) -> Params:
        """See `FewShotLearner`."""
        return self.inner.initial(rng)

    def loss(self, params: Params, tasks: Tasks, rng: np.random.Generator) -> Tensor:
        """Returns half the mean squared distance (), see the class."""
        inputs = torch.cat([tasks.support_x, tasks.query_x], dim=1)
        targets = torch.cat([tasks.support_y, tasks.query_y], dim=1)
        both = Tasks(inputs, targets, tasks.query_x, tasks.query_y)
        adapted = self.inner.adapt(params, both, self.inner.num_steps, 0)[-1]
        parts = [(v - adapted[n].detach()).square().sum() for n, v in params.items()]
        return 0.5 * torch.stack(parts).sum() / len(tasks)

    def predict(self, params: Params, tasks: Tasks, num_steps: int) -> list[Tensor]:
        """See `FewShotLearner`."""
        return self.inner.predict(params, tasks, num_steps)
