"""The inner loop with any loss: gradient steps of N tasks at once, differentiable by autograd.

The inner loop of the robots' MAML (metarl/learners/maml/inner_loop.py) multiplies with Jacobians
that are written by hand for policies and their surrogate losses. Here the loss is a function of
parameters, and autograd differentiates through the steps. Both share the step itself (`descend`),
with step sizes by parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.learners.maml.inner_loop import Rate, descend

Loss = Callable[[Params], Tensor]
"""Losses (N,) of parameters (N, *shape), each task's at its own."""

Order = Literal[0, 1, 2]
"""Derivatives through a step: none (0, for predictions), as if its gradient did not depend on the
parameters (1, first-order MAML), or all (2)."""


def adapt(loss: Loss, start: Params, rates: Sequence[Rate], order: Order) -> list[Params]:
    """Takes gradient steps on every task.

        theta_{k+1} = theta_k - alpha_k * grad L(theta_k)

    Args:
        loss: L.
        start: theta_0, each value (N, *shape).
        rates: alpha_k; parameters without a rate stay.
        order: Derivatives through the steps.

    Returns:
        theta_0 .. theta_K.

    Source: Finn et al. 2017 (arXiv:1703.03400).
    """
    points = [start]
    for rate in rates:
        names = list(rate) if isinstance(rate, dict) else list(start)
        found = task_gradient(loss, points[-1], names, order)
        points.append(descend(points[-1], rate, found))
    return points


def task_gradient(loss: Loss, point: Params, names: Sequence[str], order: Order) -> Params:
    """Returns the gradient of every task's loss at its own parameters, each (N, *shape).

    Args:
        loss: L.
        point: (N, *shape).
        names: Parameters to differentiate by.
        order: 2 keeps the graph of the gradient, others detach it.
    """
    with torch.enable_grad():
        if order < 2:
            point = {n: v.detach() for n, v in point.items()}
        own = {n: point[n] if point[n].requires_grad else _leaf(point[n]) for n in names}
        values = torch.autograd.grad(
            loss({**point, **own}).sum(), list(own.values()), create_graph=order == 2
        )
    return dict(zip(own, values, strict=True))


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_()
