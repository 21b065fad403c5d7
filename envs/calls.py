"""Checks of the calls of a `BatchEnv`, which the environments of metarl share."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np

from metarl.core.env import EnvSpec, check_streams, check_tasks


def is_action(action: np.ndarray, shape: tuple[int | None, int]) -> bool:
    """Returns whether an array has numbers of a shape (M, A)."""
    return action.shape == shape and action.dtype.kind in "fiub"


def check_rows(
    spec: EnvSpec,
    ready: bool,
    rows: np.ndarray,
    rngs: Sequence[np.random.Generator],
    tasks: np.ndarray | None,
) -> np.ndarray | None:
    """Checks the arguments of `reset_rows`; returns tasks (rows.sum(), D) in float64, or None.

    Args:
        spec: Names the environment in messages, and gives D.
        ready: Tasks were set.
        rows: The mask (M,) of the rows to reset.
        rngs: The streams given.
        tasks: The tasks given, if any.

    Raises:
        RuntimeError: Not ready.
        ValueError: There is not one stream, or not one task, for each row of the mask.
    """
    num_rows = int(rows.sum())
    check_streams(spec, num_rows if ready else None, rngs)
    if tasks is None:
        return None
    tasks = check_tasks(spec, tasks)
    if len(tasks) != num_rows:
        raise ValueError(f"{spec.name}: {num_rows} rows need as many tasks, got {len(tasks)}")
    return tasks


class Calls:
    """Refuses calls in the wrong order, and arguments of the wrong shape, before they do anything.

    Attributes:
        num_rows: M; None before `set_tasks`.
        is_reset: Episodes were started since the tasks were set.

    Args:
        spec: Of the environment.
    """

    def __init__(self, spec: EnvSpec):
        self._spec = spec
        self.num_rows: int | None = None
        self.is_reset = False

    def set_tasks(self, tasks: np.ndarray, num_episodes: int) -> np.ndarray:
        """Checks the arguments of `set_tasks`; returns the task of every row (M, D) in float64.

        Raises:
            ValueError: The tasks are not (N, D) or cannot be used, or num_episodes is not a whole
                number >= 1.
        """
        tasks = check_tasks(self._spec, tasks)
        name = self._spec.name
        try:
            count = operator.index(num_episodes)
        except TypeError:
            count = 0
        if count < 1 or isinstance(num_episodes, bool):
            text = "num_episodes must be a whole number >= 1"
            raise ValueError(f"{name}: {text}, got {num_episodes!r:.100}")
        if not len(tasks):
            raise ValueError(f"{name}: tasks must be at least one, got {tasks.shape}")
        rows = np.repeat(tasks, count, axis=0)
        self.num_rows, self.is_reset = len(rows), False
        return rows

    def reset(self, rngs: Sequence[np.random.Generator]) -> None:
        """Checks the streams of `reset`.

        Raises:
            RuntimeError: No tasks were set.
            ValueError: The number of streams is not M.
        """
        check_streams(self._spec, self.num_rows, rngs)

    def reset_rows(
        self,
        rows: np.ndarray,
        rngs: Sequence[np.random.Generator],
        tasks: np.ndarray | None,
    ) -> np.ndarray | None:
        """Checks the arguments of `reset_rows`; returns tasks (rows.sum(), D), or None.

        Raises:
            RuntimeError: No tasks were set.
            ValueError: The mask is not (M,), or the number of streams or of tasks is not that of
                its rows.
        """
        if self.num_rows is not None:
            self._require_mask("rows", rows)
        return check_rows(self._spec, self.num_rows is not None, rows, rngs, tasks)

    def step(self, action: np.ndarray, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Checks the arguments of `step`; returns them as arrays (M, A) and (M,).

        Raises:
            RuntimeError: There was no reset since the tasks were set.
            ValueError: An array has another shape or type; names it.
        """
        if not self.is_reset:
            raise RuntimeError(f"{self._spec.name}: call reset before step")
        action, alive = np.asarray(action), np.asarray(alive)
        shape = (self.num_rows, self._spec.action_size)
        if not is_action(action, shape):
            found = f"{action.dtype} {action.shape}"
            raise ValueError(f"{self._spec.name}: action must be numbers {shape}, got {found}")
        self._require_mask("alive", alive)
        return action, alive

    def close(self) -> None:
        """Forgets the tasks: a closed environment is used again from `set_tasks` on."""
        self.num_rows, self.is_reset = None, False

    def _require_mask(self, name: str, mask: np.ndarray) -> None:
        shape = (self.num_rows,)
        mask = np.asarray(mask)
        if mask.shape != shape or mask.dtype != bool:
            found = f"{mask.dtype} {mask.shape}"
            raise ValueError(f"{self._spec.name}: {name} must be booleans {shape}, got {found}")
