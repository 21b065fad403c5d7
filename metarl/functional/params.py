"""Operations on parameters by name."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from metarl.core.rollout import Params


def leaves(params: Params) -> Params:
    """Detached copies that collect gradients."""
    return {name: value.detach().clone().requires_grad_() for name, value in params.items()}


def repeat(params: Params, num_tasks: int) -> Params:
    """The same parameters (*shape) for every task: views (N, *shape)."""
    return {n: v.expand(num_tasks, *v.shape) for n, v in params.items()}


def flatten(params: Params) -> Tensor:
    """All values one after the other (P,)."""
    return torch.cat([v.reshape(-1) for v in params.values()])


def unflatten(vector: Tensor, like: Params) -> Params:
    """Views of a vector (P,) in the shapes of other parameters."""
    parts = vector.split([v.numel() for v in like.values()])
    return {n: part.view_as(v) for (n, v), part in zip(like.items(), parts, strict=True)}


def check_gradient(slope: Params, first_task: int) -> None:
    """Refuses gradients (n, *shape) that are not finite.

    Raises:
        FloatingPointError: Names the task and the parameter.
    """
    check_finite(slope, first_task, "the gradient of {} is not finite")


def check_finite(values: Params, first_task: int, words: str) -> None:
    """Refuses values (n, *shape) that are not finite.

    Args:
        values: By the name of the parameter.
        first_task: The task of row 0.
        words: What to say of a parameter, {}.

    Raises:
        FloatingPointError: Names the task and the parameter.
    """
    for name, value in values.items():
        finite = value.detach().isfinite().flatten(1).all(dim=1)
        if not bool(finite.all()):
            task = first_task + int((~finite).nonzero()[0])
            raise FloatingPointError(f"task {task}: {words.format(repr(name))}")


def total(parts: Iterable[Params]) -> Params:
    """The sum, by name."""
    first, *others = parts
    result = dict(first)
    for part in others:
        result = {n: v + part[n] for n, v in result.items()}
    return result
