"""What every environment checks of what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def checked_tasks(spec: Any, tasks: np.ndarray) -> np.ndarray:
    """Returns tasks (N, D) in float64.

    Raises:
        ValueError: They are not (N, D) or not finite; names the environment.
    """
    tasks, size = np.asarray(tasks, dtype=float), len(spec.tasks.variables)
    if tasks.ndim != 2 or tasks.shape[1] != size or not np.isfinite(tasks).all():
        raise ValueError(f"{spec.name}: tasks must be finite and (N, {size}), got {tasks.shape}")
    return tasks


def check_streams(spec: Any, num_rows: int | None, rngs: Sequence[np.random.Generator]) -> None:
    """Checks what reset is given.

    Raises:
        RuntimeError: num_rows is None: no tasks were set.
        ValueError: There is not one stream a row.
    """
    if num_rows is None:
        raise RuntimeError(f"{spec.name}: call set_tasks before reset")
    if len(rngs) != num_rows:
        raise ValueError(f"{spec.name}: {num_rows} rows need as many streams, got {len(rngs)}")


def checked_rows(
    spec: Any,
    ready: bool,
    rows: np.ndarray,
    rngs: Sequence[np.random.Generator],
    tasks: np.ndarray | None,
) -> np.ndarray | None:
    """Checks what reset_rows is given and returns tasks (rows.sum(), D) in float64, or None.

    Raises:
        RuntimeError: Not ready: no tasks were set.
        ValueError: There is not one stream, or not one task, a row of the mask.
    """
    num_rows = int(rows.sum())
    check_streams(spec, num_rows if ready else None, rngs)
    if tasks is None:
        return None
    tasks = checked_tasks(spec, tasks)
    if len(tasks) != num_rows:
        raise ValueError(f"{spec.name}: {num_rows} rows need as many tasks, got {len(tasks)}")
    return tasks
