"""Meta-LSTM: an LSTM is the inner optimiser, and its cells are the parameters of the task."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.fewshot.learner import Outer
from metarl.fewshot.learners.inner import task_gradient
from metarl.fewshot.network import ReluMLP, draw_matrix
from metarl.fewshot.tasks import Problem, Tasks, loss
from metarl.functional.params import flatten

OWN = "lstm/"
"""Beginning of the names of the optimiser's own parameters."""


@dataclass(frozen=True)
class MetaLstm:
    """Learns the first parameters and how gradients change them, number by number.

        theta_k = f_k theta_{k-1} - i_k g_k,    (f_k, i_k) = s(W [h_k, theta_{k-1}, f, i] + b)

    h_k is the output of an ordinary LSTM that reads the gradient g_k and the loss, both in the form
    of `encode`. All numbers of the network share these weights, and each has a state of its own. As
    in the paper, gradients and losses count as constants, so there is no second derivative.

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
        hidden = self.num_hidden
        start = math.log(self.inner_lr / (1.0 - self.inner_lr))
        own = {
            "lstm": draw_matrix(rng, 4 + hidden, 4 * hidden),
            "lstm_bias": torch.zeros(4 * hidden),
            "gates": 0.01 * draw_matrix(rng, hidden + 3, 2),
            "gates_bias": torch.tensor([6.0, start]),  # f is nearly 1, i the step size
        }
        return {**self.network.initial(rng), **{OWN + n: v for n, v in own.items()}}

    def adapt(self, params: Params, tasks: Tasks, num_steps: int) -> list[Params]:
        """Returns the network's parameters (N, *shape) after 0 .. num_steps steps."""
        first = {n: v for n, v in params.items() if not n.startswith(OWN)}
        own = {n.removeprefix(OWN): v for n, v in params.items() if n.startswith(OWN)}
        theta = flatten(first).expand(len(tasks), -1)
        points, state = [_unflatten_rows(theta, first)], self._begin(theta)
        gates = torch.ones_like(theta), torch.zeros_like(theta)
        for _ in range(num_steps):
            gradient, value = self._gradient(points[-1], tasks)
            reading = torch.cat([encode(gradient), encode(value).expand(*theta.shape, 2)], dim=-1)
            state = self._lstm(own, state, reading)
            row = torch.cat([state[0], theta.unsqueeze(-1), *(g.unsqueeze(-1) for g in gates)], -1)
            gates = (row @ own["gates"] + own["gates_bias"]).sigmoid().unbind(dim=-1)
            theta = gates[0] * theta - gates[1] * gradient
            points.append(_unflatten_rows(theta, first))
        return points

    def _begin(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        zeros = theta.new_zeros(*theta.shape, self.num_hidden)
        return zeros, zeros

    def _lstm(
        self, own: Params, state: tuple[Tensor, Tensor], reading: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns hidden and cell (N, P, H) after reading (N, P, 4)."""
        hidden, cell = state
        gates = torch.cat([reading, hidden], dim=-1) @ own["lstm"] + own["lstm_bias"]
        entry, keep, new, out = gates.chunk(4, dim=-1)
        cell = (keep + 1.0).sigmoid() * cell + entry.sigmoid() * new.tanh()
        return out.sigmoid() * cell.tanh(), cell

    def _gradient(self, point: Params, tasks: Tasks) -> tuple[Tensor, Tensor]:
        """Returns gradient (N, P) and loss (N, 1) of the support, as constants."""

        def inner(own: Params) -> Tensor:
            return loss(self.problem, self.network.outputs(own, tasks.support_x), tasks.support_y)

        found = task_gradient(inner, point, list(point), 0)
        rows = torch.cat([v.flatten(1) for v in found.values()], dim=1)
        return rows, inner(point).detach().unsqueeze(1)

    def loss(self, params: Params, tasks: Tasks, rng: np.random.Generator) -> Tensor:
        """Returns the mean loss of the queries after the last step."""
        point = self.adapt(params, tasks, self.num_steps)[-1]
        return loss(self.problem, self.network.outputs(point, tasks.query_x), tasks.query_y).mean()

    def predict(self, params: Params, tasks: Tasks, num_steps: int) -> list[Tensor]:
        """See `FewShotLearner`."""
        points = self.adapt(params, tasks, num_steps)
        return [self.network.outputs(point, tasks.query_x) for point in points]


def encode(value: Tensor, p: float = 10.0) -> Tensor:
    """Returns numbers (...) of any size as pairs (..., 2) of moderate ones.

        (log|v| / p, sign v) where |v| >= exp(-p),    (-1, exp(p) v) elsewhere

    Source: Ravi & Larochelle 2017, section 3.2, after Andrychowicz et al. 2016 (arXiv:1606.04474).
    """
    is_large = value.abs() >= math.exp(-p)
    size = torch.where(is_large, value.abs().clamp(min=math.exp(-p)).log() / p, -1.0)
    return torch.stack([size, torch.where(is_large, value.sign(), math.exp(p) * value)], dim=-1)


def _unflatten_rows(rows: Tensor, like: Params) -> Params:
    """Returns parameters (N, *shape) of rows (N, P)."""
    parts = rows.split([v.numel() for v in like.values()], dim=1)
    return {n: part.unflatten(1, v.shape) for (n, v), part in zip(like.items(), parts, strict=True)}
