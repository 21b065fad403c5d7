"""The limits of task numbers: what an environment can use, which may be more than it draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metarl.core.tasks import Variable


def require_usable(name: str, variables: Sequence[Variable], tasks: np.ndarray) -> None:
    """Requires that an environment of this name can use the numbers of tasks (N, D).

    Raises:
        ValueError: A number is beyond the limits of its variable, or between the whole numbers of
            an index or a count; names task, variable and limits.
    """
    for column, variable in enumerate(variables):
        low, high, is_whole = _find_limits(variable)
        numbers = tasks[:, column]
        usable = (low <= numbers) & (numbers <= high)
        if is_whole:
            usable &= numbers == np.rint(numbers)
        if not usable.all():
            task = int(usable.argmin())
            place = f"{name}: task {task}: {variable.name} = {numbers[task]:g}"
            raise ValueError(f"{place}: must be {_hint(variable)}")


def _find_limits(variable: Variable) -> tuple[float, float, bool]:
    """Returns smallest and largest usable value, and whether it must be whole."""
    if variable.labels:
        return 0.0, len(variable.labels) - 1.0, True
    return *variable.limits, variable.is_whole


def _hint(variable: Variable) -> str:
    low, high, is_whole = _find_limits(variable)
    kind = "a whole number" if is_whole else "a number"
    unit = "" if variable.unit == "1" else f" {variable.unit}"
    ends = f"in [{low:g}, {high:g}]" if np.isfinite(high) else f">= {low:g}"
    names = ", ".join(f"{index} {label}" for index, label in enumerate(variable.labels))
    return f"{kind} {ends}{unit}" + (f" ({names})" if names else "")
