"""Rows of a batch in which MuJoCo fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

SimulationError: Any = ()
with contextlib.suppress(ModuleNotFoundError):  # an older MuJoCo, which a plug-in may need
    from mujoco.batch import SimulationError


@contextlib.contextmanager
def mark_failures(failed: np.ndarray) -> Iterator[None]:
    """Sets the mask (M,) of rows in which MuJoCo fails; the others run to completion."""
    try:
        yield
    except SimulationError as error:
        failed[error.ids] = True
