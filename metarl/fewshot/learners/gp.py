"""Gaussian process: the exact posterior under a kernel that the training tasks choose."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.fewshot.learner import Outer
from metarl.fewshot.tasks import Problem, Tasks
from metarl.functional import gaussian_process


@dataclass(frozen=True)
class GaussianProcess:
    """Regression by the posterior mean of a Gaussian process with mean zero.

        k(x, x') = a^2 exp(-|x - x'|^2 / (2 l^2)),    mean = k(q, X) (k(X, X) + s^2 I)^-1 y

    Training maximises the likelihood of all examples of the training tasks over a, l and s. There
    are no gradient steps in a task; the posterior is exact.

    Attributes:
        problem: A regression with one target.
        jitter: Least variance of the noise, which keeps a matrix positive definite in float64.
        outer: The outer step.

    Source: Rasmussen & Williams 2006, Gaussian processes for machine learning, equations 2.23 and
    2.30.
    """

    problem: Problem
    jitter: float = 1e-6
    outer: Outer = field(default_factory=lambda: Outer(step_size=1e-2))

    def initial(self, rng: np.random.Generator) -> Params:
        """Returns the logarithms of a, l and s."""
        return {n: torch.zeros(()) for n in ("log_amplitude", "log_length")} | {
            "log_noise": torch.tensor(math.log(0.1))
        }

    def log_likelihood(self, params: Params, inputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the log-density (N,) [nats] of targets (N, M, 1)."""
        own = _double(params)
        values = inputs.double(), targets.double().squeeze(-1)
        return gaussian_process.log_likelihood(own, *values, self.jitter)

    def loss(self, params: Params, tasks: Tasks, rng: np.random.Generator) -> Tensor:
        """Returns the mean negative log-likelihood of an example."""
        inputs = torch.cat([tasks.support_x, tasks.query_x], dim=1)
        targets = torch.cat([tasks.support_y, tasks.query_y], dim=1)
        return -self.log_likelihood(params, inputs, targets).mean() / inputs.shape[1]

    def predict(self, params: Params, tasks: Tasks, num_steps: int) -> list[Tensor]:
        """Returns the mean of the prior, zero, and that of the posterior."""
        known = tasks.support_x.double(), tasks.support_y.double().squeeze(-1)
        queries = tasks.query_x.double()
        found = gaussian_process.posterior(_double(params), *known, queries, self.jitter)
        after = found.mean.unsqueeze(-1)
        outputs = (torch.zeros_like(after), after)
        return [output.to(tasks.query_x.dtype) for output in outputs]


def _double(params: Params) -> Params:
    return {name: value.double() for name, value in params.items()}
