"""The gradient of a minibatch, whose rows the processes of a group divide among themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from metarl.core.machine.parallel import Group

Gradient = Sequence[Tensor | None]
"""Of the parameters, in their order; None for one that the loss does not depend on."""

Differentiate = Callable[[Tensor], tuple[Gradient, Tensor]]
"""Maps rows (B,) to the gradient of a mean over their steps, and to further means over them."""


def split_gradient(
    differentiate: Differentiate, count: Callable[[Tensor], int], rows: Tensor, group: Group
) -> tuple[list[Any], Tensor]:
    """Returns the gradient of a mean over the steps of a minibatch, and further means.

        g = sum_p n_p / n g_p,    n = sum_p n_p

    g_p is the gradient over the n_p steps of the rows of process p, which are every P-th one of P
    processes. The sum is taken by rank, so the result is the same in all processes, and equal to
    that of one process up to rounding.

    Args:
        differentiate: Computes both for rows (B,) that have a step.
        count: Returns the number of the steps of rows (B,).
        rows: Of the minibatch (B,), the same in every process.
        group: The processes.
    """
    if group.size == 1:
        gradient, means = differentiate(rows)
        return list(gradient), means

    def compute() -> tuple[list[Any], Tensor, int] | None:
        own = rows[group.rank :: group.size]
        if not (number := count(own)):
            return None
        gradient, means = differentiate(own)
        return list(gradient), means, number

    parts = [part for part in group.gather(compute) if part is not None]
    total = sum(number for *_, number in parts)
    weights = [number / total for *_, number in parts]
    gradients = zip(*(gradient for gradient, *_ in parts), strict=True)
    means = [w * means for w, (_, means, _) in zip(weights, parts, strict=True)]
    return [_add(own, weights) for own in gradients], torch.stack(means).sum(dim=0)


def _add(values: Gradient, weights: Sequence[float]) -> Tensor | None:
    """Returns the weighted sum of one parameter's gradients, in order."""
    known = [w * v for w, v in zip(weights, values, strict=True) if v is not None]
    return torch.stack(known).sum(dim=0) if known else None
