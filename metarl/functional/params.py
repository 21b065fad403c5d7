"""Operations on tensors by name: parameters, gradients and saved states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from metarl.core.rollout import Params


def leaves(params: Params) -> Params:
    """Returns detached copies that collect gradients."""
    return {name: value.detach().clone().requires_grad_() for name, value in params.items()}


def repeat(params: Params, num_tasks: int) -> Params:
    """Returns the same parameters (*shape) for every task, as views (N, *shape)."""
    return {n: v.expand(num_tasks, *v.shape) for n, v in params.items()}


def flatten(params: Params) -> Tensor:
    """Concatenates all values into a vector (P,)."""
    return torch.cat([v.reshape(-1) for v in params.values()])


def unflatten(vector: Tensor, like: Params) -> Params:
    """Returns views of a vector (P,) in the shapes of other parameters."""
    parts = vector.split([v.numel() for v in like.values()])
    return {n: part.view_as(v) for (n, v), part in zip(like.items(), parts, strict=True)}


def to_cpu(values: Params) -> Params:
    """Returns values on the CPU; those of a GPU arrive in one transfer for each dtype."""
    away = {n: v.detach() for n, v in values.items() if v.device.type != "cpu"}
    moved: Params = {}
    for dtype in {v.dtype for v in away.values()}:
        own = {n: v for n, v in away.items() if v.dtype == dtype}
        try:
            moved |= unflatten(flatten(own).cpu(), own)
        except torch.OutOfMemoryError:  # one by one they need no GPU memory
            moved |= {n: v.cpu() for n, v in own.items()}
    return {n: moved.get(n, v) for n, v in values.items()}


def norm(values: Params) -> float:
    """Returns the Euclidean norm of all values together; waits for a GPU once."""
    squares = torch.stack([v.detach().double().square().sum() for v in values.values()])
    return sum(squares.tolist()) ** 0.5


def check_gradient(
    gradient: Params, first_task: int, name_row: Callable[[int], str] = "task {}".format
) -> None:
    """Raises if gradients (n, *shape) are not finite; see `check_finite`.

    Raises:
        FloatingPointError: Names the task and the parameter.
    """
    check_finite(gradient, first_task, "the gradient of {} is not finite", name_row)


def check_finite(
    values: Params,
    first_task: int,
    message: str,
    name_row: Callable[[int], str] = "task {}".format,
) -> None:
    """Raises if values (n, *shape) are not finite.

    Args:
        values: By the name of the parameter.
        first_task: The task of row 0.
        message: With {} for the name of the parameter.
        name_row: Maps a row, counted from that of task 0, to its name.

    Raises:
        FloatingPointError: Names the task and the parameter.
    """
    each = {n: v.detach().isfinite().flatten(1).all(dim=1) for n, v in values.items()}
    if bool(torch.stack(list(each.values())).all()):  # the one wait for a GPU
        return
    for name, finite in each.items():
        if not bool(finite.all()):
            row = first_task + int((~finite).nonzero()[0])
            raise FloatingPointError(f"{name_row(row)}: {message.format(repr(name))}")


def find_non_finite(values: Mapping[str, Tensor]) -> str | None:
    """Returns the name of the first tensor that is not finite, None if all are."""
    return next((name for name, v in values.items() if not bool(v.isfinite().all())), None)


def check_updated(values: Mapping[str, Tensor]) -> None:
    """Raises if a tensor of a learner's state (...) is not finite after an update.

    Args:
        values: By name, on one device; none are finite.

    Raises:
        FloatingPointError: Names the tensor.
    """
    each = {n: v.detach().isfinite().all() for n, v in values.items()}
    if not each or bool(torch.stack(list(each.values())).all()):  # the one wait for a GPU
        return
    name = next(name for name, is_finite in each.items() if not is_finite)
    raise FloatingPointError(f"{name!r} is not finite after the update; lower the step size")


def total(parts: Iterable[Params]) -> Params:
    """Returns the sum of parameters, by name."""
    first, *others = parts
    result = dict(first)
    for part in others:
        result = {n: v + part[n] for n, v in result.items()}
    return result


def check_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raises if a saved state does not fit the state that a learner expects.

    Raises:
        ValueError: A tensor is missing, has another shape or is not finite; names it.
    """
    for name, value in expected.items():
        given = state.get(name)
        if given is None or given.shape != value.shape:
            problem = "missing" if given is None else f"of shape {tuple(given.shape)}"
            raise ValueError(f"{name!r} is {problem}, expected shape {tuple(value.shape)}")
    if name := find_non_finite({name: state[name] for name in expected}):
        raise ValueError(f"{name!r} is not finite")
